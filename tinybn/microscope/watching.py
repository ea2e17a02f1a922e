"""What `tb.watch` sees of one forward and one backward pass: the ops, and every contribution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from tinybn.fusion import FusedOp
from tinybn.microscope.recording import Floats
from tinybn.microscope.source import formula
from tinybn.modes import current_mode
from tinybn.op import Node
from tinybn.tensor import Tensor
from tinybn.walk import Contribution, contributions

LARGEST = 1024
"""A matrix of local derivatives has at most this many elements."""


Parts: TypeAlias = dict[frozenset[str], Floats]
"""A gradient, split by the landmarks (see `Marks`) that it came by."""


class Made(NamedTuple):
    """A recorded op: its node, its output, and the file, line and text of the formula."""

    node: Node
    value: Floats
    where: str
    code: str


class Added(NamedTuple):
    """A contribution, as recorded. For the attributes, see `Event`."""

    node: Node
    input: int
    source: Node | Tensor
    upstream: Floats
    local: Floats
    is_matrix: bool
    terms: Floats | None
    value: Floats
    total: Floats
    upstream_parts: Parts
    parts: Parts
    by_path: Parts


class Watcher:
    """Collects what runs. Its methods `output` and `contribution` are for `tb.watch`.

    Attributes:
        made: the recorded ops, in order.
        added: the contributions, in order.
        sources: for each recorded op, where its inputs came from (see node.py).
        constants: for each recorded op, the arrays that its rules read.
        seed: what the backward pass starts from.
        parts: the gradient of each node and leaf, split by the landmarks it came by.
    """

    def __init__(self) -> None:
        self.made: list[Made] = []
        self.added: list[Added] = []
        self.sources: dict[Node, Sequence[Any]] = {}
        self.constants: dict[Node, Sequence[Any]] = {}
        self.seed: Floats | None = None
        self.parts: dict[Any, Parts] = {}
        self._totals: dict[Any, Floats] = {}
        self._marks: Marks | None = None
        self._upstream: Parts = {}
        self._split: dict[tuple[Node, int], Parts] = {}

    def output(self, node: Node, array: Any) -> None:
        """Note a recorded op, and the formula that calls it."""
        self.made.append(Made(node, np.array(array), *formula()))
        self.sources[node], self.constants[node] = node.sources or (), node.arrays or []

    def contribution(self, c: Contribution) -> None:
        """Note a contribution, with its local derivative and its parts."""
        if self._marks is None:
            self._marks = Marks([made.node for made in self.made])
            self.seed = np.array(c.upstream)
            self.parts[c.node] = {frozenset(): self.seed}
        upstream, value = np.array(c.upstream), np.array(c.value)
        total = self._totals[c.source] + value if c.source in self._totals else value
        self._totals[c.source] = total
        local, is_matrix = _local(c)
        terms = None if is_matrix else _terms(upstream, local, value)
        before, parts, by_path = self._parts(c)
        self.added.append(
            Added(c.node, c.input, c.source, upstream, local, is_matrix, terms, value, total,
                  before, parts, by_path)
        )  # fmt: skip

    def _parts(self, c: Contribution) -> tuple[Parts, Parts, Parts]:
        """The parts of the upstream gradient, of the contribution, and of the total so far.

        A rule is linear in the upstream gradient, so each part of it contributes on its own.
        """
        assert self._marks is not None
        if c.node in self.parts:
            self._upstream = self.parts.pop(c.node)
            new = self._upstream
        else:  # another input of the same op
            new = {}
        for path, g in new.items():
            for i, source, value in contributions(c.node, g, None, current_mode()):
                by = path | self._marks.passed(source)
                split = self._split.setdefault((c.node, i), {})
                split[by] = split[by] + value if by in split else np.array(value)
        parts = self._split.pop((c.node, c.input))
        known = self.parts.setdefault(c.source, {})
        for path, value in parts.items():
            known[path] = known[path] + value if path in known else value
        splits = self._marks.splits(c.source)
        return (self._upstream, parts, dict(known)) if splits else ({}, {}, {})


class Marks:
    """Where the paths of a norm part: at x̂ = d / √(σ² + ε), and at d = x - μ.

    mean: the node of μ. variance: the nodes from d² to the root. trunk: x̂ and what follows.
    """

    def __init__(self, nodes: list[Node]) -> None:
        self.mean: set[Any] = set()
        self.variance: set[Any] = set()
        self.trunk: set[Any] = set()
        self.x = (nodes[0].sources or (None,))[0]
        for node in nodes:
            sources = node.sources or ()
            if node.op.name == "multiply" and sources[0] is sources[1] and not self.trunk:
                self.variance.add(node)
            elif any(s in self.trunk for s in sources) or node.op.name == "divide":
                self.trunk.add(node)
            elif any(s in self.variance for s in sources):
                self.variance.add(node)
            elif node.op.name == "mean":
                self.mean.add(node)
        self.fused = any(isinstance(node.op, FusedOp) for node in nodes)

    def passed(self, source: Any) -> frozenset[str]:
        """The landmark that a gradient passes when it reaches this node."""
        marks = {"mean": self.mean, "variance": self.variance}
        return frozenset(name for name, nodes in marks.items() if source in nodes)

    def splits(self, source: Any) -> bool:
        """Whether a gradient that reaches this node or leaf has taken a path already."""
        is_parameter = isinstance(source, Tensor) and source is not self.x
        return not (self.fused or source in self.trunk or is_parameter)


def _local(c: Contribution) -> tuple[Floats, bool]:
    """The local derivative as factors of the upstream gradient, or else as a matrix.

    A rule is linear in the upstream gradient. Given ones, it returns the factors.
    """
    ones = np.ones_like(c.upstream)
    shape = c.value.shape
    if not isinstance(c.node.op, FusedOp):
        factors = np.array(_rule(c, ones))
        if _fits(c.upstream, factors, c.value):
            return factors, False
    if ones.size * c.value.size > LARGEST:
        return np.empty((0, 0), c.value.dtype), True
    units = np.eye(ones.size, dtype=ones.dtype).reshape(-1, *ones.shape)
    return np.array([np.ravel(summed(_rule(c, unit), shape)) for unit in units]), True


def _fits(upstream: Floats, factors: Floats, value: Floats) -> bool:
    """Whether upstream · factors, summed over broadcast axes, is the contribution."""
    try:
        terms = np.float64(upstream) * factors
        found, scale = summed(terms, value.shape), summed(np.abs(terms), value.shape)
    except ValueError:  # these shapes do not even broadcast
        return False
    tolerance = 0.01 if np.float16 in (upstream.dtype, value.dtype) else 1e-4
    off = np.abs(found - value)
    return bool(((off <= tolerance * scale) | np.isnan(off)).all())


def _rule(c: Contribution, g: Floats) -> Any:
    """What the rule of the contribution gives for another upstream gradient, not summed."""
    assert c.node.arrays is not None
    needed = [i == c.input for i in range(len(c.node.arrays))]
    with np.errstate(all="ignore"):
        found = c.node.op.gradients(needed, g, c.node.output, c.node.arrays, c.node.static)
    return found[c.input]


def _terms(upstream: Floats, local: Floats, value: Floats) -> Floats | None:
    """upstream · local, if more is left to do: to sum it over broadcast axes."""
    terms = np.asarray(upstream * local)
    return None if terms.size == value.size else terms


def summed(terms: Floats, shape: tuple[int, ...]) -> Floats:
    """The terms summed over the axes along which an array of this shape was broadcast."""
    new = terms.ndim - len(shape)
    axes = [i for i in range(terms.ndim) if i < new or shape[i - new] != terms.shape[i]]
    return np.asarray(terms.sum(tuple(axes))).reshape(shape)
