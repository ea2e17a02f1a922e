"""Small parameters that are updated together: to the last bit what updating each alone gives."""

import copy
import gc
import pickle

import numpy as np
import pytest
from numeric import draw

import tinybn as tb
from tinybn import nn, optim, packing

pytestmark = pytest.mark.host("only NumPy's arrays are packed")

OPTIMIZERS = {
    "sgd": lambda ps: optim.SGD(ps, 0.1),
    "momentum": lambda ps: optim.SGD(ps, 0.1, momentum=0.9, weight_decay=0.3),
    "nesterov": lambda ps: optim.SGD(ps, 0.1, momentum=0.9, nesterov=True),
    "adam": lambda ps: optim.Adam(ps, 0.1, weight_decay=0.3),
    "adamw": lambda ps: optim.AdamW(ps, 0.1, weight_decay=0.3),
    "own": lambda ps: Own(ps, 0.1),
}
SHAPES = [(3, 2), (2,), (5,), (4, 2), (3,), (), (0, 2), (70, 70), (2, 2), (3,)]
FLOAT64 = (2, 3)
STEPS = 9


class Own(optim.Optimizer):
    """A user's optimizer: Lion, more or less."""

    memory = ("trend",)

    @optim.elementwise
    def update(self, p, g, step, trend):
        trend += (g - trend) / (step + 1)
        p -= self.lr * np.sign(trend) * abs(g) ** 1.5


def make_parameters():
    return [
        tb.tensor(draw(s, seed=i), requires_grad=True, dtype="d" if i in FLOAT64 else "f")
        for i, s in enumerate(SHAPES)
    ]


def set_gradients(params, t):
    for i, p in enumerate(params):
        p.grad = tb.tensor(draw(p.shape, seed=100 * t + i), dtype=p.dtype)


def together(optimizer):
    return [list(pack.members) for pack in optimizer._packs]


def forget(params, *numbers):
    for i in numbers:
        params[i].grad = None


def set_data(params, i, array):
    params[i].data = array
    params[i].grad = tb.tensor(draw(array.shape, seed=i), dtype=array.dtype)


def set_in_place(params, i):
    params[i].data[...] = 0.5


def set_memory(optimizer, i):
    for name in optimizer.memory:
        optimizer.state[i][name] = np.full_like(optimizer.state[i][name], 0.25)


def tie(params, i, j, index):
    set_data(params, i, params[j].data[index])


def set_gradient(params, i, array):
    params[i].grad = tb.tensor(array)


def with_another(params, optimizer, some, steps=1):
    other = type(optimizer)([params[i] for i in some], 0.05)
    for _ in range(steps):
        other.step()
    return other


# What happens to parameters and optimizer in a step, when the gradients are there.
EVENTS = {
    "nothing": {},
    "a gradient is missing": {4: lambda ps, o: forget(ps, 1)},
    "a gradient comes late": {t: lambda ps, o: forget(ps, 0, 2) for t in (1, 2, 3)},
    "a gradient never comes": {t: lambda ps, o: forget(ps, 4) for t in range(1, STEPS + 1)},
    "all are missing": {4: lambda ps, o: forget(ps, *range(len(ps)))},
    "some by turns": {
        t: lambda ps, o, t=t: forget(ps, *((0, 1, 2) if t % 2 else (3, 4, 8)))
        for t in range(1, STEPS + 1)
    },
    "data replaced": {4: lambda ps, o: set_data(ps, 1, np.array([3, 4], "f"))},
    "data changed in place": {4: lambda ps, o: set_in_place(ps, 1)},
    "another shape": {1: lambda ps, o: set_data(ps, 1, np.ones((1, 3), "f"))},
    "another dtype": {4: lambda ps, o: [set_data(ps, i, ps[i].data.astype("d")) for i in (0, 4)]},
    "other dtypes than those remembered": {
        4: lambda ps, o: [set_data(ps, i, ps[i].data.astype("d")) for i in (0, 2, 3, 4)]
    },
    "float16": {1: lambda ps, o: [set_data(ps, i, ps[i].data.astype("e")) for i in (0, 4)]},
    "strides": {
        4: lambda ps, o: [
            set_data(ps, 0, np.ones((2, 3), "f").T),
            set_data(ps, 1, np.ones(4, "f")[::2]),
        ]
    },
    "a gradient's strides": {
        t: lambda ps, o: setattr(ps[0], "grad", tb.tensor(draw((2, 3), seed=9), dtype="f").T)
        for t in (3, 4)
    },
    "a gradient of another dtype": {4: lambda ps, o: set_gradient(ps, 0, draw((3, 2)))},
    "a gradient of another shape": {4: lambda ps, o: set_gradient(ps, 0, np.ones(2, "f"))},
    "a gradient of fewer digits": {4: lambda ps, o: set_gradient(ps, 1, np.full(2, 0.1, "e"))},
    "a gradient shared": {4: lambda ps, o: setattr(ps[8], "grad", ps[8].grad.T)},
    "memory tied": {4: lambda ps, o: tie(ps, 1, 4, slice(2))},
    "memory the same": {4: lambda ps, o: set_data(ps, 9, ps[4].data)},
    "state loaded": {4: lambda ps, o: o.load_state_dict(o.state_dict())},
    "state dropped": {4: lambda ps, o: o.state[4].clear()},
    "state replaced": {4: lambda ps, o: o.state.__setitem__(1, {})},
    "memory replaced": {4: lambda ps, o: set_memory(o, 4)},
    "steps set": {4: lambda ps, o: o.state[1].update(step=1)},
    "a rate changed": {4: lambda ps, o: setattr(o, "lr", 0.01)},
    "another optimizer": {t: lambda ps, o: with_another(ps, o, (1, 4, 0)) for t in (3, 4, 7)},
    "another optimizer gone": {
        3: lambda ps, o: (with_another(ps, o, range(5), steps=3), gc.collect())
    },
    "a copy steps": {
        t: lambda ps, o: [(c := copy.deepcopy(o)).step(), c.step()] for t in (1, 2, 4, 5)
    },
    "a shallow copy steps": {4: lambda ps, o: [(c := copy.copy(o)).step(), c.step()]},
    "a parameter more": {
        4: lambda ps, o: (
            o.params.append(tb.tensor(np.ones(3, "f"), requires_grad=True)),
            setattr(o.params[-1], "grad", tb.tensor(np.ones(3, "f"))),
            o.state.append({}),
        )
    },
}


