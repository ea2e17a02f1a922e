"""What a page can switch: questions and their possible answers."""

from __future__ import annotations

from typing import NamedTuple


class Option(NamedTuple):
    """One answer to a question: its value in the key of a recording, its label, a sentence."""

    value: str
    label: str
    say: str


class Question(NamedTuple):
    """What can be switched."""

    name: str
    label: str
    options: list[Option]


NORM = Question(
    "norm",
    "norm",
    [
        Option("batch", "batch", "Batch norm: every ingredient over the batch."),
        Option("layer", "layer", "Layer norm: every row by itself, with one γ per value."),
        Option("rms", "RMS", "RMS norm: like layer norm, but no mean is subtracted."),
    ],
)
UPSTREAM = Question(
    "upstream",
    "upstream dy",
    [
        Option("first", "first only", "Only the first value of y matters: dy = 1, 0, 0, …"),
        Option(
            "ones",
            "ones",
            "L = Σ y. After batch norm this is always n β, whatever x is: dx is 0 up to "
            "rounding, and a "
            "check with this seed is blind.",
        ),
        Option(
            "squares",
            "Σ y²",
            "L = Σ y² is part of the graph now. After batch norm it hardly depends on x: dx is "
            "of the "
            "order of ε.",
        ),
        Option("random", "random", "A random upstream gradient: what a gradient check should use."),
    ],
)
EPS = Question(
    "eps",
    "ε",
    [
        Option("0", "0", "No ε: exact, as long as not all values are equal."),
        Option("1e-5", "10⁻⁵", "The usual ε."),
        Option("0.1", "0.1", "A large ε: x̂ has a variance below 1, and x̂ · dx is no longer 0."),
    ],
)
STATISTICS = Question(
    "statistics",
    "μ and σ²",
    [
        Option("computed", "computed", "μ and σ² are functions of x, as they are."),
        Option(
            "constant",
            "constants",
            "What if they were constants? Two paths are gone, and dx is wrong for training. In "
            "evaluation, it is right.",
        ),
    ],
)
FORM = Question(
    "form",
    "recorded as",
    [
        Option("primitive", "primitives", "The composition: one node per primitive op."),
        Option("fused", "one fused op", "The closed form: one node for the whole norm."),
    ],
)
VALUES = Question(
    "values",
    "values",
    [
        Option("2,10,6", "2, 10, 6", "The three cookies."),
        Option(
            "2,14,6",
            "2, 14, 6",
            "Only the second cookie changes. So do μ and σ², and therefore the gradient of the "
            "first.",
        ),
        Option(
            "2,10",
            "2, 10",
            "In batch norm, two values become ±1, whatever they are. So with ε = 0 nothing is "
            "left of "
            "dx.",
        ),
    ],
)
