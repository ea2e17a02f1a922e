"""What can't be recorded is refused: the message names the line, and nothing has changed."""

import inspect
import math
import re
import threading

import numpy as np
import pytest

import tinybn as tb
from program.steps import BATCHES, classifier
from tinybn.program import RecordingError


def refused(body, match, error=RecordingError, make=None):
    """`body(x, labels, loss, model, optimizer)` in the middle of a step is refused."""
    step, model, optimizer = (make or classifier())()

    def broken(x, labels):
        optimizer.zero_grad()
        loss = tb.ops.cross_entropy(model(x), labels)
        body(x, labels, loss, model, optimizer)
        loss.backward()
        optimizer.step()
        return loss

    run = tb.compile(broken, backend="numpy")
    x, labels = BATCHES[0]
    run(x.copy(), labels)  # some bodies change it
    before = everything(model, optimizer)
    with pytest.raises(error, match=match) as caught:
        run(*BATCHES[1])
    for (name, old), (_, new) in zip(before, everything(model, optimizer), strict=True):
        assert new is old, name
    step(*BATCHES[1])  # the model is usable
    return str(caught.value)


def everything(model, optimizer):
    found = []
    for name, p in model.named_parameters():
        found += [(name, p.data), (f"{name}.grad", p.grad), (f"{name}.changed", p._changed)]
    for module in model.modules():
        found += [(f"{module}.{name}", value) for name, value in vars(module).items()]
    for memory in optimizer.state:
        found += list(memory.items())
    return [*found, ("lr", optimizer.lr)]