def run(make, events):
    params = make_parameters()
    optimizer = make(params)
    for t in range(1, STEPS + 1):
        set_gradients(params, t)
        events.get(t, lambda ps, o: None)(params, optimizer)
        before = [None if p.grad is None else p.grad.numpy() for p in params]
        optimizer.step()
        for p, g in zip(params, before, strict=True):
            np.testing.assert_array_equal(p.grad if g is None else p.grad.numpy(), g)
    return params, optimizer


def assert_equal(found, expected):
    (params, optimizer), (others, other) = found, expected
    for i, (p, q) in enumerate(zip(params, others, strict=True)):
        assert p.dtype == q.dtype
        np.testing.assert_array_equal(p.numpy(), q.numpy(), err_msg=f"parameter {i}", strict=True)
    state, expected_state = optimizer.state_dict(), other.state_dict()
    assert state.keys() == expected_state.keys()
    for name, value in expected_state.items():
        np.testing.assert_array_equal(state[name], value, err_msg=name, strict=True)


@pytest.fixture
def alone(monkeypatch):
    """A function that calls another while nothing is packed."""

    def call(function, *args):
        with monkeypatch.context() as patch:
            patch.setattr(packing, "SMALL", -1)
            return function(*args)

    return call


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("event", EVENTS)
def test_together_is_as_alone_to_the_last_bit(event, name, alone):
    expected = alone(run, OPTIMIZERS[name], EVENTS[event])
    assert not together(expected[1])
    found = run(OPTIMIZERS[name], EVENTS[event])
    assert together(found[1]) or event.startswith("memory")  # which is tied from then on
    assert_equal(found, expected)


F, D = [0, 1, 4, 6, 8, 9], [2, 3]


@pytest.mark.parametrize(
    ("event", "packs"),
    [
        ("nothing", [F, D]),  # not 5, which is 0-d, nor 7, which has 4900 elements
        ("a gradient is missing", [[0, 4, 6, 8, 9], D]),
        ("all are missing", [F, D]),
        ("some by turns", [[4, 8], [6, 9]]),
        ("data replaced", [F, D]),
        ("state loaded", [F, D]),
        ("strides", [D, [4, 6, 8, 9]]),
        ("memory tied", []),
        ("memory the same", []),
    ],
)
def test_together_go_small_parameters_of_the_same_dtype_and_step(event, packs):
    _, optimizer = run(OPTIMIZERS["momentum"], EVENTS[event])
    assert together(optimizer) == packs


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_many_packs_of_a_dtype_share_their_scratch(name, alone, monkeypatch):
    monkeypatch.setattr(packing, "TOGETHER", 10)
    expected = alone(run, OPTIMIZERS[name], {})
    found = run(OPTIMIZERS[name], {})
    assert together(found[1]) == [[0, 1], [4, 6, 8, 9]]
    one, other = found[1]._packs
    assert np.shares_memory(one.p, other.p)
    assert_equal(found, expected)


