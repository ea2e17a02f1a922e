"""Optimizers against their formulas, schedules, clipping. (PyTorch is asked in peers/.)"""

import copy
import math
import operator
import pickle

import numpy as np
import pytest
from numeric import draw, here, host

import tinybn as tb
from tinybn import checkpoint, nn, optim

STEPS = 6


def parameters(dtype=np.float64):
    return [
        tb.tensor(draw(s, seed=i), dtype=dtype, requires_grad=True)
        for i, s in enumerate([(3, 2), (2,)])
    ]


def set_gradients(params, t):
    for i, p in enumerate(params):
        p.grad = tb.tensor(draw(p.shape, seed=10 * t + i), dtype=p.dtype)


def run(make, steps=STEPS, dtype=np.float64):
    params = parameters(dtype)
    optimizer = make(params)
    for t in range(1, steps + 1):
        set_gradients(params, t)
        optimizer.step()
    return params


def by_hand(update, steps=STEPS):
    """The same steps, with update(p, g, t, memory) returning the new p."""
    values = [p.numpy() for p in parameters()]
    memories = [{} for _ in values]
    for t in range(1, steps + 1):
        for i, p in enumerate(values):
            values[i] = update(p, draw(p.shape, seed=10 * t + i), t, memories[i])
    return values


def sgd(momentum=0.0, nesterov=False, decay=0.0):
    def update(p, g, t, memory):
        g = g + decay * p
        v = memory["v"] = momentum * memory.get("v", 0) + g
        return p - 0.1 * (g + momentum * v if nesterov else v)

    return update


def adam(decay=0.0, decoupled=False, b1=0.9, b2=0.999, eps=1e-8):
    def update(p, g, t, memory):
        if decoupled:
            p = p - 0.1 * decay * p
        else:
            g = g + decay * p
        m = memory["m"] = b1 * memory.get("m", 0) + (1 - b1) * g
        v = memory["v"] = b2 * memory.get("v", 0) + (1 - b2) * g**2
        return p - 0.1 * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)

    return update


CASES = [
    (lambda ps: optim.SGD(ps, 0.1), sgd()),
    (lambda ps: optim.SGD(ps, 0.1, momentum=0.9), sgd(0.9)),
    (lambda ps: optim.SGD(ps, 0.1, momentum=0.9, nesterov=True), sgd(0.9, True)),
    (lambda ps: optim.SGD(ps, 0.1, momentum=0.5, weight_decay=0.3), sgd(0.5, decay=0.3)),
    (lambda ps: optim.Adam(ps, 0.1), adam()),
    (lambda ps: optim.Adam(ps, 0.1, betas=(0.5, 0.6), eps=1e-3), adam(b1=0.5, b2=0.6, eps=1e-3)),
    (lambda ps: optim.Adam(ps, 0.1, weight_decay=0.3), adam(0.3)),
    (lambda ps: optim.AdamW(ps, 0.1, weight_decay=0.3), adam(0.3, decoupled=True)),
]
MAKERS = [make for make, _ in CASES]


