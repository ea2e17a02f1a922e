"""Changes between forward and backward, through views, copies, buffers and steps.

The gradient is the one of what the forward pass saw, or an error says what was changed.
"""

from __future__ import annotations

import copy

import numpy as np
import pytest
from hypothesis import event, given
from hypothesis import strategies as st

import tinybn as tb
from fuzz.examples import share
from fuzz.graphs import TABLE, Graph, graphs
from tinybn import optim

pytestmark = pytest.mark.host("memory is shared in the same way on every backend")

ALIASES = {
    "itself": lambda t: t,
    "detach": lambda t: t.detach(),
    "copy": copy.copy,
    "deepcopy": lambda t: copy.deepcopy(t.detach()),
    "tensor": tb.tensor,
    "T": lambda t: t.T,
    "reshape": lambda t: t.reshape(-1),
    "index": lambda t: t[...],
    "expand_dims": lambda t: t.expand_dims(0),
    "broadcast_to": lambda t: t.broadcast_to((2, *t.shape)),
    "astype": lambda t: t.astype(np.float64),
    "numpy": lambda t: tb.tensor(t.numpy()),
}


def _doubled(t):
    t.data *= 2


def _moved(t):
    t.data += 1


def _replaced(t):
    t.data = t.data * 3


def _replaced_and_doubled(t):
    t.data = t.data.copy()
    t.data *= 2


def _stepped(t):
    if t.requires_grad and t._node is None:
        t.grad = t.detach() + 1
        optim.SGD([t], 0.5).step()
        t.grad = None


def _operators(t):
    if not t.requires_grad:
        t *= 2
        t -= 1


CHANGES = {
    "double": _doubled,
    "move": _moved,
    "replace": _replaced,
    "replace and double": _replaced_and_doubled,
    "step": _stepped,
    "operators": _operators,
}

ROLES = st.sampled_from(["leaf", "leaf", "constant", "array"])


class Game:
    """One forward pass of a graph, whose first input is a leaf, and what may be changed then."""

    def __init__(self, graph: Graph, roles, fused):
        self.arrays = [np.array(a) for a in graph.leaves()]
        self.inputs = []
        for array, role in zip(self.arrays, roles, strict=True):
            tensor = tb.tensor(array, requires_grad=role == "leaf")
            self.inputs.append(array if role == "array" else tensor)
        self.leaves = [x for x in self.inputs if isinstance(x, tb.Tensor) and x.requires_grad]
        rng = np.random.default_rng(graph.seed)
        with tb.use_fused(fused):
            self.values = graph.values(self.inputs, TABLE)
            self.weights = [rng.standard_normal(v.shape) for v in self.values]
            self.total = sum((v * w).sum() for v, w in zip(self.values, self.weights, strict=True))

    def tensors(self):
        return [v for v in self.values if isinstance(v, tb.Tensor)]

    def gradients(self, create_graph=False):
        """Of the total and, under create_graph, of the squares of its gradients."""
        return tb.grad(self.total, self.leaves, create_graph=create_graph, allow_unused=True)

    def change_arrays(self):
        for array in [*self.arrays, *self.weights]:
            array[...] = 7


PLANS = st.lists(
    st.tuples(st.integers(0, 9), st.sampled_from([*ALIASES]), st.sampled_from([*CHANGES])),
    max_size=3,
)


@st.composite
def games(draw, most=4):
    graph = draw(graphs(most=most))
    return graph, ["leaf", *(draw(ROLES) for _ in graph.shapes[1:])], draw(st.booleans())


def disturb(game, plan):
    """Change things through aliases; what is read-only stays as it is."""
    for i, alias, change in plan:
        tensors = game.tensors()
        with tb.no_grad():
            t = ALIASES[alias](tensors[i % len(tensors)])
        try:
            CHANGES[change](t)
        except ValueError as error:
            assert "read-only" in str(error) or "be replaced" in str(error)


def right_or_refused(compute, expected):
    try:
        found = compute()
    except RuntimeError as error:
        assert "changed" in str(error)
        event("refused")
        return
    event("computed")
    for g, e in zip(found, expected, strict=True):
        assert (g is None) == (e is None)
        if g is not None:
            np.testing.assert_array_equal(g.numpy(), e)


