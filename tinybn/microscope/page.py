"""The page: one self-contained HTML file that steps through recordings."""

from __future__ import annotations

import base64
import gzip
import html
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any

from tinybn.microscope.packing import Packer
from tinybn.microscope.steps import steps

if TYPE_CHECKING:
    from tinybn.microscope.recording import Recording


def of_recording(recording: Recording) -> str:
    """A page with one recording, and nothing to switch."""
    return of_recordings([], (), {(): recording})


def of_recordings(
    questions: Sequence[Any],
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
    data = switchable(questions, start, packer, packed)
    return assembled("microscope.html", ["graph.js", "panels.js", "microscope.js"], data)


def switchable(
    questions: Sequence[Any], start: tuple[str, ...], packer: Packer, packed: dict[str, Any]
) -> dict[str, Any]:
    """The data of a page: the questions, the first answer to each, and what to show, by answers."""
    return {
        "questions": [
            {"name": q.name, "label": q.label, "options": [o._asdict() for o in q.options]}
            for q in questions
        ],
        "start": "/".join(start),
        "templates": [{"structure": s, "texts": t} for s, t in packer.templates],
        "packed": packed,
    }


def assembled(skeleton: str, scripts: Sequence[str], data: Any) -> str:
    """The skeleton with style, scripts and data (JSON, gzipped, as base64) put in."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    packed = base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()
    page = _file(skeleton)
    for name, content in (
        ("style", _file("style.css")),
        ("script", "".join(map(_file, ("shared.js", *scripts)))),
        ("data", packed),
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
