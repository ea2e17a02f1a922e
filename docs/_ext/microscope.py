"""The microscope's pages, which the chapters embed: made anew by the command that users have."""

import subprocess
import sys

from sphinx.errors import SphinxError

PAGES = {"cookie.html": [], "ladder.html": ["--view", "ladder"]}


def write(app, error):
    """Write the pages into the static files of the site."""
    if error or app.builder.format != "html":
        return
    folder = app.outdir / "_static" / "microscope"
    folder.mkdir(parents=True, exist_ok=True)
    for name, options in PAGES.items():
        command = [sys.executable, "-m", "tinybn", "microscope", "--out", name, *options]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        if done.returncode:
            raise SphinxError(f"the microscope could not write {name}:\n{done.stderr}")


def setup(app):
    """For Sphinx."""
    app.connect("build-finished", write, priority=900)
    return {"parallel_read_safe": True}
