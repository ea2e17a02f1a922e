"""Prove that the closed form of a fused op equals its composition, for all numbers.

The programs of both are recorded, and the printed programs run on arrays of symbols. At each order
these must be equal, as rational functions of x, γ, β, ε, dy and the roots s, where s² = σ² + ε:

    order 0   the outputs of the closed form and of the composition
    order 1   the gradients of Σ dy · output by the closed form, by the rules of the composition,
              and by SymPy
    order 2   the gradients of Σ w · (the gradients) by the engine, and by SymPy, which
              differentiates the gradients of the closed form; and so on

This proves the formulas, the rules and the walk, for the shapes tried and for all finite numbers
with a positive σ² + ε. It ignores rounding: a constant such as 0.1666… counts as 1/6, and casts
change nothing. If two methods differ, a counterexample in small integers shows it.
"""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from tinybn.check.algebra import EPS, Algebra, Polynomial
from tinybn.check.compare import fused_op, is_float
from tinybn.check.derivatives import derivatives, leaves
from tinybn.check.symbolic import each, filled, run, symbolic
from tinybn.fusion import Fused, FusedOp
from tinybn.modes import use_fused
from tinybn.program import Program, program, without_dead
from tinybn.tensor import Tensor


class Counterexample(NamedTuple):
    """Inputs for which two methods differ.

    Attributes:
        inputs: integers by name; ε is "eps".
        element: the element of a result in which the methods differ, such as d_x[0, 1].
        values: its value by each method: exact numbers of SymPy.
    """

    inputs: dict[str, np.ndarray]
    element: str
    values: dict[str, Any]

    def __str__(self) -> str:
        values = " but ".join(f"{value} by the {method}" for method, value in self.values.items())
        inputs = ", ".join(f"{name} = {array.tolist()}" for name, array in self.inputs.items())
        return f"{self.element} is {values}, for {inputs}"


class Claim(NamedTuple):
    """All methods agree at this order, on inputs of these names and shapes.

    The claim is proved for all numbers, refuted by a counterexample, or neither.
    """

    op: str
    inputs: str
    order: int
    seconds: float
    proved: bool
    counterexample: Counterexample | None = None

    def __str__(self) -> str:
        verdict = "proved" if self.proved else "neither proved nor refuted"
        if self.counterexample:
            verdict = f"refuted: {self.counterexample}"
        return f"{self.op} of {self.inputs}, order {self.order}, {self.seconds:.1f} s: {verdict}"


def prove(
    op: Fused[...] | str,
    inputs: Sequence[Tensor | ArrayLike],
    static: Mapping[str, Any] | None = None,
    *,
    orders: int = 2,
) -> list[Claim]:
    """Prove that a fused op equals its composition, with symbols in place of numbers.

    At second order, a proof for 6 numbers that are normalized together takes seconds, and the time
    doubles with each further number.

    Args:
        op: a fused op, or its name.
        inputs: the op's inputs; only their shapes matter.
        static: the op's keywords. Only the shapes of floating-point arrays matter; eps is a symbol.
        orders: the highest order of derivatives.

    Returns:
        One claim per order, up to the first that is not proved.

    Raises:
        TypeError: the op is not fused, compares numbers, or uses a function that symbolic.py
            does not know.
        ValueError: two methods give results of different shapes.
        ModuleNotFoundError: SymPy is not installed.
    """
    methods = _Methods(fused_op("prove", op), inputs, static or {}, orders)
    claims: list[Claim] = []
    below: list[Any] = []
    for order in range(orders + 1):
        start = time.perf_counter()
        found = {"fused op": methods.by_program(order, closed=True)}
        if order < 2:  # from order 2 on, both differentiate the composition
            found["composition"] = methods.by_program(order, closed=False)
        if order:
            found["derivative"] = methods.by_sympy(order, below)
        below = found["fused op"]
        refuted = methods.difference(found)
        example = methods.counterexample(order, *refuted) if refuted else None
        seconds = time.perf_counter() - start
        claims.append(Claim(methods.op.name, methods.inputs, order, seconds, not refuted, example))
        if refuted:
            break
    return claims