def test_a_parameter_that_is_added_is_updated():
    _, optimizer = run(OPTIMIZERS["sgd"], EVENTS["a parameter more"])
    assert optimizer.state[-1]["step"] == STEPS - 3


def calls_of(base, declare):
    """An optimizer that notes the shapes which its `update` gets."""

    class Noting(base):
        def update(self, p, g, step, *memory):
            shapes.append(p.shape)
            super().update(p, g, step, *memory)

    if declare:
        Noting.update = optim.elementwise(Noting.update)
    shapes = []
    params = [tb.tensor(draw(s), requires_grad=True) for s in [(3, 2), (4,)]]
    optimizer = Noting(params, 0.1)
    for t in range(4):
        if t == 2:
            optimizer.zero_grad()
            params[0].grad = tb.tensor(np.ones((3, 2)))
        else:
            set_gradients(params, t)
        optimizer.step()
    return shapes


@pytest.mark.parametrize("base", [optim.SGD, optim.Adam, optim.AdamW, Own])
def test_an_update_that_is_not_declared_gets_each_parameter_alone(base):
    every = [(3, 2), (4,)]
    assert calls_of(base, declare=False) == [*every, *every, (3, 2), *every]
    assert calls_of(base, declare=True) == [*every, (10,), (3, 2), *every]


def test_an_update_set_on_one_optimizer_gets_each_parameter_alone():
    params, optimizer = run(OPTIMIZERS["sgd"], {})
    shapes = []
    optimizer.update = lambda p, g, step: shapes.append(p.shape)
    set_gradients(params, 0)
    optimizer.step()
    assert shapes == SHAPES


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_parameters_keep_their_arrays(name):
    params = make_parameters()
    arrays = [p.data for p in params]
    optimizer = OPTIMIZERS[name](params)
    for t in range(4):
        set_gradients(params, t)
        optimizer.step()
        assert all(p.data is array for p, array in zip(params, arrays, strict=True))
    assert together(optimizer)


def test_a_step_together_between_forward_and_backward_is_noticed():
    params, optimizer = run(OPTIMIZERS["momentum"], {})
    loss = (params[0] * params[0]).sum() + params[1].sum()
    set_gradients(params, 1)
    optimizer.step()
    with pytest.raises(RuntimeError, match="changed in place"):
        loss.backward()


def test_a_wrong_gradient_raises_what_it_did_alone(alone):
    def message():
        params, optimizer = run(OPTIMIZERS["momentum"], {})
        before = params[0].numpy(), optimizer.state_dict()["0.velocity"]
        set_gradients(params, 1)
        params[0].grad = tb.tensor(np.ones((2, 3), "f"))
        with pytest.raises(ValueError, match="broadcast") as caught:
            optimizer.step()
        np.testing.assert_array_equal(params[0].numpy(), before[0])
        np.testing.assert_array_equal(optimizer.state_dict()["0.velocity"], before[1])
        return str(caught.value)

    assert message() == alone(message)


@pytest.mark.parametrize("how", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
@pytest.mark.parametrize("name", set(OPTIMIZERS) - {"own"})
def test_a_copy_is_of_its_own_and_goes_on_like_the_original(name, how):
    def step(model, optimizer, t):
        set_gradients(model.parameters(), t)
        optimizer.step()
        return model.parameters(), optimizer

    model = nn.MLP([3, 4, 2], "batch", rng=np.random.default_rng(0))
    optimizer = OPTIMIZERS[name](model.parameters())
    for t in range(3):
        step(model, optimizer, t)
    assert together(optimizer)
    copied, copied_optimizer = how((model, optimizer))
    arrays = [p.data for p in copied.parameters()]
    arrays += [m for s in copied_optimizer.state for n, m in s.items() if n != "step"]
    assert all(a.base is None or a.base.nbytes <= a.nbytes for a in arrays)  # no flat array
    before = [p.numpy() for p in copied.parameters()]
    for t in range(3, 6):
        expected = step(model, optimizer, t)
    for p, value in zip(copied.parameters(), before, strict=True):
        np.testing.assert_array_equal(p.numpy(), value)
    for t in range(3, 6):
        found = step(copied, copied_optimizer, t)
    assert together(copied_optimizer) == together(optimizer)
    assert_equal(found, expected)


def test_a_model_that_changes_its_dtype_goes_on(alone):
    def train():
        model = nn.MLP([3, 4, 2], "batch", rng=np.random.default_rng(0))
        optimizer = optim.Adam(model.parameters())
        for t in range(6):
            if t == 3:
                model.to(np.float64)
            set_gradients(model.parameters(), t)
            optimizer.step()
        assert {p.dtype for p in model.parameters()} == {np.dtype("d")}
        return model.parameters(), optimizer

    assert_equal(train(), alone(train))
