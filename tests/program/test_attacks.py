"""Steps that are hard to record: each does what the eager step does, or is refused."""

import os
import random
import signal
import threading
import time
import weakref
from array import array
from collections import ChainMap, OrderedDict, UserDict, UserList, deque
from contextvars import ContextVar
from dataclasses import dataclass
from types import MappingProxyType, ModuleType, SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest

import tinybn as tb
from tinybn.program import RecordingError

RNG = np.random.default_rng(0)
X = RNG.standard_normal((8, 6, 4)).astype(np.float32)


@pytest.fixture(params=["numpy", "numba"])
def backend(request):
    if request.param == "numba":
        pytest.importorskip("numba")
    return request.param


def outcome(make, compiled=None, count=6):
    """What calls return and leave behind. make() -> step, and use(f, i), which calls f."""
    tb.seed(0)
    step, use = make()
    f = compiled(step) if compiled else step
    return [[_numbers(leaf) for leaf in _leaves(use(f, i))] for i in range(count)]


def _leaves(tree):
    if isinstance(tree, dict):
        tree = [*tree.values()]
    return [x for part in tree for x in _leaves(part)] if isinstance(tree, list | tuple) else [tree]


def _numbers(leaf):
    if isinstance(leaf, tb.Tensor):
        leaf = leaf.data
    return leaf.copy() if isinstance(leaf, np.ndarray | np.generic) else leaf


def assert_same(make, backend, count=6):
    expected = outcome(make, count=count)
    found = outcome(make, lambda step: tb.compile(step, backend=backend), count)
    for i, (a, b) in enumerate(zip(expected, found, strict=True)):
        for x, y in zip(a, b, strict=True):
            if not isinstance(x, np.ndarray | np.generic):
                assert x == y, i
                continue
            assert (x.dtype, x.shape) == (y.dtype, y.shape), i
            np.testing.assert_allclose(y, x, rtol=0 if backend == "numpy" else 1e-5, atol=1e-6)
            if backend == "numpy":
                assert (np.signbit(x) == np.signbit(y)).all(), i


def assert_refused(make, match, backend="numpy"):
    """The second call raises RecordingError and changes nothing: `use(None, i)` returns the state."""
    step, use = make()
    f = tb.compile(step, backend=backend)
    use(f, 0)
    before = [_numbers(leaf) for leaf in _leaves(use(None, 0))]
    with pytest.raises(RecordingError, match=match):
        use(f, 1)
    np.testing.assert_equal([_numbers(leaf) for leaf in _leaves(use(None, 0))], before)


# arrays that the step refers to


def averages_of_weights():
    w = tb.tensor(X[0], requires_grad=True)
    optimizer = tb.optim.SGD([w], 0.1)
    average = {"w": w.data.copy()}

    def step(x):
        optimizer.zero_grad()
        loss = ((x * w - 1) ** 2).sum()
        loss.backward()
        optimizer.step()
        average["w"] = 0.9 * average["w"] + 0.1 * w.data
        return loss

    return step, lambda f, i: (f(X[i]), w, dict(average))


def rebound():
    total = np.zeros((6, 4), np.float32)

    def step(x):
        nonlocal total
        total = total * 0.5 + x
        return total.sum(axis=0)

    return step, lambda f, i: (f(X[i]), total)


def of_an_object():
    class Meter:
        mean = None

    meter = Meter()
    meter.mean = np.zeros(4, np.float32)

    def step(x):
        meter.mean = 0.9 * meter.mean + 0.1 * x.mean(0)
        return x - meter.mean

    return step, lambda f, i: (f(X[i]), meter.mean)


def computed_with():
    scale = np.ones(4, np.float32)

    def use(f, i):
        scale[:] = i  # in place, between two calls
        return f(X[i])

    return lambda x: x * (scale * 2)[None] + scale[1:2], use


def without_axes():
    scale = np.array(1.0, np.float32)

    def use(f, i):
        scale[...] = i
        return f(X[i])

    return lambda x: x * scale, use


def in_a_tuple():
    moments = np.zeros(4, np.float32), np.ones(4, np.float32)

    def use(f, i):
        moments[1][:] = 1 + i // 3
        return f(X[i])

    return lambda x: (x - moments[0]) * (1 / moments[1]), use


