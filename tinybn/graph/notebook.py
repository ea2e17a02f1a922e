"""What a notebook shows of a Tensor: its numbers, and its graph if it has one."""

from __future__ import annotations

from html import escape

from tinybn.graph.history import vertices
from tinybn.graph.svg import MOST, drawn
from tinybn.tensor import Tensor

SMALL = 12
"""A graph with more boxes is folded: a click opens it."""


def html(tensor: Tensor) -> str:
    """The Tensor as text, with a picture of its graph below."""
    text = f"<pre>{escape(repr(tensor))}</pre>"
    node = tensor._node
    if node is None:
        return text
    if node.sources is None:
        return f"{text}<p>A backward pass has freed its graph.</p>"
    try:
        boxes = vertices(tensor)
    except RuntimeError:  # a backward pass from elsewhere has freed a part of it
        return f"{text}<p>A backward pass has freed a part of its graph.</p>"
    fold = "" if len(boxes) > SMALL else " open"
    size = f"{len(boxes)} boxes" if len(boxes) <= MOST else f"{MOST} of {len(boxes)} boxes"
    return f"{text}<details{fold}><summary>graph: {size}</summary>{drawn(boxes, MOST)}</details>"


def show_in_notebooks() -> None:
    """Give Tensors the method that IPython and Jupyter look for."""
    Tensor._repr_html_ = html  # type: ignore[attr-defined]
