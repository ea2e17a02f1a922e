"""What a step reaches, and what of it matters between two calls."""

import functools
import operator
import types
from collections import deque
from types import SimpleNamespace

import numpy as np
import pytest

import tinybn as tb
from tinybn.program import RecordingError

X = np.arange(6, dtype=np.float32).reshape(2, 3)


def compiled(step):
    """The step, compiled, after a call that is recorded."""
    run = tb.compile(step, backend="numpy")
    run(X)
    run(X)
    return run


def script(source, **names):
    """The globals of a script."""
    space = {"__name__": "script", "tb": tb, **names}
    exec(source, space)
    return space


def test_a_global_that_appears_later():
    space = script("def step(x):\n    return abs(x) * 2")
    run = compiled(space["step"])
    np.testing.assert_array_equal(run(-X), X * 2)
    space["abs"] = np.negative
    np.testing.assert_array_equal(run(X), X * -2)
    assert run.recordings == 2
    del space["abs"]
    np.testing.assert_array_equal(run(-X), X * 2)


def test_a_global_that_the_step_makes():
    space = script("def step(x):\n    global made\n    made = 1\n    return x * 2")
    run = tb.compile(space["step"], backend="numpy")
    run(X)
    del space["made"]
    with pytest.raises(RecordingError, match="changes made"):
        run(X)
    assert "made" not in space


def test_a_global_that_has_the_name_of_an_attribute():
    """Such as `for step in range(9): train(x)`, where train calls optimizer.step()."""
    w = tb.tensor(X, requires_grad=True)
    optimizer = tb.optim.SGD([w], 0.1)
    source = "def train(x):\n    (w * x).sum().backward()\n    optimizer.step()\n    w.grad = None"
    space = script(source, w=w, optimizer=optimizer, step=0)
    run = tb.compile(space["train"], backend="numpy")
    for space["step"] in range(5):
        run(X)
    assert run.recordings == 1


def test_a_global_that_is_named_by_a_string():
    space = script("def step(x):\n    return x * globals()['scale']", scale=2)
    run = compiled(space["step"])
    space["scale"] = 3
    np.testing.assert_array_equal(run(X), X * 3)


def test_arrays_in_a_tuple():
    pair = np.ones(3, np.float32), 2
    run = compiled(lambda x: x * (1 / pair[0]))
    pair[0][:] = 4
    np.testing.assert_array_equal(run(X), X / 4)
    assert run.recordings == 2  # their numbers are known while the step is recorded


def test_arrays_in_a_deque():
    history = deque([np.zeros(3, np.float32)] * 2, maxlen=2)

    def step(x):
        history[1] = history[0] * 0.5 + x.sum(0)
        return history[1] * 2

    run, expected = tb.compile(step, backend="numpy"), np.zeros(3, np.float32)
    for _ in range(5):
        expected = expected * np.float32(0.5) + X.sum(0)
        np.testing.assert_array_equal(run(X), expected * 2)
        history.rotate()
    assert run.recordings == 1


def test_keys_that_are_made_anew():
    scales = {"a": 2}
    run = compiled(lambda x: x * scales["a"])
    scales.clear()
    scales["".join(["a", ""])[:1]] = 2
    run(X)
    assert run.recordings == 1
    scales[1] = 3
    run(X)
    assert run.recordings == 2


@pytest.mark.parametrize("other", [True, 1.0])
def test_keys_of_another_kind(other):
    numbers = {1}
    run = compiled(lambda x: np.array(list(numbers)) + 1)
    numbers.clear()
    numbers.add(other)
    assert run(X).dtype == (np.array([other]) + 1).dtype


def test_a_rate_of_numpy_is_an_input():
    w = tb.tensor(X, requires_grad=True)
    optimizer = tb.optim.SGD([w], 0.1)

    def step(x):
        optimizer.zero_grad()
        (w * x).sum().backward()
        optimizer.step()

    run = tb.compile(step, backend="numpy")
    for k in range(1, 5):
        optimizer.lr = np.float32(k)
        before = w.numpy()
        run(X)
        np.testing.assert_allclose(w.numpy(), before - k * X, rtol=1e-6)
    assert run.recordings == 1


def test_an_array_in_a_tuple_that_the_step_changes():
    pair = np.ones(3, np.float32), 2
    run = tb.compile(lambda x: pair[0].__iadd__(1), backend="numpy")
    run(X)
    with pytest.raises(RecordingError, match=r"changes pair\[0\]"):
        run(X)


def test_a_property_that_is_replaced():
    class Options:
        scale = property(lambda self: 2.0)

    options = Options()
    run = compiled(lambda x: x * options.scale)
    Options.scale = property(lambda self: 3.0)
    np.testing.assert_array_equal(run(X), X * 3)


def test_an_attribute_of_a_class_that_the_step_deletes():
    class Options:
        scale = 2.0

    def step(x):
        y = x * Options.scale
        del Options.scale
        return y

    run = tb.compile(step, backend="numpy")
    run(X)
    Options.scale = 2.0
    with pytest.raises(RecordingError, match=r"changes Options\.scale"):
        run(X)
    assert Options.scale == 2.0


def test_attributes_that_are_named_like_those_of_a_tensor():
    class Meter:
        _data = grad = _changed = None

    meter = Meter()
    meter._data, meter.grad, meter._changed = np.zeros(3, np.float32), None, 1

    def step(x):
        meter._data = meter._data + x.sum(0) * meter._changed
        return meter.grad

    run = tb.compile(step, backend="numpy")
    for k in range(1, 4):
        assert run(X) is None
        np.testing.assert_array_equal(meter._data, X.sum(0) * np.float32(k))
    assert run.recordings == 1


