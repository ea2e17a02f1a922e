"""Pages that are files in the root of the repository, and links that lead out of docs/."""

import re
from os.path import normpath, relpath
from pathlib import Path

PAGES = {"readme": "README.md", "experiments": "EXPERIMENTS.md", "contributing": "CONTRIBUTING.md"}
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#|<)([^)\s#]+)(?=[)#\s])")


def read(app, docname, source):
    """Put a file of the root in the place of its page, and make all links start at the page."""
    root, page = app.srcdir.parent, Path(app.env.doc2path(docname))
    written = root / PAGES[docname] if docname in PAGES else page
    if written != page:
        app.env.note_dependency(str(written))
        source[0] = written.read_text(encoding="utf-8")
    homes = {root / file: app.srcdir / f"{name}.md" for name, file in PAGES.items()}

    def moved(match):
        target = Path(normpath(written.parent / match[1]))
        target = homes.get(target, target)
        link = Path(relpath(target, page.parent)).as_posix()
        outside = not target.is_relative_to(app.srcdir)
        return f"path:{link}" if outside and target.suffix == ".md" else link  # to download

    source[0] = LINK.sub(moved, source[0])


def setup(app):
    """For Sphinx."""
    app.connect("source-read", read)
    return {"parallel_read_safe": True}
