"""The chapters as notebooks, from the same source: files to download beside the pages."""

import base64
import re
from pathlib import Path

import jupytext
from nbformat.v4 import new_markdown_cell

PICTURE = re.compile(r"(!\[[^\]]*\]\()([^)\s:]+\.(?:png|svg))(?=[)\s])")
FRAME = re.compile(r"<iframe.*?</iframe>\n*", re.DOTALL)  # Jupyter shows none
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\((?![a-z]+:|#)([^)\s#]+)[^)]*\)")
TYPES = {".png": "image/png", ".svg": "image/svg+xml"}
NOTE = "This notebook is a chapter of tinybn's lesson. It needs `pip install 'tinybn[examples]'`"


def chapters(app):
    """The pages with cells, by the name of their page."""
    files = sorted(Path(app.srcdir, "lesson").glob("*.md"))
    return {f"lesson/{f.stem}": f for f in files if "{code-cell}" in f.read_text("utf-8")}


def imported(path):
    """The modules beside a chapter that it imports, as file names."""
    text = path.read_text("utf-8")
    modules = sorted(path.parent.glob("*.py"))
    return [m.name for m in modules if re.search(rf"^(import|from) {m.stem}\b", text, re.MULTILINE)]


def notebook(path, chapters):
    """A chapter as a notebook: its pictures are inside, and its links lead to other notebooks."""

    def inside(match):
        picture = path.parent / match[2]
        content = base64.b64encode(picture.read_bytes()).decode()
        return f"{match[1]}data:{TYPES[picture.suffix]};base64,{content}"

    def link(match):
        target = path.parent / match[2]
        if target.suffix == ".md" and target in chapters:
            return f"[{match[1]}]({target.stem}.ipynb)"
        return match[1]

    found = jupytext.read(path)
    for cell in found.cells:
        if cell.cell_type == "markdown":
            cell.source = PICTURE.sub(inside, LINK.sub(link, FRAME.sub("", cell.source)))
    beside = "".join(f", and the file `{name}` beside it" for name in imported(path))
    found.cells.insert(0, new_markdown_cell(f"*{NOTE}{beside}.*", id="note"))
    return found


def write(app, error):
    """Write all of them, and the modules that they import."""
    if error or app.builder.format != "html":
        return
    found = chapters(app)
    folder = Path(app.outdir, "notebooks")
    folder.mkdir(exist_ok=True)
    for path in found.values():
        jupytext.write(notebook(path, found.values()), folder / f"{path.stem}.ipynb")
    for path in (app.srcdir / "lesson").glob("*.py"):
        (folder / path.name).write_bytes(path.read_bytes())


def offer(app, pagename, templatename, context, doctree):
    """Tell the template which page has a notebook, and what belongs to it."""
    path = chapters(app).get(pagename)
    if path:
        names = [f"{path.stem}.ipynb", *imported(path)]
        context["notebook"] = [(name, f"notebooks/{name}") for name in names]


def setup(app):
    """For Sphinx."""
    app.connect("html-page-context", offer)
    app.connect("build-finished", write)
    return {"parallel_read_safe": True}