NUMBERS = {
    "if": lambda x, y, loss, m, o: 1 if loss > 3 else 0,
    "float": lambda x, y, loss, m, o: float(loss),
    "item": lambda x, y, loss, m, o: loss.item(),
    "numpy": lambda x, y, loss, m, o: loss.numpy(),
    "format": lambda x, y, loss, m, o: f"{loss:.3f}",
    "index": lambda x, y, loss, m, o: [1, 2, 3, 4, 5][y[0]],
    "range": lambda x, y, loss, m, o: range(y[0]),
    "math": lambda x, y, loss, m, o: math.sqrt(loss),
    "max": lambda x, y, loss, m, o: max(loss, 3),
    "asarray": lambda x, y, loss, m, o: np.asarray(loss.data),
    "tolist": lambda x, y, loss, m, o: loss.data.tolist(),
    "lr": lambda x, y, loss, m, o: min(o.lr, 0.1),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_are_not_there_yet(name):
    message = refused(NUMBERS[name], "a step that is being recorded has none: return the value")
    line = inspect.getsourcelines(NUMBERS[name])[1]
    assert f"{__file__}:{line}:" in message


ONCE_MORE = r"test_errors.py:\d+: this computes something else when the step runs again"


def test_an_array_drawn_by_numpy():
    rng = np.random.default_rng(0)
    refused(lambda x, y, loss, m, o: x + rng.standard_normal(20), ONCE_MORE)


def test_a_random_number_of_python():
    rng = np.random.default_rng(0)
    refused(lambda x, y, loss, m, o: loss * rng.random(), ONCE_MORE)


def test_an_array_that_is_always_the_same_is_a_constant():
    run = tb.compile(lambda x: x @ np.eye(3, dtype=np.float32), backend="numpy")
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    for _ in range(3):
        np.testing.assert_array_equal(run(x), x)


def test_an_array_of_the_closure_is_read_anew():
    table = np.ones(3, np.float32)
    run = tb.compile(lambda x: x * table, backend="numpy")
    for k in range(4):
        table[:] = k
        np.testing.assert_array_equal(run(np.ones(3, np.float32)), table)
    assert run.recordings == 1


def test_a_value_that_is_kept():
    kept = []
    refused(lambda x, y, loss, m, o: kept.append(loss), "the step changes kept")
    box = type("Box", (), {})()
    refused(lambda x, y, loss, m, o: setattr(box, "secret", loss), "the step changes box.secret")
    refused(
        lambda x, y, loss, m, o: setattr(box, "".join(["sec", "ret"]), loss),
        "the step changes the attributes of box",
    )


def test_a_count_that_a_module_keeps():
    class Counting(tb.nn.Module):
        def __init__(self):
            self.calls = 0

        def forward(self, x):
            self.calls += 1
            return x * (1 / self.calls)

    def make(layer=Counting):
        model = tb.nn.Sequential(tb.nn.Linear(20, 5), layer())
        return None, model, tb.optim.SGD(model.parameters(), lr=0.1)

    counting = tb.nn.Sequential(tb.nn.Linear(20, 5), Counting())
    run = tb.compile(lambda x: counting(x), backend="numpy")
    run(BATCHES[0][0])
    with pytest.raises(RecordingError, match=re.escape("changes 1.calls")):
        run(BATCHES[0][0])
    assert counting[1].calls == 1

    class Declared(Counting):
        buffers = ("calls",)

    declared, plain = (tb.nn.Sequential(Declared()) for _ in range(2))
    run = tb.compile(lambda x: declared(x), backend="numpy")
    x = BATCHES[0][0]
    for k in range(4):
        np.testing.assert_array_equal(run(x), plain(x))
        assert declared[0].calls == k + 1
    assert run.recordings == 1


def test_a_nonlocal_count():
    count = 0

    def step(x):
        nonlocal count
        count += 1
        return x * 2

    run = tb.compile(step, backend="numpy")
    run(np.ones(2, np.float32))
    with pytest.raises(RecordingError, match="the step changes count"):
        run(np.ones(2, np.float32))
    assert count == 1


def test_a_learning_rate_that_is_set():
    def body(x, labels, loss, model, optimizer):
        optimizer.lr = 0.5

    refused(body, "the step sets lr to 0.5: do it outside")


def test_a_schedule_in_the_step():
    model = tb.nn.Linear(20, 5)
    optimizer = tb.optim.SGD(model.parameters(), lr=0.1)
    schedule = tb.optim.Schedule(optimizer, tb.optim.cosine(10))

    def step(x, labels):
        optimizer.zero_grad()
        loss = tb.ops.cross_entropy(model(x), labels)
        loss.backward()
        optimizer.step()
        schedule.step()
        return loss

    run = tb.compile(step, backend="numpy")
    run(*BATCHES[0])
    rate = optimizer.lr
    with pytest.raises(RecordingError, match=r"the step changes schedule\.t"):
        run(*BATCHES[0])
    assert optimizer.lr == rate
    assert schedule.t == 1


IN_PLACE = {
    "a parameter": lambda x, y, loss, m, o: m[0].weight.data.__isub__(1),
    "an argument": lambda x, y, loss, m, o: x.__imul__(2),
    "an element": lambda x, y, loss, m, o: x.__setitem__(0, 1.0),
}


@pytest.mark.parametrize("name", IN_PLACE)
def test_changes_in_place(name):
    refused(IN_PLACE[name], "changed in place")


def test_a_view_is_not_changed_in_place():
    def step(x):
        y = x * 2
        z = y.reshape(-1)
        y += 1
        return z

    run = tb.compile(step, backend="numpy")
    x = np.ones((2, 2), np.float32)
    run(x)
    with pytest.raises(RecordingError, match="changed in place"):
        run(x)


def test_fresh_arrays_may_be_changed_in_place():
    def step(x):
        y = x * 2
        z = y
        y += 1
        y[0] = 5
        return z, y

    run = tb.compile(step, backend="numpy")
    x = np.ones((2, 2), np.float32)
    for expected in [run(x)]:
        for found in zip(run(x), expected, strict=True):
            np.testing.assert_array_equal(*found)


def test_masks():
    refused(
        lambda x, y, loss, m, o: x[x > 0], "a mask selects depends on numbers: use tb.ops.where"
    )


def test_methods_that_are_not_recorded():
    run = tb.compile(lambda x: (tb.tensor(x) > 0).data.all())
    run(BATCHES[0][0])
    with pytest.raises(RecordingError, match=r"test_errors\.py:\d+: an array's \.all\(\) is not"):
        run(BATCHES[0][0])


def test_functions_that_are_not_recorded():
    refused(lambda x, y, loss, m, o: np.linalg.norm(x), "numpy.norm is not recorded: use tb.ops")
    refused(lambda x, y, loss, m, o: np.add.reduce(x), "numpy.add.reduce")


@pytest.mark.parametrize("argument", [object(), {1, 2}, np.float32(2)])
def test_arguments_of_other_kinds(argument):
    run = tb.compile(lambda x, a: x * 2, backend="numpy")
    x = np.ones(2, np.float32)
    run(x, argument)
    with pytest.raises(
        RecordingError, match=r"argument 1 is a .*: expected arrays, Tensors and numbers"
    ):
        run(x, argument)


def test_an_argument_with_history():
    weight = tb.tensor([1.0], requires_grad=True)
    run = tb.compile(lambda x: (x * x).sum().backward(), backend="numpy")
    run(weight * 2)
    with pytest.raises(
        RecordingError, match=r"argument 0 was computed by recorded ops: detach\(\) it"
    ):
        run(weight * 2)


def test_backward_after_a_compiled_step():
    weight = tb.tensor([1.0], requires_grad=True)
    run = tb.compile(lambda x: (x * weight).sum(), backend="numpy")
    x = np.float32([2])
    run(x).backward()
    with pytest.raises(ValueError, match="call backward inside"):
        run(x).backward()


def test_another_thread():
    _, model, _ = classifier()()
    seen = []
    see = seen.append

    def interrupted(x):
        def other():
            try:
                model(BATCHES[0][0])
            except RecordingError as error:
                see(str(error))

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        return model(x)

    run = tb.compile(interrupted, backend="numpy")
    run(BATCHES[0][0])
    run(BATCHES[0][0])
    assert "another thread uses a model while a step of it is being recorded" in seen[0]


def test_an_exception_in_the_middle_of_recording():
    def body(x, labels, loss, model, optimizer):
        if not isinstance(x, np.ndarray):
            raise KeyError("mine")

    refused(body, "mine", KeyError)


def test_errors_of_the_first_call_are_ordinary_errors():
    run = tb.compile(classifier()()[0])
    with pytest.raises(ValueError, match="linear: x"):
        run(np.ones((4, 3), np.float32), np.zeros(4, int))
