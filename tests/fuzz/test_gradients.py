"""Random graphs: every gradient up to order 3 against finite differences; eager against compiled."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

import tinybn as tb
from fuzz.examples import share
from fuzz.graphs import TABLE, Graph, graphs

pytestmark = pytest.mark.host("tests/on_cupy has the agreement of both backends")


def ladder(graph, arrays, order, seed):
    """s₀ = a mixture of the graph's values, sₖ = Σ dₖ · ∇sₖ₋₁ with random dₖ; and the last ∇s."""
    rng = np.random.default_rng([seed, 7])
    xs = [tb.tensor(a, requires_grad=True) for a in arrays]
    s = graph.total(xs)
    gradients: list[np.ndarray] = []
    for k in range(order):
        gs = [None] * len(xs)
        if isinstance(s, tb.Tensor) and s.requires_grad:
            gs = tb.grad(s, xs, create_graph=k + 1 < order, allow_unused=True)
        gradients = [
            np.zeros(x.shape) if g is None else g.numpy() for x, g in zip(xs, gs, strict=True)
        ]
        for g, x in zip(gs, xs, strict=True):
            assert g is None or (g.dtype, g.shape) == (x.dtype, x.shape)
        directions = [rng.standard_normal(x.shape) for x in xs]
        s = sum((g * d).sum() for g, d in zip(gs, directions, strict=True) if g is not None)
    return float(s), gradients


def differences(f, steps=9, first=2.0**-4):
    """The slope of f at 0 by central differences, with its error; None at a kink, or in doubt."""
    here, previous, best, error = f(0.0), [], np.nan, np.inf
    gaps = []
    for k in range(steps):
        h = first / 2**k
        up, down = f(h), f(-h)
        row = [(up - down) / (2 * h)]
        for j, older in enumerate(previous, start=1):
            row.append(row[-1] + (row[-1] - older) / (4**j - 1))
            off = max(abs(row[-1] - row[-2]), abs(row[-1] - older))
            if off < error:
                best, error = row[-1], off
        previous = row
        gaps.append(abs(up - 2 * here + down) / h)
    scale = abs(best) + abs(here) + 1
    if gaps[-1] > 0.75 * gaps[-2] and gaps[-1] > 1e-7 * scale:
        return None, "kink"
    if not error < 1e-6 * scale:
        return None, "no limit"
    return best, 10 * error + 1e-8 * scale


def check_slope(graph, order):
    """The gradient of this order, along a random direction, is the slope of the order below."""
    arrays = graph.leaves()
    found, gradients = ladder(graph, arrays, order, graph.seed)
    assert np.isfinite(found)
    rng = np.random.default_rng([graph.seed, 7])
    for _ in range(order):
        directions = [rng.standard_normal(a.shape) for a in arrays]

    def below(h):
        moved = [a + h * d for a, d in zip(arrays, directions, strict=True)]
        return ladder(graph, moved, order - 1, graph.seed)[0]

    slope, error = differences(below)
    if slope is None:
        event(error)
    else:
        event("compared")
        assert abs(found - slope) <= error, (
            f"order {order}: expected {slope}, got {found} ± {error}"
        )
    return gradients


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9 * (1 + np.abs(b).max(initial=0)))


def check_both(graph, order):
    """By differences, and fused against composed, element by element."""
    with np.errstate(all="ignore"):
        fused = check_slope(graph, order)
        with tb.use_fused(False):
            composed = ladder(graph, graph.leaves(), order, graph.seed)[1]
    for a, b in zip(fused, composed, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-9 * (1 + np.abs(b).max(initial=0)))


@pytest.mark.parametrize("kind", [*TABLE])
@share(0.4)
@given(data=st.data())
def test_every_op(kind: str, data: st.DataObject):
    graph = data.draw(graphs(most=4, first=[kind]))
    check_both(graph, data.draw(st.integers(1, 2)))


@share(2)
@given(graphs())
def test_order_1(graph: Graph):
    check_both(graph, 1)


@share(2)
@given(graphs(most=5))
def test_order_2(graph: Graph):
    check_both(graph, 2)


@share(1)
@given(graphs(most=4))
def test_order_3(graph: Graph):
    check_both(graph, 3)


@share(2)
@given(graphs(low=0, high=2, most=5), st.integers(1, 2))
def test_without_elements(graph: Graph, order: int):
    check_both(graph, order)


@share(1)
@given(graphs(low=0, most=9), st.booleans())
def test_eager_and_compiled_agree(graph: Graph, second: bool):
    """On NumPy, to the last bit."""
    check_compiled(graph, second, "numpy", np.testing.assert_array_equal)


def test_eager_and_compiled_powers_of_one_number_agree():
    """A program has NumPy's scalars where eager mode has arrays of one number."""
    for f in (lambda x: 0.5 ** tb.ops.sqrt(x), lambda x: tb.ops.exp(x) ** 2, lambda x: (-x) ** 3.0):
        step = tb.compile(lambda x, f=f: f(tb.tensor(x)), backend="numpy")
        for x in np.random.default_rng(0).uniform(0, 2, 300):
            x = np.asarray(x)
            assert step(x).item() == f(tb.tensor(x)).item()


@pytest.mark.skipif(not importlib.util.find_spec("numba"), reason="Numba is not installed")
@settings(max_examples=5)
@given(graphs(most=4))
def test_eager_and_numba_agree(graph: Graph):
    check_compiled(graph, False, "numba", close)


def check_compiled(graph, second, backend, compare):
    def step(arrays):
        xs = [tb.tensor(a, requires_grad=True) for a in arrays]
        values = graph.values(xs, TABLE)
        total = graph.total(xs)
        gs = tb.grad(total, xs, create_graph=second, allow_unused=True)
        if second:
            slopes = [(g * g).sum() for g in gs if g is not None and g.requires_grad]
            gs += tb.grad(slopes, xs, allow_unused=True) if slopes else ()
        return [v for v in (*values, total, *gs) if v is not None]

    run = tb.compile(step, backend=backend)
    with np.errstate(all="ignore"):
        for scale in (1.0, 0.5, 1.0):
            arrays = [np.asarray(a * scale) for a in graph.leaves()]
            for found, expected in zip(run(arrays), step(arrays), strict=True):
                assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
                compare(found.numpy(), expected.numpy())