def test_a_buffer_that_is_a_flag():
    class Flagged(tb.nn.Module):
        buffers = ("on",)
        on = True

        def forward(self, x):
            return x * 2 if self.on else x

    layer = Flagged()
    layer.on = True
    run = compiled(lambda x: layer(x))
    layer.on = False
    np.testing.assert_array_equal(run(X), X)


def test_keys_in_another_order():
    scales = {"a": 2, "b": 3}
    run = compiled(lambda x: x * next(iter(scales.values())))
    scales["a"] = scales.pop("a")
    np.testing.assert_array_equal(run(X), X * 3)


def test_many_settings():
    """More than the small numbers that Python keeps only once."""
    scales = [*range(400)]
    run = compiled(lambda x: x * scales[-1])
    scales.append(500)
    np.testing.assert_array_equal(run(X), X * 500)
    scales[399] = 0
    scales.pop()
    np.testing.assert_array_equal(run(X), X * 0)


def test_attributes_whose_names_are_words_of_python():
    options = SimpleNamespace(**{"class": 2})

    class Slots:
        __slots__ = ("lambda",)

    slots = Slots()
    setattr(slots, "lambda", 1)
    run = compiled(lambda x: x * (getattr(options, "class") + getattr(slots, "lambda")))
    setattr(options, "class", 3)
    setattr(slots, "lambda", 4)
    np.testing.assert_array_equal(run(X), X * 7)


def test_an_equal_tuple_is_the_same_setting():
    options = SimpleNamespace(betas=(0.5, 2))
    run = compiled(lambda x: x * options.betas[0])
    options.betas = (float("0.5"), 2)
    run(X)
    assert run.recordings == 1
    options.betas = (0.25, 2)
    np.testing.assert_array_equal(run(X), X / 4)


def test_an_array_with_gaps_costs_no_copies_of_others():
    table = np.arange(12, dtype=np.float32).reshape(2, 6)[:, ::2]
    w = tb.tensor(X, requires_grad=True)
    optimizer = tb.optim.SGD([w], 0.1)

    def step(x):
        optimizer.zero_grad()
        (w * table * x).sum().backward()
        optimizer.step()

    run = tb.compile(step)
    for _ in range(3):
        run(X)
    data, before = w.data, w.numpy()
    del data
    memory = w.data.ctypes.data
    table[:] = 1
    run(X)
    assert w.data.ctypes.data == memory
    np.testing.assert_allclose(w.numpy(), before - np.float32(0.1) * X, rtol=1e-6)


@pytest.mark.parametrize("count", range(6))
def test_an_array_given_to_a_tensor_keeps_its_numbers(count):
    """However many references there are to the array that was there before."""
    w = tb.tensor(X, requires_grad=True)
    optimizer = tb.optim.SGD([w], 0.1)

    def step(x):
        optimizer.zero_grad()
        (w * x).sum().backward()
        optimizer.step()

    run = tb.compile(step)
    for _ in range(3):
        run(X)
    held = [w.data] * count
    new = X.copy()
    w.data = new
    run(X)
    np.testing.assert_array_equal(new, X)
    assert all(a is not w.data for a in held)


def test_a_gradient_that_was_missing():
    w = tb.tensor(X, requires_grad=True)
    run = tb.compile(lambda x: (w * x).sum().backward(), backend="numpy")
    for _ in range(3):
        w.grad = None
        run(X)
    run(X)
    np.testing.assert_array_equal(w.grad.data, X * 2)


# arguments and results


def test_a_tensor_of_the_model_is_returned_as_it_is():
    w = tb.tensor(X, requires_grad=True)
    run = tb.compile(lambda x: (w, w * x), backend="numpy")
    for _ in range(3):
        assert run(X)[0] is w


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_what_is_returned_twice_is_one_object(backend):
    if backend == "numba":
        pytest.importorskip("numba")

    def step(x):
        loss = tb.tensor(x).sum()
        return loss, {"loss": loss, "array": loss.data}

    run = tb.compile(step, backend=backend)
    for _ in range(3):
        first, second = run(X)
        assert first is second["loss"]
        assert first.item() == 15


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_integers_that_are_too_large(backend):
    if backend == "numba":
        pytest.importorskip("numba")
    run = tb.compile(lambda x, n: x * n, backend=backend)
    for n in (3, 2**63 - 1, -(2**63)):
        np.testing.assert_allclose(run(X, n), X * np.float32(n))
    run(X, 2**63)
    with pytest.raises(RecordingError, match="argument 1 is an integer of more than 64 bits"):
        run(X, 2**63)


def test_functions_without_a_name_or_signature():
    run = compiled(operator.itemgetter(0))
    np.testing.assert_array_equal(run(X), X[0])
    run = tb.compile(functools.partial(np.multiply, 2), backend="numpy")
    sizes = [n for n in range(1, 17) for _ in range(2)]
    with pytest.warns(UserWarning, match="the step has been recorded 16 times"):
        results = [run(np.ones(n)) for n in sizes]
    assert [y.tolist() for y in results] == [[2] * n for n in sizes]


def test_named_things_may_be_of_any_kind():
    hidden = {"scale": np.ones(3, np.float32)}
    step = types.MethodType(lambda self, x: x * self["call"](), {"call": lambda: hidden["scale"]})
    run = tb.compile(step, state=[hidden], backend="numpy")
    for k in range(3):
        hidden["scale"][:] = k
        np.testing.assert_array_equal(run(X), X * k)
