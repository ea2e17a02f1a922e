"""The page: one self-contained HTML file that steps through recordings."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from importlib import resources
from typing import TYPE_CHECKING, Any

from tinybn.microscope.packing import Packer
from tinybn.microscope.steps import steps

if TYPE_CHECKING:
    from tinybn.microscope.recording import Recording


def of_recording(recording: Recording) -> str:
    """A page with one recording, and nothing to switch."""
    return of_recordings(f"{recording.norm} norm", [], (), {(): recording})


def of_recordings(
    title: str,
    questions: list[Any],
    start: tuple[str, ...],
    recordings: Mapping[tuple[str, ...], Recording],
) -> str:
    """A page that switches between recordings. For the arguments, see `whatif.Bundle`.

    Raises:
        ValueError: a recording has too many values to draw.
    """
    for recording in recordings.values():
        if recording.nodes[recording.x].value.size > 32:
            raise ValueError("a page shows at most 32 values: record one channel or one row")
    packer = Packer()
    packed = {
        "/".join(key): packer.pack({"recording": recording, "steps": steps(recording)})
        for key, recording in recordings.items()
    }
    data = {
        "title": title,
        "questions": [
            {"name": q.name, "label": q.label, "options": [o._asdict() for o in q.options]}
            for q in questions
        ],
        "start": "/".join(start),
        "templates": [{"structure": s, "texts": t} for s, t in packer.templates],
        "recordings": packed,
    }
    return assembled("microscope.html", "microscope.js", data)


def assembled(skeleton: str, script: str, data: Any) -> str:
    """The skeleton with the style, the script and the data put in."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    page = _file(skeleton)
    for name, content in (
        ("style", _file("style.css")),
        ("script", _file("shared.js") + _file(script)),
        ("data", text),
    ):
        page = page.replace(f"{{{{{name}}}}}", content)
    return page


def _file(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def framed(page: str) -> str:
    """The page in a frame of its own, for a notebook."""
    return (
        f'<iframe srcdoc="{html.escape(page)}" title="microscope" '
        'style="width: 100%; height: 60rem; border: 0"></iframe>'
    )
