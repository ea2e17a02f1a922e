"""What fused ops are compared on: all layouts of x, and the corners where digits get lost."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tinybn.fusion import FUSED


class Case(NamedTuple):
    """A call of a fused op. label: the shape of x, and what is special about it."""

    op: str
    label: str
    inputs: list[np.ndarray]
    static: dict[str, Any]


def cases() -> list[Case]:
    """At least one for every op in the registry; LookupError names those that have none."""
    return _complete([*_norms(), *_evaluation(), *_linear(), *_cross_entropy()])


def small_cases(n: int) -> list[Case]:
    """The same for proofs, where shapes are all that matters: n values are normalized together, or
    added up, or are classes. LookupError as above.
    """
    samples = 2 if n < 5 else 1
    part = 2 - n % 2
    grouped = [(samples, 2 * part, n // part), (2 * part,), (2 * part,)]
    given = {"mean": np.zeros(2), "var": np.zeros(2)}
    declared: list[tuple[str, str, list[tuple[int, ...]], dict[str, Any]]] = [
        ("batch_norm", "", [(n, 2), (2,), (2,)], {}),
        ("batch_norm", ", with space", [(part, 2, n // part), (2,), (2,)], {}),
        ("batch_norm", ", no gamma", [(n, 2)], {}),
        ("batch_norm", ", evaluation", [(n, 2), (2,), (2,)], given),
        ("layer_norm", "", [(2, n), (n,), (n,)], {}),
        ("layer_norm", ", no gamma", [(2, n)], {}),
        ("rms_norm", "", [(2, n), (n,)], {}),
        ("group_norm", "", grouped, {"groups": 2}),
        ("instance_norm", "", [(samples, 2, n), (2,), (2,)], {}),
        ("linear", "", [(2, n), (n, 2), (2,)], {}),
        ("cross_entropy", "", [(2, n)], {"labels": np.array([0, n - 1])}),
    ]
    return _complete(
        [
            Case(op, f"n = {n}{what}", [np.zeros(shape) for shape in shapes], static)
            for op, what, shapes, static in declared
        ]
    )


def _complete(declared: list[Case]) -> list[Case]:
    if missing := FUSED.keys() - {case.op for case in declared}:
        raise LookupError(f"no cases to compare {', '.join(sorted(missing))} on: declare some here")
    return declared


class _Norm(NamedTuple):
    """shapes of x, the first of which is tried in all corners; where gamma's shape begins and ends
    in them; and one of the parts that are normalized together.
    """

    op: str
    shapes: list[tuple[int, ...]]
    params: slice
    part: Any
    static: dict[str, Any]


CHANNELS, LAST = slice(1, 2), slice(-1, None)
NORMS = [
    _Norm(
        "batch_norm",
        [(6, 4), (2, 3), (6, 1), (3, 4, 5), (2, 3, 2, 2), (64, 32)],
        CHANNELS,
        np.s_[:, :1],
        {},
    ),
    _Norm("layer_norm", [(6, 4), (6, 2), (1, 3), (2, 3, 4), (64, 32)], LAST, np.s_[:1], {}),
    _Norm("layer_norm", [(4, 2, 3)], slice(-2, None), np.s_[:1], {"axis": (-2, -1)}),
    _Norm("rms_norm", [(6, 4), (6, 1), (2, 3, 4), (64, 32)], LAST, np.s_[:1], {}),
    _Norm(
        "group_norm",
        [(6, 4), (3, 4, 5), (2, 4, 2, 2), (16, 8, 8)],
        CHANNELS,
        np.s_[:1],
        {"groups": 2},
    ),
    _Norm(
        "instance_norm",
        [(3, 4, 5), (2, 3, 2), (2, 3, 2, 2), (16, 8, 8)],
        CHANNELS,
        np.s_[:1, :1],
        {},
    ),
]


def _norms() -> list[Case]:
    found = []
    for op, shapes, params, part, static in NORMS:
        for shape in shapes:
            x, gamma, beta = _draw(shape, shape[params], shape[params])
            gamma.flat[0] = 0
            affine = [gamma] if op == "rms_norm" else [gamma, beta]
            found.append(Case(op, f"{shape}", [x, *affine], static))
            if shape != shapes[0]:
                continue
            constant = x.copy()
            constant[part] = 0.5
            found += [
                Case(op, f"{shape}, no gamma", [x], static),
                Case(op, f"{shape}, mean 1e4", [x + 1e4, *affine], static),
                Case(op, f"{shape}, scale 1e-3", [x * 1e-3, *affine], static),
                Case(op, f"{shape}, a constant part", [constant, *affine], static),
            ]
    return found


def _evaluation() -> list[Case]:
    x, gamma, beta, mean, deviation = _draw((6, 4), (4,), (4,), (4,), (4,))
    given = {"mean": mean, "var": deviation**2}
    return [Case("batch_norm", "(6, 4), evaluation", [x, gamma, beta], given)]


def _linear() -> list[Case]:
    found = []
    for shape, out in (((6, 4), 3), ((2, 3, 4), 2), ((1, 1), 1), ((64, 32), 16)):
        x, weight, bias = _draw(shape, (shape[-1], out), (out,))
        found.append(Case("linear", f"{shape} to {out}", [x, weight, bias], {}))
        found.append(Case("linear", f"{shape} to {out}, no bias", [x, weight], {}))
    return found


def _cross_entropy() -> list[Case]:
    found = []
    for shape in ((6, 3), (2, 2), (3, 1), (64, 10)):
        (z,) = _draw(shape)
        labels = {"labels": np.arange(shape[0]) * 7 % shape[1]}
        found.append(Case("cross_entropy", f"{shape}", [z], labels))
        found.append(Case("cross_entropy", f"{shape}, logits of 30", [z * 30], labels))
    return found


def _draw(*shapes: tuple[int, ...]) -> list[np.ndarray]:
    rng = np.random.default_rng([len(shapes), *shapes[0]])
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
