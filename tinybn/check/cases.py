"""Inputs for comparing fused ops: all layouts of x, and the hard cases that lose digits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from tinybn.check.derivatives import Floats
from tinybn.distributed import ALONE
from tinybn.fusion import FUSED


class Case(NamedTuple):
    """A call of a fused op. The label says the shape of x, and what is special about the call."""

    op: str
    label: str
    inputs: list[Floats]
    static: dict[str, Any]


def cases() -> list[Case]:
    """Inputs for `compare`: at least one case for every op in the registry.

    Raises:
        LookupError: an op has none.
    """
    return _complete([*_norms(), *_others()])


def small_cases(n: int) -> list[Case]:
    """Inputs for `prove`, which reads only their shapes.

    Args:
        n: how many values are normalized together or added up, or how many classes there are.

    Raises:
        LookupError: an op has no case.
    """
    samples, part = (2 if n < 5 else 1), 2 - n % 2

    def case(op: str, what: str, *shapes: tuple[int, ...], **static: Any) -> Case:
        return Case(op, f"n = {n}{what}", [np.zeros(shape) for shape in shapes], static)

    zeros = np.zeros(2)
    grouped = (samples, 2 * part, n // part), (2 * part,), (2 * part,)
    return _complete(
        [
            case("batch_norm", "", (n, 2), (2,), (2,)),
            case("batch_norm", ", with space", (part, 2, n // part), (2,), (2,)),
            case("batch_norm", ", no gamma", (n, 2)),
            case("batch_norm", ", evaluation", (n, 2), (2,), (2,), mean=zeros, var=zeros),
            case("sync_batch_norm", "", (n, 2), (2,), (2,), comm=ALONE),
            case("layer_norm", "", (2, n), (n,), (n,)),
            case("layer_norm", ", no gamma", (2, n)),
            case("rms_norm", "", (2, n), (n,)),
            case("group_norm", "", *grouped, groups=2),
            case("instance_norm", "", (samples, 2, n), (2,), (2,)),
            case("linear", "", (2, n), (n, 2), (2,)),
            case("cross_entropy", "", (2, n), labels=np.array([0, n - 1])),
        ]
    )


def _complete(declared: list[Case]) -> list[Case]:
    if missing := FUSED.keys() - {case.op for case in declared}:
        raise LookupError(f"no cases for {', '.join(sorted(missing))}: declare some in cases.py")
    return declared


CHANNELS, LAST = slice(1, 2), slice(-1, None)

# Op, keywords, the axes of gamma, the index of one part that is normalized together, shapes of x.
# The hard cases use the first shape.
NORMS: list[tuple[str, dict[str, Any], slice, Any, list[tuple[int, ...]]]] = [
    ("batch_norm", {}, CHANNELS, np.s_[:, :1],
     [(6, 4), (2, 3), (6, 1), (3, 4, 5), (2, 3, 2, 2), (64, 32)]),
    ("sync_batch_norm", {"comm": ALONE}, CHANNELS, np.s_[:, :1], [(6, 4), (2, 3), (2, 3, 2, 2)]),
    ("layer_norm", {}, LAST, np.s_[:1], [(6, 4), (6, 2), (1, 3), (2, 3, 4), (64, 32)]),
    ("layer_norm", {"axis": (-2, -1)}, slice(-2, None), np.s_[:1], [(4, 2, 3)]),
    ("rms_norm", {}, LAST, np.s_[:1], [(6, 4), (6, 1), (2, 3, 4), (64, 32)]),
    ("group_norm", {"groups": 2}, CHANNELS, np.s_[:1],
     [(6, 4), (3, 4, 5), (2, 4, 2, 2), (16, 8, 8)]),
    ("instance_norm", {}, CHANNELS, np.s_[:1, :1],
     [(3, 4, 5), (2, 3, 2), (2, 3, 2, 2), (16, 8, 8)]),
]  # fmt: skip


def _norms() -> Iterator[Case]:
    for op, static, params, part, shapes in NORMS:
        for shape in shapes:
            x, *affine = _draw(shape, shape[params], shape[params])
            affine[0].flat[0] = 0
            affine = affine[:1] if op == "rms_norm" else affine
            yield Case(op, f"{shape}", [x, *affine], static)
            if shape == shapes[0]:
                constant = x.copy()
                constant[part] = 0.5
                yield Case(op, f"{shape}, no gamma", [x], static)
                yield Case(op, f"{shape}, mean 1e4", [x + 1e4, *affine], static)
                yield Case(op, f"{shape}, scale 1e-3", [x * 1e-3, *affine], static)
                yield Case(op, f"{shape}, a constant part", [constant, *affine], static)


def _others() -> Iterator[Case]:
    x, gamma, beta, mean, deviation = _draw((6, 4), (4,), (4,), (4,), (4,))
    given = {"mean": mean, "var": deviation**2}
    yield Case("batch_norm", "(6, 4), evaluation", [x, gamma, beta], given)
    for shape, out in (((6, 4), 3), ((2, 3, 4), 2), ((1, 1), 1), ((64, 32), 16)):
        x, weight, bias = _draw(shape, (shape[-1], out), (out,))
        yield Case("linear", f"{shape} to {out}", [x, weight, bias], {})
        yield Case("linear", f"{shape} to {out}, no bias", [x, weight], {})
    for shape in ((6, 3), (2, 2), (3, 1), (64, 10)):
        (z,) = _draw(shape)
        labels = {"labels": np.arange(shape[0]) * 7 % shape[1]}
        yield Case("cross_entropy", f"{shape}", [z], labels)
        yield Case("cross_entropy", f"{shape}, logits of 30", [z * 30], labels)


def _draw(*shapes: tuple[int, ...]) -> list[Floats]:
    rng = np.random.default_rng([len(shapes), *shapes[0]])
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