def in_a_list():
    arrays = [np.zeros(4, np.float32), "name", np.ones(4, np.float32)]

    def step(x):
        arrays[0] = x.mean(0)
        return x * arrays[2]

    def use(f, i):
        arrays[2] = np.full(4, i, np.float32)
        return f(X[i]), arrays[0]

    return step, use


ARRAYS = [
    averages_of_weights, rebound, of_an_object, computed_with, without_axes, in_a_tuple, in_a_list
]  # fmt: skip


@pytest.mark.parametrize("make", ARRAYS)
def test_arrays_that_the_step_refers_to(make, backend):
    assert_same(make, backend)


def test_an_array_changed_in_place():
    def make():
        seen = np.zeros(3)

        def step(x):
            seen[0] += 1
            return x * 2

        return step, lambda f, i: (f and f(X[i]), seen)

    assert_refused(make, "changed in place")


def test_labels_that_the_step_refers_to(backend):
    labels = np.array([0, 1, 2, 3, 0, 1])
    step = tb.compile(lambda x: tb.ops.cross_entropy(x, labels), backend=backend)
    for i in range(3):
        step(X[i])
    labels[0] = 7
    with pytest.raises(ValueError, match="from 0 to 3"):
        step(X[3])


# settings


def test_a_setting_that_is_gone(backend):
    def make():
        options = {"scale": 2.0}

        def step(x):
            return x * options["scale"] if "scale" in options else x

        def use(f, i):
            if i == 3:
                del options["scale"]
            return f(X[i])

        return step, use

    assert_same(make, backend)


def test_counts_that_differ_beside_a_setting_made_anew(backend):
    def make():
        scale = 1.5
        ws = [tb.tensor(X[i], requires_grad=True) for i in range(2)]
        optimizers = [tb.optim.Adam([w], 0.1) for w in ws]

        def step(x):
            for w, optimizer in zip(ws, optimizers, strict=True):
                optimizer.zero_grad()
                ((w * x - scale) ** 2).sum().backward()
                optimizer.step()

        def use(f, i):
            nonlocal scale
            scale = float("1.5")
            if i == 4:
                optimizers[1].state[0]["step"] = 100
            f(X[i])
            return ws

        return step, use

    assert_same(make, backend)


# numbers


@pytest.mark.parametrize("lr", [1, np.float32(0.5), np.float64(0.5)], ids=repr)
def test_learning_rates_of_other_kinds(lr, backend):
    def make():
        w = tb.tensor(X[0], requires_grad=True)
        optimizer = tb.optim.SGD([w], 0.25)

        def step(x):
            optimizer.zero_grad()
            (w * x).mean().backward()
            optimizer.step()

        def use(f, i):
            optimizer.lr = lr if i < 3 else 0.125
            f(X[i])
            return w

        return step, use

    assert_same(make, backend)


def test_an_optimizer_that_has_not_made_a_step(backend):
    def make():
        w = tb.tensor(X[0], requires_grad=True)
        optimizer = tb.optim.SGD([w], 0.25)

        def step(x):
            optimizer.zero_grad()
            (w * x).mean().backward()
            optimizer.step()

        def use(f, i):
            nonlocal optimizer
            if i in (1, 4):
                optimizer = tb.optim.SGD([w], 0.25)
            f(X[i])
            return w, optimizer.state

        return step, use

    assert_same(make, backend)


def test_what_is_set_to_a_constant_can_be_changed_afterwards(backend):
    def make():
        w = tb.tensor(X[0])

        def step(x):
            w.data = np.ones((6, 4), np.float32)
            return w + x

        def use(f, i):
            result = f(X[i])
            w.data += 1
            return result, w

        return step, use

    assert_same(make, backend)


# arguments and results


class Batch(NamedTuple):
    x: np.ndarray
    scale: float