@pytest.mark.parametrize(("make", "update"), CASES)
def test_steps_are_those_of_the_formula(make, update):
    for p, expected in zip(run(make), by_hand(update), strict=True):
        np.testing.assert_allclose(p.numpy(), expected, rtol=1e-12)
    for p, expected in zip(run(make, dtype=np.float32), by_hand(update), strict=True):
        assert p.dtype == np.float32
        np.testing.assert_allclose(p.numpy(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", MAKERS)
def test_a_step_gives_new_arrays_and_changes_no_old_one(make):
    params = parameters()
    optimizer = make(params)
    for t in (1, 2):
        set_gradients(params, t)
        arrays = [p.data for p in params] + [p.grad.data for p in params]
        arrays += [state[name] for state in optimizer.state if state for name in optimizer.memory]
        before = [host(a).copy() for a in arrays]
        optimizer.step()
        for p, array, old in zip(params, arrays, arrays[len(params) :], strict=False):
            assert p.data is not array
            assert p.grad.data is old
        for array, expected in zip(arrays, before, strict=True):
            np.testing.assert_array_equal(host(array), expected)


class Number:
    """A Python number that is not known yet: there is arithmetic, and nothing else."""

    __hash__ = None

    def __init__(self, value):
        self.value = value

    def __bool__(self):
        raise TypeError("its value is not known")

    __float__ = __int__ = __index__ = __eq__ = __lt__ = __le__ = __gt__ = __ge__ = __bool__


def arithmetic(operation, swapped=False):
    def method(self, other):
        values = [x.value if isinstance(x, Number) else x for x in (self, other)]
        return Number(operation(*(values[::-1] if swapped else values)))

    return method


for name in ("add", "sub", "mul", "truediv", "pow"):
    setattr(Number, f"__{name}__", arithmetic(getattr(operator, name)))
    setattr(Number, f"__r{name}__", arithmetic(getattr(operator, name), swapped=True))


@pytest.mark.parametrize("make", MAKERS)
def test_the_numbers_of_a_step_are_made_by_arithmetic_alone(make):
    optimizer = make(parameters())
    optimizer.lr = 0.25
    expected = optimizer.numbers(3)
    optimizer.lr = Number(0.25)
    found = optimizer.numbers(Number(3))
    assert {name: number.value for name, number in found.items()} == expected


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("loaded", [False, True])
def test_the_numbers_are_made_once_for_all_parameters_that_are_in_step(make, loaded, monkeypatch):
    params = parameters() + parameters()
    optimizer = make(params)
    for t in range(300):  # small ints are one object anyway
        set_gradients(params, t)
        optimizer.step()
    if loaded:
        optimizer.load_state_dict(optimizer.state_dict())
    asked = []
    numbers = optimizer.numbers
    monkeypatch.setattr(optimizer, "numbers", lambda step: asked.append(step) or numbers(step))
    optimizer.step()
    params[-1].grad = None
    optimizer.step()
    set_gradients(params, 0)
    optimizer.step()
    assert asked == [301, 302, 303, 302]


class Lion(optim.Optimizer):
    """Somebody's own optimizer."""

    memory = ("trend",)

    def numbers(self, step):
        return {**super().numbers(step), "weight": 1 / step}

    def update(self, p, g, trend, *, lr, weight):
        return p - lr * abs(g) * trend, trend + weight * (g - trend)


def test_an_optimizer_of_ones_own_takes_ten_lines():
    def by_hand_too(p, g, t, memory):
        trend = memory.get("trend", 0)
        memory["trend"] = trend + (g - trend) / t
        return p - 0.1 * abs(g) * trend

    for p, expected in zip(run(lambda ps: Lion(ps, 0.1)), by_hand(by_hand_too), strict=True):
        np.testing.assert_allclose(p.numpy(), expected, rtol=1e-12)


class Careless(Lion):
    """It forgets to return its memory."""

    def update(self, p, g, trend, **numbers):
        return (super().update(p, g, trend, **numbers)[0],)


def test_an_update_that_forgets_its_memory_is_refused_and_the_parameter_stays():
    params = parameters()
    set_gradients(params, 1)
    before = params[0].numpy()
    with pytest.raises(ValueError, match=r"Careless\.update returned 1 arrays: expected p, trend"):
        Careless(params, 0.1).step()
    np.testing.assert_array_equal(params[0].numpy(), before)


class Signs(optim.SGD):
    """An SGD with another formula, and so without SGD's kernel."""

    def update(self, p, g, *, lr):
        return (p - lr * (2 * (g > 0) - 1),)


class Plain(optim.Optimizer):
    """Its formula needs no settings."""

    @staticmethod
    def update(p, g, *, lr):
        return (p - lr * g,)


def test_an_update_may_be_static_or_an_objects_own():
    p, q = parameters()[0], parameters()[0]
    for optimizer in (Plain([p], 0.5), optim.SGD([q], 0.5)):
        optimizer.params[0].grad = tb.tensor(np.ones_like(p.numpy()))
        if isinstance(optimizer, optim.SGD):
            optimizer.update = Plain.update
        before = optimizer.params[0].numpy()
        optimizer.step()
        np.testing.assert_array_equal(optimizer.params[0].numpy(), before - 0.5)


def test_a_subclass_may_change_the_formula():
    for p, old in zip(run(lambda ps: Signs(ps, 0.5), steps=1), parameters(), strict=True):
        np.testing.assert_allclose(np.abs(p.numpy() - old.numpy()), 0.5)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("dtype", ["e", "f", "d"])
def test_parameters_and_memory_keep_their_dtype(make, dtype):
    p = tb.tensor(0.5, dtype=dtype, requires_grad=True)  # NumPy makes a scalar of any result
    optimizer = make([p])
    for gradient in ("e", "f", "d"):
        p.grad = tb.tensor(0.25, dtype=gradient)
        optimizer.lr = np.float64(0.1)
        optimizer.step()
    for array in (p.data, *(optimizer.state[0][name] for name in optimizer.memory)):
        assert type(array) is type(here(np.ones(1)))
        assert (array.dtype, array.shape) == (np.dtype(dtype), ())


def test_a_gradient_of_another_shape_is_refused_before_anything_changes():
    params = parameters()
    optimizer = optim.SGD(params, 0.1)
    set_gradients(params, 1)
    params[1].grad = tb.tensor(np.ones((3, 2)))
    before = params[0].numpy()
    with pytest.raises(ValueError, match=r"parameter 1 is \(2,\), but its gradient is \(3, 2\)"):
        optimizer.step()
    np.testing.assert_array_equal(params[0].numpy(), before)
    assert optimizer.state == [{}, {}]


@pytest.mark.parametrize("how", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
@pytest.mark.host("CuPy's arrays are not pickled here")
def test_a_copy_goes_on_like_the_original_and_leaves_it_alone(how):
    params = parameters()
    optimizer = optim.Adam(params, 0.1)
    set_gradients(params, 1)
    optimizer.step()
    others, other = how((params, optimizer))
    before = [p.numpy() for p in params]
    set_gradients(others, 2)
    other.step()
    for p, expected in zip(params, before, strict=True):
        np.testing.assert_array_equal(p.numpy(), expected)
    set_gradients(params, 2)
    optimizer.step()
    for p, q in zip(params, others, strict=True):
        np.testing.assert_array_equal(p.numpy(), q.numpy())


def test_parameters_without_a_gradient_stay():
    params = parameters()
    optimizer = optim.Adam(params, 0.1)
    params[0].grad = tb.tensor(np.ones((3, 2)))
    before = params[1].numpy()
    optimizer.step()
    np.testing.assert_array_equal(params[1].numpy(), before)
    optimizer.zero_grad()
    assert params[0].grad is None


@pytest.mark.parametrize("make", MAKERS)
def test_a_loaded_optimizer_goes_on_to_the_last_digit(make):
    straight = run(make, 6)
    params = run(make, 3)
    halfway = parameters()
    first = make(halfway)
    for t in (1, 2, 3):
        set_gradients(halfway, t)
        first.step()
    first.lr = 0.05
    second = make(params)
    second.load_state_dict(first.state_dict())
    assert second.lr == 0.05
    second.lr = 0.1
    for t in (4, 5, 6):
        set_gradients(params, t)
        second.step()
    for p, q in zip(params, straight, strict=True):
        np.testing.assert_array_equal(p.numpy(), q.numpy())


def test_a_saved_model_and_optimizer_go_on_to_the_last_digit(tmp_path):
    x, labels = here(draw((12, 4), dtype=np.float32)), np.arange(12) % 3

    def make(seed):
        model = nn.MLP([4, 8, 3], "batch", rng=np.random.default_rng(seed))
        return model, optim.Adam(model.parameters(), 0.1)

    def train(model, optimizer):
        for _ in range(3):
            optimizer.zero_grad()
            tb.ops.cross_entropy(model(x), labels).backward()
            optimizer.step()
        return model.state_dict()

    straight, halfway, loaded = make(0), make(0), make(1)
    train(*straight)
    train(*halfway)
    for part, other, name in zip(halfway, loaded, ("model.npz", "optimizer.npz"), strict=True):
        checkpoint.save(tmp_path / name, part.state_dict())
        other.load_state_dict(checkpoint.load(tmp_path / name))
    expected, found = train(*straight), train(*loaded)
    assert found.keys() == expected.keys()
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def test_each_parameter_counts_its_own_steps():
    """Adam's bias correction starts when a parameter gets its first gradient."""
    late, fresh = parameters(), parameters()
    optimizer = optim.Adam(late, 0.1)
    late[1].grad = tb.tensor(np.ones(2))
    optimizer.step()
    optimizer.step()
    late[0].grad = fresh[0].grad = tb.tensor(np.full((3, 2), 2.0))
    optimizer.step()
    optim.Adam(fresh, 0.1).step()
    np.testing.assert_array_equal(late[0].numpy(), fresh[0].numpy())
    assert [optimizer.state_dict()[f"{i}.step"] for i in (0, 1)] == [1, 3]


@pytest.mark.parametrize("make", MAKERS)
def test_a_state_dict_shares_no_memory_with_its_optimizer(make):
    params = parameters()
    optimizer = make(params)
    set_gradients(params, 1)
    optimizer.step()
    state = optimizer.state_dict()
    before = {name: value.copy() for name, value in state.items()}
    assert all(type(value) is np.ndarray for value in state.values())
    other = make(parameters())
    other.load_state_dict(state)
    for value in state.values():
        value[...] = 9
    for o in (optimizer, other):
        after = o.state_dict()
        assert after.keys() == before.keys()
        for name, value in before.items():
            np.testing.assert_array_equal(after[name], value)


def test_a_step_between_forward_and_backward_is_noticed():
    params = parameters()
    loss = (params[0] * params[0]).sum()
    set_gradients(params, 1)
    optim.SGD(params, 0.1).step()
    with pytest.raises(RuntimeError, match="changed in place"):
        loss.backward()


@pytest.mark.parametrize(
    "wrong",
    [
        {"lr": np.array([1.0, 2.0])},
        {"lr": np.array("fast")},
        {"lr": np.array(np.nan)},
        {"lr": np.array(-1.0)},
        {"1.step": np.array(np.nan)},
        {"1.step": np.array(-1)},
        {"1.step": np.array(1.5)},
        {"1.v": np.array(["a", "b"])},
    ],
    ids=lambda wrong: " ".join(f"{name}={value}" for name, value in wrong.items()),
)
def test_a_wrong_entry_is_named_and_changes_nothing(wrong):
    params = parameters()
    optimizer = optim.Adam(params, 0.1)
    set_gradients(params, 1)
    optimizer.step()
    before = optimizer.state_dict()
    state = {**before, "0.m": before["0.m"] + 1, **wrong}
    message = f"load_state_dict changed nothing: .*{next(iter(wrong))}"
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(state)
    for name, value in optimizer.state_dict().items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)


def test_a_state_that_does_not_fit_changes_nothing():
    params = parameters()
    optimizer = optim.Adam(params, 0.1)
    set_gradients(params, 1)
    optimizer.step()
    good = optimizer.state_dict()
    for spoil, message in [
        (lambda s: s.pop("lr"), "no lr"),
        (lambda s: s.update({"0.velocity": np.ones((3, 2))}), "unexpected: 0.velocity"),
        (lambda s: s.pop("1.m"), r"parameter 1 has only \['step', 'v'\]"),
        (lambda s: s.update({"1.v": np.ones(3)}), r"1.v: expected shape \(2,\), got \(3,\)"),
    ]:
        state = {**good, "lr": np.array(9.0)}
        spoil(state)
        with pytest.raises(ValueError, match="load_state_dict changed nothing: .*" + message):
            optimizer.load_state_dict(state)
        assert optimizer.lr == 0.1
        for name, value in optimizer.state_dict().items():
            np.testing.assert_array_equal(value, good[name])


@pytest.mark.parametrize(
    ("factor", "expected"),
    [
        (optim.step_decay(2, 0.1), {0: 1, 1: 1, 2: 0.1, 3: 0.1, 4: 0.01}),
        (optim.cosine(10), {0: 1, 5: 0.5, 10: 0, 15: 0}),
        (optim.cosine(4, 0.2), {0: 1, 2: 0.6, 4: 0.2, 9: 0.2}),
        (optim.warmup(4), {0: 0, 1: 0.25, 4: 1, 9: 1}),
        (optim.warmup(2, start=0.5), {0: 0.5, 1: 0.75, 2: 1}),
        (optim.warmup(4, optim.cosine(10)), {2: 0.5, 4: 1, 9: 0.5, 14: 0}),
    ],
)
def test_schedules_at_named_points(factor, expected):
    optimizer = optim.SGD(parameters(), 0.5)
    schedule = optim.Schedule(optimizer, factor)
    for t in range(max(expected) + 1):
        if t in expected:
            assert optimizer.lr == pytest.approx(0.5 * expected[t], abs=1e-15)
        schedule.step()


def test_a_step_uses_the_learning_rate_of_its_schedule():
    params = parameters()
    optimizer = optim.SGD(params, 0.5)
    schedule = optim.Schedule(optimizer, optim.step_decay(1, 0.1))
    expected = params[0].numpy()
    for lr in (0.5, 0.05, 0.005):
        set_gradients(params, 1)
        optimizer.step()
        schedule.step()
        expected -= lr * params[0].grad.numpy()
        np.testing.assert_allclose(params[0].numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("max_norm", [100, math.inf])
def test_small_gradients_are_left_exactly_as_they_are(max_norm):
    params = parameters()
    set_gradients(params, 1)
    before = [p.grad.numpy() for p in params]
    optim.clip_grad_norm(params, max_norm)
    for p, g in zip(params, before, strict=True):
        np.testing.assert_array_equal(p.grad.numpy(), g)


def test_clipping_leaves_out_parameters_without_a_gradient():
    params = parameters()
    params[1].grad = tb.tensor(np.array([3.0, 4.0]))
    assert optim.clip_grad_norm(iter(params), 1).item() == 5
    assert params[0].grad is None
    np.testing.assert_allclose(params[1].grad.numpy(), [0.6, 0.8], rtol=1e-6)


def test_clipping_scales_all_gradients_by_their_common_norm():
    params = parameters()
    set_gradients(params, 1)
    before = [p.grad for p in params]
    arrays = [g.numpy() for g in before]
    norm = math.sqrt(sum((a**2).sum() for a in arrays))
    assert optim.clip_grad_norm(params, 0.5).item() == pytest.approx(norm)
    for p, g, a in zip(params, before, arrays, strict=True):
        np.testing.assert_allclose(p.grad.numpy(), a * 0.5 / (norm + 1e-6))
        np.testing.assert_array_equal(g.numpy(), a)  # the old gradient was not changed
    assert optim.clip_grad_norm(params, 10).item() == pytest.approx(0.5)
    np.testing.assert_allclose(params[0].grad.numpy(), arrays[0] * 0.5 / (norm + 1e-6))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_clipping_keeps_the_dtype_and_sums_in_float32(dtype):
    p = tb.tensor(np.ones(1000), dtype=dtype, requires_grad=True)
    p.grad = tb.tensor(np.full(1000, 300), dtype=dtype)  # in float16, 300² is inf
    norm = optim.clip_grad_norm([p], 0.5)
    assert norm.dtype == np.float32
    assert norm.item() == pytest.approx(300 * math.sqrt(1000), rel=1e-6)
    assert p.grad.dtype == dtype
    np.testing.assert_allclose(p.grad.numpy(), 0.5 / math.sqrt(1000), rtol=1e-2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda ps: optim.SGD(ps, 0), "learning rate lr > 0, got 0"),
        (lambda ps: optim.Adam(ps, -1e-3), "got -0.001"),
        (lambda ps: optim.AdamW(ps, math.nan), "got nan"),
        (lambda ps: optim.SGD(ps, math.inf), "got inf"),
        (lambda ps: optim.SGD(ps, math.nan), "got nan"),
        (lambda ps: optim.SGD(ps, 0.1, momentum=-1), "momentum >= 0, got -1"),
        (lambda ps: optim.SGD(ps, 0.1, momentum=math.nan), "momentum >= 0, got nan"),
        (lambda ps: optim.SGD(ps, 0.1, weight_decay=math.nan), "weight_decay >= 0, got nan"),
        (lambda ps: optim.Adam(ps, weight_decay=-0.1), "weight_decay >= 0, got -0.1"),
        (lambda ps: optim.AdamW(ps, weight_decay=-0.1), "weight_decay >= 0, got -0.1"),
        (lambda ps: optim.Adam(ps, betas=(-0.1, 0.9)), r"Adam: expected betas in \[0, 1\)"),
        (lambda ps: optim.AdamW(ps, betas=(0.9, math.nan)), r"AdamW: expected betas in \[0, 1\)"),
        (lambda ps: optim.SGD(ps, 0.1, nesterov=True), "nesterov=True needs a momentum"),
        (lambda ps: optim.SGD(ps, 0.1, weight_decay=-1), "weight_decay >= 0, got -1"),
        (lambda ps: optim.Adam(ps, betas=(0.9, 1.0)), r"betas in \[0, 1\), got \(0.9, 1.0\)"),
        (lambda ps: optim.AdamW(ps, eps=-1), "AdamW: expected eps >= 0"),
        (lambda ps: optim.SGD([], 0.1), "at least one parameter, got none"),
        (lambda ps: optim.SGD([ps[0], ps[0]], 0.1), "given twice"),
        (lambda ps: optim.SGD([ps[0] * 1], 0.1), "parameter 0 is not a leaf"),
        (lambda ps: optim.SGD([tb.tensor([1.0])], 0.1), "requires_grad=True"),
        (lambda ps: optim.SGD([np.ones(3)], 0.1), "parameter 0 is not a leaf Tensor"),
        (lambda ps: optim.SGD([*ps, ps[0].sum()], 0.1), "parameter 2 is not a leaf"),
        (lambda ps: optim.AdamW(iter([]), 0.1), "at least one parameter, got none"),
        (lambda ps: optim.step_decay(0), "every >= 1"),
        (lambda ps: optim.step_decay(5, 0), "factor > 0"),
        (lambda ps: optim.warmup(5, start=-1), "start <= 1"),
        (lambda ps: optim.cosine(0), "total >= 1"),
        (lambda ps: optim.cosine(5, 2), "floor <= 1"),
        (lambda ps: optim.warmup(0), "steps >= 1"),
        (lambda ps: optim.clip_grad_norm(ps, 0), "max_norm > 0, got 0"),
        (lambda ps: optim.clip_grad_norm(ps, math.nan), "max_norm > 0, got nan"),
        (lambda ps: optim.clip_grad_norm(ps, 1), "no parameter has a gradient"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call(parameters())