def arrays_of(gradients):
    return [None if g is None else g.numpy() for g in gradients]


@pytest.mark.parametrize("name", ["gamma", "mean", "var"])
def test_constants_of_a_closed_form_may_change(name):
    given = {key: np.linspace(1, 2, 3) for key in ("gamma", "mean", "var")}

    def gradients(change):
        x = tb.tensor(np.arange(12.0).reshape(4, 3) ** 2, requires_grad=True)
        constants = {key: array.copy() for key, array in given.items()}
        leaf = tb.tensor(constants["gamma"], requires_grad=True)
        gamma = constants["gamma"] if name == "gamma" else leaf
        y = tb.ops.batch_norm(x, gamma, mean=constants["mean"], var=constants["var"])
        if change:
            constants[name][...] = 7
        return tb.grad((y * y.detach()).sum(), x if name == "gamma" else leaf)[0].numpy()

    np.testing.assert_array_equal(gradients(True), gradients(False))


@share(4)
@given(games(), PLANS, st.booleans())
def test_first_gradients(game, plan, change_arrays):
    expected = arrays_of(Game(*game).gradients())
    played = Game(*game)
    with np.errstate(all="ignore"):
        disturb(played, plan)
        if change_arrays:
            played.change_arrays()
        right_or_refused(played.gradients, expected)


def squares(gradients):
    return sum((g * g).sum() for g in gradients if g is not None and g.requires_grad)


def second(game, first):
    s = squares(first)
    if not isinstance(s, tb.Tensor):
        return []
    return tb.grad(s, game.leaves, allow_unused=True)


@share(2.5)
@given(games(most=3), PLANS, PLANS, st.booleans())
def test_second_gradients(game, before, after, change_arrays):
    """Changes come before the first pass, or between the first and the second."""
    quiet = Game(*game)
    first = quiet.gradients(create_graph=True)
    expected = arrays_of(first), arrays_of(second(quiet, first))
    played = Game(*game)

    def both():
        found = played.gradients(create_graph=True)
        held = arrays_of(found)
        s = squares(found)
        disturb(played, after)
        if change_arrays:
            played.change_arrays()
        again = tb.grad(s, played.leaves, allow_unused=True) if isinstance(s, tb.Tensor) else []
        return [*map(wrapped, held), *again]

    with np.errstate(all="ignore"):
        disturb(played, before)
        right_or_refused(both, [*expected[0], *expected[1]])


def wrapped(array):
    return None if array is None else tb.tensor(array)


@share(1)
@given(games(most=3), st.integers(0, 5), st.sampled_from(["scale", "replace", "alias"]))
def test_gradients_are_not_shared(game, i, how):
    """A gradient may be changed: no other one changes with it, nor what comes later."""
    played = Game(*game)
    expected = arrays_of(Game(*game).gradients())
    first = tb.grad(played.total, played.leaves, retain_graph=True, allow_unused=True)
    known = [g for g in first if g is not None]
    if known:
        g = known[i % len(known)]
        kept = [h.numpy() for h in known if h is not g]
        if how == "scale":
            g.data *= 3
        elif how == "replace":
            g.data[...] = np.nan
        else:
            g.detach().data *= 2
        for h, k in zip((h for h in known if h is not g), kept, strict=True):
            np.testing.assert_array_equal(h.numpy(), k)
    for g, e in zip(played.gradients(), expected, strict=True):
        if e is not None:
            np.testing.assert_array_equal(g.numpy(), e)


@share(0.5)
@given(games(most=3))
def test_backward_adds_up_and_takes_nothing(game):
    """Two passes give twice the gradient, in arrays that belong to `.grad` alone."""
    played = Game(*game)
    expected = arrays_of(Game(*game).gradients())
    played.total.backward(retain_graph=True)
    held = [x.grad for x in played.leaves]
    copies = arrays_of(held)
    played.total.backward()
    for x, e, h, c in zip(played.leaves, expected, held, copies, strict=True):
        if e is not None:
            np.testing.assert_array_equal(x.grad.numpy(), e + e)
            np.testing.assert_array_equal(h.numpy(), c)
            assert not any(np.shares_memory(x.grad.data, y.data) for y in played.tensors())
