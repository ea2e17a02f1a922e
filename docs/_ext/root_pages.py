"""The pages of the site that are files in the root of the repository."""

import re

PAGES = {"readme": "README.md", "experiments": "EXPERIMENTS.md", "contributing": "CONTRIBUTING.md"}
NAMES = {name: f"{page}.md" for page, name in PAGES.items()}
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)\s#]+)")


def moved(match):
    """A link from the root, as a link from docs/."""
    target = match[1]
    if target in NAMES:
        return NAMES[target]
    if target.startswith("docs/"):
        return target.removeprefix("docs/")
    return f"path:../{target}" if target.endswith(".md") else f"../{target}"  # a file to download


def read(app, docname, source):
    """Put the file in the place of its page, and make its links start in docs/."""
    if docname in PAGES:
        path = app.srcdir.parent / PAGES[docname]
        app.env.note_dependency(str(path))
        source[0] = LINK.sub(moved, path.read_text(encoding="utf-8"))


def setup(app):
    """For Sphinx."""
    app.connect("source-read", read)
    return {"parallel_read_safe": True}
