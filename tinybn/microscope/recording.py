"""A recording: one forward and one backward pass as data.

`Recording.json()` writes it, and `Recording.from_json(text)` reads it back, bit for bit. In JSON,
every class of this file is an object with its attributes, and an array is {"dtype": …, "shape": …,
"data": …} with its numbers in C order. NaN and infinities are the strings "nan", "inf" and "-inf".
VERSION changes whenever a reader would have to change.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tinybn.microscope import page, terminal
from tinybn.microscope.encoding import plain, rebuilt

VERSION = 1

Floats: TypeAlias = NDArray[np.floating[Any]]

PATHS = ("direct", "mean", "variance", "both")
"""How x reaches the output of a norm, and how a gradient comes back: directly, through μ,
through σ² (in RMS norm through the mean square), or through μ and then σ²."""


@dataclass(frozen=True, eq=False)
class Node:
    """A leaf, a constant or a recorded op.

    Attributes:
        op: "leaf", "constant" or the name of the op.
        name: the name in the program, such as x_hat.
        symbol: the name on paper, such as x̂.
        formula: how it is computed, such as d / √(σ² + ε).
        inputs: the numbers of the nodes that it reads, by position.
        value: the result of the forward pass.
        gradient: the result of the backward pass; None if it needs none.
        waits: how many contributions its gradient consists of.
        inside: the number of the node in whose box it is drawn, which may be its own.
        where, code: the file and line that called the op, and the text of that line.
        lines: the numbers of the lines of the program that compute it.
        column, row: its place in a drawing. Row 0 is the way from x to the output.
    """

    op: str
    name: str
    symbol: str
    formula: str
    inputs: list[int]
    value: Floats
    gradient: Floats | None
    waits: int
    inside: int
    where: str
    code: str
    lines: list[int]
    column: int
    row: int


@dataclass(frozen=True, eq=False)
class Event:
    """One contribution: what an op adds to the gradient of one of its inputs.

    Attributes:
        node: the number of the op's node.
        input: the position of the input.
        to: the number of the node that is the input.
        upstream: the gradient of the op's output.
        local: the local derivative, in the broadcast shape of `upstream` and the input. For an op
            whose elements mix, such as a fused op, the matrix ∂output/∂input.
        is_matrix: whether `local` is that matrix.
        terms: upstream · local, if these are then summed over broadcast axes; otherwise None.
        value: the contribution.
        total: the sum of the contributions to this gradient so far.
        awaited: how many more contributions this gradient waits for.
        upstream_parts: `upstream`, split by the path that it came by so far.
        parts: `value`, split by the path that the gradient came by (see PATHS); empty if unknown.
            The parts of one contribution add up to it up to rounding.
        by_path: `total`, split likewise.
        rule, rule_where: the gradient rule as source, and its file and line.
        lines: the numbers of the lines of the program that compute it and add it.
    """

    node: int
    input: int
    to: int
    upstream: Floats
    local: Floats
    is_matrix: bool
    terms: Floats | None
    value: Floats
    total: Floats
    awaited: int
    upstream_parts: dict[str, Floats]
    parts: dict[str, Floats]
    by_path: dict[str, Floats]
    rule: str
    rule_where: str
    lines: list[int]


@dataclass(frozen=True, eq=False)
class Check:
    """What the gradient of x is compared with.

    Attributes:
        shape: the shape of the gradient.
        same_shape: whether x and the reference have it, too.
        reference: "closed form" or, for a recording of the fused op, "composition".
        other: the gradient of x by the reference.
        off: the largest distance from the reference.
        differences: the gradient by finite differences in float64.
        differences_off: the largest distance from the finite differences.
        sum: Σ dx for each group that is normalized together.
        along: x̂ · dx for each group.
        paths_off: the largest distance between dx and the sum of its paths; None if not split.
    """

    shape: list[int]
    same_shape: bool
    reference: str
    other: Floats
    off: float
    differences: Floats
    differences_off: float
    sum: Floats
    along: Floats
    paths_off: float | None


@dataclass(frozen=True, eq=False)
class Recording:
    """A norm, recorded from its input to the gradients of x, gamma and beta. See `record`.

    Attributes:
        version: of this format.
        subject: what x is, in words.
        norm: "batch", "layer" or "rms".
        form: "primitive" (the composition) or "fused" (the closed form).
        statistics: "computed", or "constant" if μ and σ² were given.
        upstream: what the backward pass starts from, in words.
        eps: ε.
        labels: what to call the elements of x, in C order.
        nodes: leaves and constants, then ops in the order in which they ran.
        events: the contributions, in the order in which they were made.
        x, output: the numbers of the nodes of x and of what was differentiated.
        seed: the gradient of the output that the backward pass starts from.
        paths: the gradient of x by the path it came by (see PATHS); empty for a fused op.
        check: comparisons.
        program: the program that autodiff wrote, line by line. Its numbers of lines are indices
            into this list.
        provenance: the command, the seed, the versions and the dtype.
    """

    version: int
    subject: str
    norm: str
    form: str
    statistics: str
    upstream: str
    eps: float
    labels: list[str]
    nodes: list[Node]
    events: list[Event]
    x: int
    output: int
    seed: Floats
    paths: dict[str, Floats]
    check: Check
    program: list[str]
    provenance: dict[str, str]

    @property
    def gradient(self) -> Floats:
        """The gradient of x."""
        found = self.nodes[self.x].gradient
        assert found is not None
        return found

    def json(self) -> str:
        """The recording as JSON."""
        return json.dumps(plain(self), ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Recording:
        """The recording that `json` wrote. ValueError if it has another version."""
        found = json.loads(text)
        if not isinstance(found, dict) or found.get("version") != VERSION:
            raise ValueError(f"expected a recording of version {VERSION}")
        recording: Recording = rebuilt(cls, found)
        return recording

    def html(self) -> str:
        """A self-contained page that steps through the recording."""
        return page.of_recording(self)

    def text(self) -> str:
        """All steps, for a terminal."""
        return terminal.of_recording(self)

    def __str__(self) -> str:
        return self.text()

    def __repr__(self) -> str:
        return (
            f"<Recording: {self.norm} norm ({self.form}), {len(self.nodes)} nodes, "
            f"{len(self.events)} contributions>"
        )

    def _repr_html_(self) -> str:
        return page.framed(self.html())