class _Methods:
    """A fused op and its derivatives by each method, as arrays of symbols."""

    def __init__(
        self, op: FusedOp, inputs: Sequence[Any], static: Mapping[str, Any], orders: int
    ) -> None:
        self.op, self.names, self.static = op, op.names[: len(inputs)], dict(static)
        if "eps" in inspect.signature(op.call).parameters:
            self.static["eps"] = EPS
        self.shapes = {x: np.shape(a) for x, a in zip(self.names, inputs, strict=True)}
        arrays = {name: a for name, a in static.items() if hasattr(a, "shape")}
        self.integers = {name: a for name, a in arrays.items() if not is_float(a)}
        self.shapes |= {name: a.shape for name, a in arrays.items() if is_float(a)}
        self.inputs = ", ".join(f"{name} {shape}" for name, shape in self.shapes.items())
        self.weights = [["dy"], *([f"w{k}_{x}" for x in self.names] for k in range(1, orders))]
        self.shapes["dy"] = self.record(0).outputs[0].shape
        for ws in self.weights[1:]:
            self.shapes |= {w: self.shapes[x] for w, x in zip(ws, self.names, strict=True)}
        self.algebra = Algebra(1 + sum(math.prod(shape) for shape in self.shapes.values()))
        symbols = filled(self.shapes, self.algebra.free[1:])
        self.symbols = {name: symbolic(self.algebra, a) for name, a in symbols.items()}

    def step(self, arrays: Mapping[str, Any], order: int) -> list[Tensor]:
        """The output, or the gradients of Σ w · (the results one order below)."""
        keywords = {name: arrays.get(name, value) for name, value in self.static.items()}
        weights = [[arrays[w] for w in ws] for ws in self.weights[:order]]

        def fn(*xs: Tensor) -> Tensor:
            return self.op.call(**dict(zip(self.names, xs, strict=True)), **keywords)

        xs = leaves([arrays[x] for x in self.names])
        *_, results = derivatives(fn, xs, weights, order)
        return [result.detach() for result in results]

    def record(self, order: int) -> Program:
        """The program of `step`."""
        zeros = {name: np.zeros(shape) for name, shape in self.shapes.items()}
        arrays = zeros | self.integers
        return program(lambda arrays: self.step(arrays, order), arrays, passes=without_dead)

    def by_program(self, order: int, *, closed: bool) -> list[Any]:
        """The results of `step`, by the program of the closed form or of the composition."""
        with use_fused(closed):
            recorded = self.record(order)
        return run(recorded, [*(self.symbols | self.integers).values()])

    def by_sympy(self, order: int, below: Sequence[Any]) -> list[Any]:
        """The results of `step`, by differentiating the results one order below."""
        pairs = zip(below, self.weights[order - 1], strict=True)
        total = sum((y * self.symbols[w]).sum() for y, w in pairs).item()
        xs = [self.symbols[name] for name in self.names]
        return [each(lambda x: self.algebra.derivative(total, x), array) for array in xs]

    def difference(
        self, found: Mapping[str, list[Any]]
    ) -> tuple[int, tuple[int, ...], dict[str, Polynomial]] | None:
        """Where two methods first differ: the result, the index, and what each method gives."""
        (ours, results), *others = found.items()
        for other, expected in others:
            for i, (a, b) in enumerate(zip(results, expected, strict=True)):
                if a.shape != b.shape:
                    shapes = f"{a.shape} by the {ours} and {b.shape} by the {other}"
                    raise ValueError(f"{self.op.name}: the shape of result {i} is {shapes}")
                for index in np.ndindex(a.shape):
                    left, right = (self.algebra.polynomial(side[index]) for side in (a, b))
                    if not self.algebra.is_zero(left - right):
                        return i, index, {ours: left, other: right}
        return None

    def values(self, sides: Mapping[str, Polynomial], free: Sequence[int]) -> dict[str, Any] | None:
        """The two sides in numbers; None if they are equal, or not real."""
        numbers = self.algebra.numbers(free)
        if numbers is None:
            return None
        found = {
            method: self.algebra.polynomial(side).as_expr(*numbers)
            for method, side in sides.items()
        }
        a, b = found.values()
        return found if abs((a - b).evalf(30)) > 1e-20 else None

    def counterexample(
        self, order: int, i: int, index: tuple[int, ...], sides: Mapping[str, Polynomial]
    ) -> Counterexample | None:
        """Small integers, as many of them 0 as possible, for which the two sides differ.

        None if there are none, or if the fused op gives a different value for them in float64: it
        may compute with eps before eps meets an array, which hides that eps is a symbol.
        """
        rng = np.random.default_rng(0)
        n = len(self.algebra.free) - 1
        draws = ([1, *rng.integers(-k, k + 1, n).tolist()] for k in range(1, 50))
        free = next((draw for draw in draws if self.values(sides, draw)), None)
        if free is None:
            return None
        for k in range(1, n + 1):
            for smaller in (abs(free[k]), 1, 0) if free[k] else ():
                changed = [*free[:k], smaller, *free[k + 1 :]]
                free = changed if self.values(sides, changed) else free
        exact = self.values(sides, free) or {}
        inputs = filled({"eps": ()} | self.shapes, free)
        floats = {name: a.astype(np.float64) for name, a in inputs.items()} | self.integers
        with use_fused(True):
            computed = self.step(floats | {"eps": 1.0}, order)[i].numpy()[index]
        if not np.isclose(computed, float(exact["fused op"]), rtol=1e-9, atol=1e-12):
            return None
        unused = {w for ws in self.weights[order:] for w in ws} | {"eps"} - self.static.keys()
        numbers = {name: a.astype(np.int64) for name, a in inputs.items() if name not in unused}
        label = f"d_{self.names[i]}" if order else "output"
        return Counterexample(numbers | self.integers, f"{label}{[*index]}", exact)
