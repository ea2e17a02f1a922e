"""Random graphs beside PyTorch, element by element, up to order 3; where PyTorch is installed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given

import tinybn as tb
from fuzz.examples import share
from fuzz.graphs import EPS, TABLE, Graph, graphs

torch = pytest.importorskip("torch")
F = torch.nn.functional

pytestmark = pytest.mark.host("PyTorch is on the host")


def _shape(axis, ndim):
    """An axis, several, or all of them, as PyTorch takes them."""
    return tuple(range(ndim)) if axis is None else axis if isinstance(axis, tuple) else (axis,)


def _reduction(reduce):
    def run(a, axis, keepdims):
        axes = _shape(axis, a.ndim)
        return reduce(a, axes, keepdims) if axes else reduce(a[None], (0,), False)

    return run


def _squeeze(a, axis):
    if axis is None:
        return a.squeeze()
    return a.squeeze(axis) if axis != () else a


def _expand_dims(a, axis):
    return a[None].unsqueeze(-1) if isinstance(axis, tuple) else a.unsqueeze(axis)


def _transpose(a, axes):
    return a.permute(tuple(range(a.ndim))[::-1] if axes is None else axes)


def _getitem(a, index):
    """PyTorch has no negative steps."""
    picked = np.arange(a.numel()).reshape(a.shape)
    picked = picked[tuple(np.array(i) if isinstance(i, list) else i for i in index)]
    return a.reshape(-1)[torch.tensor(picked.copy())]


def _affine(affine, gamma, beta):
    rest = iter(affine)
    return (next(rest) if gamma else None), (next(rest) if beta else None)


def _batch_norm(x, *affine, gamma, beta, stats=None):
    w, b = _affine(affine, gamma, beta)
    if stats is None:
        return F.batch_norm(x, None, None, w, b, training=True, eps=EPS)
    return F.batch_norm(x, *map(torch.tensor, stats), w, b, training=False, eps=EPS)


def _layer_norm(x, *affine, gamma, beta, axis):
    """PyTorch has no second derivative of a bias without a weight."""
    w, b = _affine(affine, gamma, beta)
    w = torch.ones_like(b) if w is None and b is not None else w
    return F.layer_norm(x, _last(x, axis), w, b, eps=EPS)


def _last(x, axis):
    return x.shape[-len(_shape(axis, 0)) :]


OTHERS = {
    "negative": torch.neg,
    "abs": torch.abs,
    "sign": torch.sign,
    "exp": torch.exp,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "relu": torch.relu,
    "log": lambda a: torch.log(torch.abs(a) + 0.5),
    "sqrt": lambda a: torch.sqrt(a * a + 0.5),
    "clip": lambda a, low, high: a if low is high is None else torch.clamp(a, low, high),
    "power": lambda a, b: (a * a + 0.5) ** b,
    "power_of_number": lambda a, b: a**b,
    "number_to_power": lambda a, b: b**a,
    "divide": lambda a, b: a / (b * b + 1),
    "add": torch.add,
    "subtract": torch.sub,
    "multiply": torch.mul,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "where": lambda a, b: torch.where(a > b, a, b * 2),
    "matmul": torch.matmul,
    "mse_loss": lambda a, b: ((a - b) ** 2).mean(),
    "softmax": lambda a, axis: a.softmax(axis),
    "log_softmax": lambda a, axis: a.log_softmax(axis),
    "logsumexp": _reduction(torch.logsumexp),
    "sum": _reduction(torch.sum),
    "mean": _reduction(torch.mean),
    "var": _reduction(lambda a, axes, keepdims: torch.var(a, axes, correction=0, keepdim=keepdims)),
    "max": _reduction(torch.amax),
    "min": _reduction(torch.amin),
    "reshape": lambda a, shape: a.reshape(shape),
    "transpose": _transpose,
    "swapaxes": lambda a, axis1, axis2: a.swapaxes(axis1, axis2),
    "expand_dims": _expand_dims,
    "squeeze": _squeeze,
    "broadcast_to": lambda a, shape: a.broadcast_to(shape),
    "getitem": _getitem,
    "concatenate": lambda *arrays, axis: torch.cat(arrays, axis),
    "stack": lambda *arrays, axis: torch.stack(arrays, axis),
    "linear": lambda x, w, *b: torch.matmul(x, w) + (b[0] if b else 0),
    "cross_entropy": lambda z, labels: F.cross_entropy(z, torch.tensor(labels)),
    "batch_norm": _batch_norm,
    "layer_norm": _layer_norm,
    "rms_norm": lambda x, *affine, gamma, axis: F.rms_norm(x, _last(x, axis), *affine, eps=EPS),
    "group_norm": lambda x, *affine, gamma, beta, groups: torch.group_norm(
        x, groups, *_affine(affine, gamma, beta), eps=EPS
    ),
    "instance_norm": lambda x, *affine, gamma, beta: F.instance_norm(
        x, None, None, *_affine(affine, gamma, beta), eps=EPS
    ),
}
THEIRS = {kind: OTHERS.get(kind, TABLE[kind]) for kind in TABLE}


def mine(graph, order):
    xs = [tb.tensor(a, requires_grad=True) for a in graph.leaves()]
    return list(ladder(graph.total(xs), xs, order, tb.grad, tb.Tensor.numpy))


def theirs(graph, order):
    ts = [torch.tensor(a, requires_grad=True) for a in graph.leaves()]
    s = graph.total(ts, torch.tensor, THEIRS)
    return list(ladder(s, ts, order, torch.autograd.grad, lambda t: t.numpy(force=True)))


def ladder(s, xs, order, grad, array):
    """The scalar, and the gradients of every order, with 0 for what nothing depends on."""
    yield [s.item()]
    for k in range(order):
        if not getattr(s, "requires_grad", False):
            return
        gs = grad(s, xs, create_graph=k + 1 < order, allow_unused=True)
        yield [np.zeros(x.shape) if g is None else array(g) for g, x in zip(gs, xs, strict=True)]
        s = sum((g * (i + 0.5)).sum() for i, g in enumerate(gs) if g is not None)


@pytest.mark.parametrize(("order", "most", "times"), [(1, 7, 3), (2, 5, 2), (3, 4, 1)])
def test_as_pytorch(order, most, times):
    @share(times)
    @given(graphs(most=most))
    def check(graph: Graph):
        with np.errstate(all="ignore"):
            found, expected = mine(graph, order), theirs(graph, order)
        for a, b in zip(found, expected, strict=False):  # one may know that the rest is 0
            for g, e in zip(a, b, strict=True):
                scale = 1 + np.abs(e).max(initial=0)
                np.testing.assert_allclose(g, e, rtol=1e-8, atol=1e-9 * scale)
        for rest in (*found[len(expected) :], *expected[len(found) :]):
            assert not any(np.any(g) for g in rest)

    check()