ARGUMENTS = {
    "a NamedTuple": (
        lambda b: Batch(b.x * b.scale, b.scale),
        lambda f, i: [r := f(Batch(X[i], 2.0)), type(r).__name__],
    ),
    "an OrderedDict": (
        lambda d: OrderedDict(y=d["x"] * 2, x=d["x"]),
        lambda f, i: [r := f(OrderedDict(x=X[i])), type(r).__name__, *r],
    ),
    "an argument returned": (lambda x: {"x": x}, lambda f, i: f(X[i])["x"] is X[i]),
    "a Tensor returned": (
        lambda t: [t, t * 2],
        lambda f, i: [f(t := tb.tensor(X[i], requires_grad=True))[0] is t, t.requires_grad],
    ),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments_and_results(name, backend):
    assert_same(lambda: ARGUMENTS[name], backend)


def test_returned_constants_are_fresh(backend):
    def use(f, i):
        _, array, tensor = f(X[i])
        array += 1
        tensor.data += 1
        return array, tensor

    def step(x):
        return x * 2, np.zeros(3), tb.tensor([1.0, 2.0])

    assert_same(lambda: (step, use), backend)


def test_an_argument_that_is_changed():
    f = tb.compile(lambda arrays: arrays.append(arrays[0] * 2))
    f([X[0]])
    with pytest.raises(RecordingError, match="changes an argument"):
        f([X[1]])


SHARED = {
    "has a gradient": lambda t, w: (t.sum().backward(), (t, X[0]))[1],
    "recorded ops": lambda t, w: (t * 2, X[0]),
    "refers to": lambda t, w: (w, X[0]),
    "same Tensor": lambda t, w: (t, t),
}


@pytest.mark.parametrize("match", SHARED)
def test_tensors_that_share_a_gradient(match, backend):
    w = tb.tensor(X[0], requires_grad=True)

    def step(t, u):
        loss = (t * w).sum() + (u * w).sum()
        loss.backward()
        return loss

    def fresh():
        return tb.tensor(X[1], requires_grad=True)

    run = tb.compile(step, backend=backend)
    for _ in range(2):  # recorded with other arguments of these kinds
        w.grad = None
        run(fresh(), X[0] if match != "same Tensor" else fresh())
    w.grad = None
    arguments = SHARED[match](fresh(), w)
    with pytest.raises(RecordingError, match=match):
        run(*arguments)
    assert w.grad is None


# numbers that look alike


@pytest.mark.parametrize("other", [2.0, True, np.float64(2.0)], ids=repr)
def test_settings_that_are_equal(other, backend):
    def make():
        scale = 1 if other is True else 2

        def use(f, i):
            nonlocal scale
            scale = other if i > 2 else scale
            return f(np.arange(4) + 1), f(X[i])

        return lambda x: x * scale, use

    assert_same(make, backend)


def test_numbers_are_of_their_type():
    def step(x, k):
        return x * k if isinstance(k, float) else x + k

    run = tb.compile(step, backend="numpy")
    for k in (2.0, 3.0, 4.0, 2, 3, 4):
        np.testing.assert_array_equal(run(X[0], k), step(X[0], k))


def test_zeros_have_signs():
    def make():
        zero = 0.0

        def use(f, i):
            nonlocal zero
            zero = -0.0 if i > 2 else 0.0
            return f(np.array([-0.0, 0.0, 1.0]))

        return lambda x: (x * zero, x - 0.0, x - -0.0), use

    assert_same(make, "numpy")


def test_parameters_that_are_not_contiguous(backend):
    def make():
        w = tb.tensor(X[0].T, requires_grad=True)
        w.data = np.asfortranarray(X[0])
        optimizer = tb.optim.SGD([w], 0.25)

        def step(x):
            optimizer.zero_grad()
            (w * x).mean().backward()
            optimizer.step()

        def use(f, i):
            if i == 4:
                w.data = np.repeat(X[0], 2, axis=0)[::2]
            f(X[i])
            return w

        return step, use

    assert_same(make, backend)


# where a step finds its settings


def of_a_property():
    class Options:
        k = 1.0

        @property
        def scale(self):
            return self._scale(3.0)

        def _scale(self, times):
            return self.hidden * times

    options = Options()
    return (lambda x: x * options.scale), lambda k: setattr(options, "hidden", k)


def of_an_object_that_is_called():
    class Scale:
        def __call__(self, x):
            return x * self.k

    scale = Scale()
    return (lambda x: scale(x)), lambda k: setattr(scale, "k", k)


def of_a_class():
    class Options:
        pass

    class More(Options):
        pass

    more = More()
    return (lambda x: x * more.k), lambda k: setattr(Options, "k", k)


def of_a_class_itself():
    class Options:
        @classmethod
        def scaled(cls, x):
            return x * cls.k

    return (lambda x: Options.scaled(x)), lambda k: setattr(Options, "k", k)


def of_a_base_class():
    box = [1.0]

    class Base:
        def scaled(self, x):
            return x * box[0]

    class Scale(Base):
        def scaled(self, x):
            return super().scaled(x) + 1

    return (lambda x: Scale().scaled(x)), lambda k: box.__setitem__(0, k)


def of_slots():
    @dataclass(slots=True)
    class Options:
        k: float = 1.0

    options = Options()
    return (lambda x: x * options.k), lambda k: setattr(options, "k", k)


def of_a_module():
    module = ModuleType("options")
    return (lambda x: x * module.k), lambda k: setattr(module, "k", k)


def of_a_function():
    def scale(x):
        return x * scale.k

    return (lambda x: scale(x)), lambda k: setattr(scale, "k", k)


def of_defaults():
    def scale(x, *, k=1.0):
        return x * k

    return (lambda x: scale(x)), lambda k: scale.__kwdefaults__.update(k=k)


def of_a_set():
    flags = set()
    return (lambda x: x * 2 if "on" in flags else x), (
        lambda k: flags.add("on") if k > 1 else flags.discard("on")
    )


def by_getattr():
    options = SimpleNamespace(k=1.0)
    return (lambda x: x * getattr(options, "k")), lambda k: setattr(options, "k", k)  # noqa: B009


def that_are_not_there():
    options = SimpleNamespace()
    return (lambda x: x * 2 if hasattr(options, "k") else x), (
        lambda k: setattr(options, "k", k) if k > 1 else None
    )


def of_an_overriding_class():
    class Base:
        k = 1.0

    class Scale(Base):
        pass

    scale = Scale()
    return (lambda x: x * scale.k), lambda k: setattr(Scale, "k", k) if k > 1 else None


def of_another_class():
    def of(value):
        return type("Scale", (), {"k": value})

    scale = of(1.0)()
    return (lambda x: x * scale.k), lambda k: setattr(scale, "__class__", of(k))


def in_containers_of_the_library():
    below = {"k": 1.0}
    containers = [UserDict(below), ChainMap({}, below), MappingProxyType(below)]

    def put(k):
        containers[0]["k"] = below["k"] = k

    return (lambda x: x * sum(c["k"] for c in containers)), put


def in_a_user_list():
    values = UserList([1.0])
    return (lambda x: x * values[0]), lambda k: values.__setitem__(0, k)


def in_bytes():
    values = bytearray(1), array("d", [0.0])
    return (lambda x: x * (values[0][0] + values[1][0])), (
        lambda k: [v.__setitem__(0, type(v[0])(k)) for v in values]
    )


def in_arrays_of_other_dtypes():
    names, things = np.array(["1.0"]), np.array([1.0, None])

    def put(k):
        names[0], things[0] = str(k), k

    return (lambda x: x * float(names[0]) * things[0]), put


def behind_a_weak_reference():
    class Options:
        k = 1.0

    options = Options()
    reference = weakref.ref(options)
    return (lambda x: x * reference().k), lambda k: setattr(options, "k", k)


def of_a_context():
    variable = ContextVar("k", default=1.0)
    return (lambda x: x * variable.get()), variable.set


PLACES = [
    of_a_property, of_an_object_that_is_called, of_a_class, of_a_class_itself, of_a_base_class,
    of_slots, of_a_module, of_a_function, of_defaults, of_a_set, by_getattr, that_are_not_there,
    of_an_overriding_class, of_another_class, in_containers_of_the_library, in_a_user_list, in_bytes,
    in_arrays_of_other_dtypes, behind_a_weak_reference, of_a_context,
]  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_settings_are_found(place):
    def make():
        step, put = place()
        return step, lambda f, i: [put(1.0 + i // 3), f(X[i])][1]

    assert_same(make, "numpy")


def test_settings_that_the_step_changes():
    class Counter:
        total = 0

    counter = Counter()
    queue = deque()

    def attribute(x):
        counter.last = x.shape

    def of_class(x):
        Counter.total += 1

    def queued(x):
        queue.append(1)

    for step, name in ((attribute, "attributes of"), (of_class, "total"), (queued, "queue")):
        run = tb.compile(step)
        run(X[0])
        vars(counter).clear()
        before = Counter.total, len(queue)
        with pytest.raises(RecordingError, match=f"changes .*{name}"):
            run(X[1])
        assert (Counter.total, len(queue)) == before
        assert not vars(counter)


def test_an_iterator():
    numbers = iter(range(9))
    run = tb.compile(lambda x: x * min(next(numbers), 0))
    run(X[0])
    with pytest.raises(RecordingError, match="an iterator, numbers"):
        run(X[1])
    assert next(numbers) == 1


def test_who_holds_an_old_array_keeps_it_without_gradients_too(backend):
    def make():
        total = np.zeros((6, 4), np.float32)
        held = []

        def step(x):
            nonlocal total
            total = total + x
            return total

        def use(f, i):
            held.append(total)
            return f(X[i]), held

        return step, use

    assert_same(make, backend)


def test_an_array_that_gets_another_shape_or_dtype(backend):
    def make():
        rows = np.zeros((1, 4), np.float32)
        total = np.zeros(4, np.float32)

        def step(x):
            nonlocal rows, total
            rows = np.concatenate([rows, x])
            total = total + x.astype(np.float64).sum(0)

        return step, lambda f, i: (f(X[i]), rows, total)

    assert_same(make, backend)


def test_code_that_is_replaced():
    def make():
        def scale(x):
            return x * 2

        def use(f, i):
            if i == 3:  # as IPython's autoreload does
                scale.__code__ = (lambda x: x * 3).__code__
            return f(X[i])

        return lambda x: scale(x), use

    assert_same(make, "numpy")


def test_an_attribute_that_is_set_by_a_name_that_is_made():
    counter = SimpleNamespace(total=0)
    run = tb.compile(lambda x: setattr(counter, "".join(["to", "tal"]), 1))
    run(X[0])
    counter.total = 0
    with pytest.raises(RecordingError, match="changes the attributes of counter"):
        run(X[1])
    assert counter.total == 0


@pytest.mark.parametrize("draw", [random.random, np.random.rand, np.random.default_rng(0).random])
def test_random_numbers_that_decide(draw):
    run = tb.compile(lambda x: x * 2 if draw() < 2 else x)
    run(X[0])
    with pytest.raises(RecordingError, match="draws random numbers"):
        run(X[1])


def test_parameters_without_axes(backend):
    scale = tb.tensor(1.0, requires_grad=True)
    optimizer = tb.optim.SGD([scale], 0.1, momentum=0.9)

    def step(x):
        optimizer.zero_grad()
        loss = ((x * scale - 1) ** 2).mean()
        loss.backward()
        optimizer.step()
        return loss

    run = tb.compile(step, backend=backend)
    for i in range(5):
        loss = run(X[i])
        assert all(isinstance(t.data, np.ndarray) for t in (loss, scale, scale.grad))
    assert run.recordings == 1


def test_threads_that_share_a_model():
    w = tb.tensor(X[0], requires_grad=True)
    optimizer = tb.optim.SGD([w], 0.1)

    def train(x):
        time.sleep(0.005)  # so that the other thread records meanwhile
        optimizer.zero_grad()
        (w * x).sum().backward()
        optimizer.step()

    def scaled(x):
        time.sleep(0.003)
        return w * x

    errors = []

    def repeat(run):
        try:
            for i in range(4):
                run(X[i % 4])
        except Exception as error:
            errors.append(error)

    for _ in range(5):
        steps = [tb.compile(f, backend="numpy") for f in (train, scaled)]
        threads = [threading.Thread(target=repeat, args=[step]) for step in steps]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not errors
    assert type(w.data) is np.ndarray


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_while_another_thread_runs_a_step():
    inside, resume = threading.Event(), threading.Event()

    def slow(x):
        inside.set()
        resume.wait(0.2)
        return x * 2

    run = tb.compile(lambda x: x * 2, backend="numpy")
    run(X[0])
    thread = threading.Thread(target=tb.compile(slow, backend="numpy"), args=[X[0]])
    thread.start()
    inside.wait()
    if not (child := os.fork()):
        signal.alarm(5)
        os._exit(0 if np.array_equal(run(X[1]), X[1] * 2) else 1)
    resume.set()
    thread.join()
    assert os.waitpid(child, 0)[1] == 0
