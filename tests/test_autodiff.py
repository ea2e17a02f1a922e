"""The engine: what is recorded, what is computed, what is freed, and what is refused."""

import contextlib
import gc
import re
import sys
import threading

import numpy as np
import pytest
from numeric import draw, here

import tinybn as tb
from tinybn import ops
from tinybn.op import Node, primitive


def leaf(*shape, seed=0, dtype=np.float64):
    return tb.tensor(draw(shape, seed=seed, dtype=dtype), requires_grad=True)


def counted(*names):
    """A multiply that notes which of its rules were called, and on what."""
    calls = []

    def rule(name, other):
        def run(g, a, b):
            calls.append((name, type(g)))
            return g * (b if other == "b" else a)

        return run

    @primitive(rule(names[0], "b"), rule(names[1], "a"))
    def times(xp, a, b):
        return a * b

    return times, calls


# What a pass computes


def test_a_leaf_collects_the_gradients_of_all_its_uses():
    x = leaf(3)
    (x * x + 3 * x).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), 2 * x.numpy() + 3)


def test_grad_adds_up_over_passes():
    x = leaf(3)
    (2 * x).sum().backward()
    first = x.grad
    (2 * x).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), 4)
    np.testing.assert_array_equal(first.numpy(), 2)  # the earlier sum was not changed in place


def test_only_leaves_keep_grad():
    x = leaf(3)
    h = x * 2
    h.sum().backward()
    with pytest.warns(UserWarning, match="output of 'multiply': ask for it by tb.grad"):
        assert h.grad is None
    assert x.grad is not None
    h.grad = x.grad
    assert h.grad is x.grad


def test_outputs_and_inputs_may_come_from_generators():
    x, y = leaf(3), leaf(3)
    found = tb.grad((a.sum() for a in (x * 2, y * 3)), (a for a in (x, y)))
    assert [g.numpy()[0] for g in found] == [2, 3]
    for outputs, inputs in [(None, x), (x.sum(), None), (x.sum(), 3)]:
        with pytest.raises(
            TypeError, match=r"grad: expected .*puts to be a Tensor or several, got"
        ):
            tb.grad(outputs, inputs)


def test_rules_run_only_for_inputs_that_need_a_gradient():
    times, calls = counted("a", "b")
    a, b = leaf(3), tb.tensor(draw((3,), seed=1))
    times(a, b).sum().backward()
    assert [name for name, _ in calls] == ["a"]


def test_grad_runs_only_the_rules_on_the_way_to_its_inputs():
    times, calls = counted("a", "b")
    a, b = leaf(3), leaf(3, seed=1)
    h = times(a, b)
    tb.grad((h * a).sum(), b)
    assert [name for name, _ in calls] == ["b"]
    assert a.grad is None
    assert b.grad is None


def test_rules_see_arrays_and_under_create_graph_tensors():
    times, calls = counted("a", "b")
    a, b = leaf(3), leaf(3, seed=1)
    y = times(a, b).sum()
    tb.grad(y, a, retain_graph=True)
    tb.grad(y, a, create_graph=True)
    assert calls == [("a", type(a.data)), ("a", tb.Tensor)]


def test_under_create_graph_a_rule_sees_the_recorded_output_itself():
    seen = []

    def rule(g, y):
        seen.append(y)
        return g * y

    @primitive(rule)
    def grow(xp, a):
        return xp.exp(a)

    x = leaf(3)
    y = grow(x)
    (g,) = tb.grad(y.sum(), x, create_graph=True)
    assert seen[0].data is y.data
    tb.grad(g.sum(), x)
    assert len(seen) == 2
    (h,) = tb.grad(tb.grad(grow(x).sum(), x, create_graph=True)[0].sum(), x, create_graph=True)
    np.testing.assert_allclose(h.numpy(), np.exp(x.numpy()))


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
def test_derivatives_of_any_order(order):
    x = leaf(4)
    y = (x * x).exp()
    expected = np.polynomial.Polynomial([1.0])  # d/dx p·exp(x²) = (p' + 2x·p)·exp(x²)
    for _ in range(order):
        (y,) = tb.grad(y.sum(), x, create_graph=True)
        expected = expected.deriv() + np.polynomial.Polynomial([0, 2]) * expected
    np.testing.assert_allclose(y.numpy(), expected(x.numpy()) * np.exp(x.numpy() ** 2), rtol=1e-12)


def test_backward_with_create_graph_leaves_a_gradient_that_can_be_differentiated():
    x = leaf(3)
    (x**3).sum().backward(create_graph=True)
    (g2,) = tb.grad(x.grad.sum(), x)
    np.testing.assert_allclose(g2.numpy(), 6 * x.numpy())
    x.grad = None


def test_grad_of_inner_tensors_repeated_inputs_and_several_outputs():
    x = leaf(3)
    h = x * 2
    y, z = (h * h).sum(), h.exp()
    gz = draw((3,), seed=4)
    gh, gx, again = tb.grad([y, z], [h, x, h], [None, gz])
    np.testing.assert_allclose(gh.numpy(), 2 * h.numpy() + gz * np.exp(h.numpy()))
    np.testing.assert_allclose(gx.numpy(), 2 * gh.numpy())
    np.testing.assert_array_equal(gh.numpy(), again.numpy())


@pytest.mark.parametrize("wrap", [list, np.array, tb.tensor, lambda v: [np.array(v)]])
def test_the_upstream_gradient_may_be_a_list_an_array_or_a_tensor(wrap):
    x = leaf(2, 2)
    v = [[1.0, 2.0], [3.0, 4.0]]
    np.testing.assert_allclose(tb.grad(x * 2, x, wrap(v))[0].numpy(), 2 * np.array(v))


def test_the_gradient_of_a_tensor_with_respect_to_itself_is_the_upstream():
    x = leaf(3)
    v = draw((3,), seed=2)
    np.testing.assert_array_equal(tb.grad(x, x, v)[0].numpy(), v)
    h = x * 1
    np.testing.assert_array_equal(tb.grad([h, h], h, [v, v])[0].numpy(), 2 * v)


def test_unused_inputs_are_refused_or_none_and_nothing_is_freed():
    x, other = leaf(3), leaf(2)
    y = (x * x).sum()
    with pytest.raises(ValueError, match=r"no output depends on input 1 \(shape \(2,\)\)"):
        tb.grad(y, [x, other])
    g, none = tb.grad(y, [x, other], allow_unused=True)
    assert none is None
    np.testing.assert_allclose(g.numpy(), 2 * x.numpy())


def test_a_frozen_tensor_stops_the_gradient_and_detach_too():
    x = leaf(3)
    (x.detach() * x).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), x.numpy())
    x.requires_grad = False
    assert not (x * x).requires_grad


def test_what_needs_a_gradient_is_decided_when_an_op_is_called():
    x, c = leaf(3), tb.tensor(draw((3,), seed=1))
    y = x * c
    x.requires_grad, c.requires_grad = False, True
    y.backward(np.ones(3))
    np.testing.assert_array_equal(x.grad.numpy(), c.numpy())
    assert c.grad is None


def test_integer_outputs_and_comparisons_record_nothing():
    x = leaf(3)
    assert not (x > 0).requires_grad


# Memory: who owns what, and until when


def test_gradients_share_no_memory():
    a, b = leaf(3), leaf(3, seed=1)
    v = here(draw((3,), seed=2))
    (a + b).backward(v)
    arrays = [a.grad.data, b.grad.data, v, a.data, b.data]
    for i, left in enumerate(arrays):
        assert not any(np.may_share_memory(left, right) for right in arrays[i + 1 :])


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize(
    "f",
    [
        lambda a, b: a + b,
        lambda a, b: (a + b) * 2,
        lambda a, b: a.reshape(4, 3).T + b.T.reshape(3, 4),
        lambda a, b: ops.concatenate([a, b]),
        lambda a, b: (a + b).sum(),
        lambda a, b: a[1:] + b[:2],
    ],
)
def test_gradients_own_their_memory(f, create_graph):
    a, b = leaf(3, 4), leaf(3, 4, seed=1)
    y = f(a, b)
    seed = tb.tensor(draw(y.shape, seed=3))
    ga, gb = tb.grad(y, [a, b], seed, create_graph=create_graph)
    assert not np.may_share_memory(ga.data, gb.data)
    assert not np.may_share_memory(ga.data, seed.data)
    assert 0 not in ga.data.strides  # as of a number that is only spread over a shape
    a.backward(seed.data if y.shape == a.shape else np.ones((3, 4)))
    assert not np.may_share_memory(a.grad.data, seed.data)


def test_a_second_pass_through_a_freed_graph_says_so():
    x = leaf(3)
    y = (x * x).sum()
    y.backward()
    before = x.grad.numpy()
    with pytest.raises(RuntimeError, match=r"second backward pass.*'(sum|multiply)'.*retain_graph"):
        y.backward()
    with pytest.raises(RuntimeError, match="retain_graph"):
        tb.grad(y, x)
    np.testing.assert_array_equal(x.grad.numpy(), before)


def test_retain_graph_allows_another_pass():
    x = leaf(3)
    y = (x * x).sum()
    y.backward(retain_graph=True)
    y.backward()
    np.testing.assert_allclose(x.grad.numpy(), 4 * x.numpy())


def test_the_graph_is_freed_as_the_pass_goes():
    x = leaf(1000)
    h = x * x
    node = h._node
    h.sum().backward()
    assert node.sources is node.arrays is node.output is None


def test_only_arrays_that_rules_read_are_kept():
    x, w = leaf(5, 4), leaf(4, 3, seed=1)
    h = x @ w
    y = h + 1
    assert y._node.arrays[0] is None
    assert y._node.output is None
    assert ops.relu(y)._node.arrays == [None]
    assert ops.relu(y)._node.output is not None
    assert h._node.arrays[0] is x.data


def test_what_nested_functions_and_callables_read_is_kept():
    class Rule:
        def __call__(self, g, a):
            return g * a

    @primitive(lambda g, a: next(g * v for v in (a,)))
    def square(xp, a):
        return a * a / 2

    @primitive(Rule())
    def again(xp, a):
        return a * a / 2

    @primitive(lambda g, a, k: (lambda: g * k * a)())
    def scaled(xp, a, *, k=2.0):
        return k * a * a / 2

    x = leaf(3)
    for op, factor in ((square, 1), (again, 1), (scaled, 2)):
        np.testing.assert_allclose(tb.grad(op(x).sum(), x)[0].numpy(), factor * x.numpy())


def training_steps(n, create_graph=False):
    model = tb.nn.MLP([4, 8, 3], norm="batch", rng=np.random.default_rng(0))
    optimizer = tb.optim.Adam(model.parameters(), 1e-3)
    x, labels = here(draw((16, 4), dtype=np.float32)), np.arange(16) % 3
    for _ in range(n):
        loss = ops.cross_entropy(model(x), labels)
        if create_graph:
            gs = tb.grad(loss, model.parameters(), create_graph=True)
            loss = loss + sum((g * g).sum() for g in gs)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@pytest.mark.parametrize(("create_graph", "steps"), [(False, 3000), (True, 1000)])
def test_memory_stays_flat_without_the_garbage_collector(create_graph, steps):
    def alive():
        return sum(type(o) in (tb.Tensor, Node) for o in gc.get_objects())

    training_steps(5, create_graph)
    gc.collect()
    gc.disable()
    try:
        tensors, blocks = alive(), sys.getallocatedblocks()
        training_steps(steps, create_graph)
        assert alive() == tensors
        # CPython keeps up to 2000 freed tuples of each size; one lost array a step is more than that.
        assert sys.getallocatedblocks() - blocks < 5 * 2000 + steps / 2
    finally:
        gc.enable()


# Size: no recursion, linear work


def test_a_chain_of_200_000_ops():
    x = leaf(1)
    y = x
    for _ in range(200_000):
        y = y + 1e-6 * x
    y.backward(np.ones(1))
    assert x.grad.item() == pytest.approx(1.2)


def test_a_long_graph_goes_away_without_a_backward_pass():
    y = leaf(1)
    for _ in range(200_000):
        y = y * 1.0
    del y


def test_sixty_diamonds_run_each_rule_once():
    times, calls = counted("a", "b")
    x = leaf(1)
    y = x
    for _ in range(60):
        y = times(y, tb.tensor([1.0])) + y
    y.backward(np.ones(1))
    assert x.grad.item() == 2.0**60
    assert len(calls) == 60


# Modes


def test_no_grad_records_nothing_as_a_block_and_as_a_decorator():
    x = leaf(3)

    @tb.no_grad()
    def double(x):
        return x * 2

    with tb.no_grad():
        assert not (x * 2).requires_grad
    assert not double(x).requires_grad
    assert not double(x).requires_grad
    assert (x * 2).requires_grad


def test_a_decorated_function_may_call_itself():
    x = leaf(3)

    @tb.no_grad()
    def power(n):
        return x * power(n - 1) if n else x

    assert not power(2).requires_grad
    assert (x * 2).requires_grad


def test_modes_end_with_their_block_after_an_error():
    x = leaf(3)
    with pytest.raises(KeyError), tb.no_grad(), tb.detect_anomaly():
        raise KeyError
    assert (x * np.inf).requires_grad


def test_create_graph_works_under_no_grad():
    x = leaf(3)
    y = (x**3).sum()
    with tb.no_grad():
        (g,) = tb.grad(y, x, create_graph=True)
    np.testing.assert_allclose(tb.grad(g.sum(), x)[0].numpy(), 6 * x.numpy())


def test_recording_is_per_thread():
    x = leaf(3)
    inside, leave = threading.Event(), threading.Event()
    seen = []

    def quiet():
        with tb.no_grad():
            seen.append((x * 2).requires_grad)
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=quiet)
    thread.start()
    assert inside.wait(10)
    assert (x * 2).requires_grad
    with tb.no_grad():
        other = []
        second = threading.Thread(target=lambda: other.append((x * 2).requires_grad))
        second.start()
        second.join()
    leave.set()
    thread.join()
    assert seen == [False]
    assert other == [True]


def test_threads_can_go_backward_at_once():
    w = leaf(50, 50)
    results = [None] * 4

    def work(i):
        x = tb.tensor(draw((8, 50), seed=i), backend=w.backend)  # a thread has its own default
        for _ in range(20):
            results[i] = tb.grad((ops.tanh(ops.matmul(x, w)) ** 2).sum(), w)[0].numpy()

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, found in enumerate(results):
        t = np.tanh(draw((8, 50), seed=i) @ w.numpy())
        expected = draw((8, 50), seed=i).T @ (2 * t * (1 - t * t))
        np.testing.assert_allclose(found, expected, rtol=1e-10)


# Anomalies


def line_of(text):
    """This file and the number of the line that contains `text`."""
    with open(__file__, encoding="utf-8") as file:
        return next(f"{__file__}:{i}" for i, line in enumerate(file, 1) if text in line)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_anomaly_names_the_op_that_first_made_an_inf_and_the_users_line():
    x = tb.tensor([1.0, 0.0], requires_grad=True)
    with tb.detect_anomaly(), pytest.raises(FloatingPointError) as error:
        ops.log_softmax(ops.log(x) * 2)  # the log of 0
    assert "'log' made 1 inf of 2 values" in str(error.value)
    assert line_of("# the log of 0") in str(error.value)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_anomaly_in_the_backward_pass_names_the_forward_line():
    x = tb.tensor([1.0, 0.0], requires_grad=True)
    with tb.detect_anomaly():
        y = ops.sqrt(x)  # infinitely steep at 0
        with pytest.raises(FloatingPointError) as error:
            (y * y).sum().backward()
    assert re.search(r"backward pass of 'sqrt' made 1 NaN of 2", str(error.value))
    assert line_of("# infinitely steep at 0") in str(error.value)
    assert x.grad is None


def test_anomaly_tells_a_nan_that_was_given_from_one_that_was_made():
    x = tb.tensor([1.0, np.nan], requires_grad=True)
    with tb.detect_anomaly(), pytest.raises(FloatingPointError, match="'multiply' was given 1 NaN"):
        x * 2


def test_without_anomaly_detection_nan_goes_through():
    x = tb.tensor([1.0, np.nan], requires_grad=True)
    assert np.isnan((x * 2).numpy()[1])


# Changes in place


def sgd(*params):
    return tb.optim.SGD(params, lr=0.1)


def test_an_optimizer_step_before_backward_is_detected():
    x, w = leaf(2, 3), leaf(3, 2, seed=1)
    y = ops.matmul(x, w).sum()
    w.grad = tb.tensor(np.ones((3, 2)))
    sgd(w).step()
    with pytest.raises(RuntimeError, match="input 1 of 'matmul' was changed in place"):
        y.backward()
    assert x.grad is None


def test_load_state_dict_and_to_before_backward_are_detected():
    for change in (
        lambda layer: layer.load_state_dict(layer.state_dict()),
        lambda layer: layer.to(np.float64),
    ):
        layer = tb.nn.Linear(3, 2)
        y = layer(tb.nn.Linear(4, 3)(here(draw((5, 4), dtype=np.float32)))).sum()
        change(layer)
        with pytest.raises(RuntimeError, match="changed in place"):
            y.backward()


def test_setting_data_in_place_is_detected():
    x = leaf(3)
    y = (x * x).sum()
    x.data -= 1
    with pytest.raises(RuntimeError, match="changed in place"):
        y.backward()


def test_a_change_that_no_rule_reads_is_no_error():
    x, bias = leaf(3), leaf(3, seed=1)
    y = (x + bias).sum()
    bias.grad = tb.tensor(np.ones(3))
    sgd(bias).step()
    y.backward()
    np.testing.assert_array_equal(x.grad.numpy(), 1)


def test_a_step_after_backward_and_a_new_forward_is_no_error():
    w = leaf(3, 2)
    for _ in range(3):
        ops.matmul(here(draw((4, 3))), w).sum().backward()
        sgd(w).step()


# Bad input


def test_bad_calls_of_backward_and_grad():
    x = leaf(3)
    y = x * 2
    with pytest.raises(
        ValueError, match=r"only for a scalar.*expected one of shape \(3,\), got none"
    ):
        y.backward()
    with pytest.raises(ValueError, match=r"expected a gradient of shape \(3,\).*got \(2,\)"):
        y.backward(np.ones(2))
    with pytest.raises(ValueError, match="does not require grad"):
        tb.tensor([1.0]).backward(np.ones(1))
    with pytest.raises(TypeError, match="input 0 must be a Tensor, got ndarray"):
        tb.grad(y.sum(), [x.data])
    with pytest.raises(ValueError, match=r"input 0.*does not require grad"):
        tb.grad(y.sum(), tb.tensor([1.0]))
    with pytest.raises(ValueError, match="expected 1 grad_outputs, one per output, got 2"):
        tb.grad([y], x, [np.ones(3), np.ones(3)])
    with pytest.raises(TypeError, match="expected a list of grad_outputs, got ndarray"):
        tb.grad([y, y], x, np.ones(3))
    with pytest.raises(ValueError, match=r"a gradient of shape \(3,\).*got \(2, 3\)"):
        tb.grad(y, x, [np.ones(3), np.ones(3)])
    assert x.grad is None
    y.backward(np.ones(3))  # none of it has freed the graph
    np.testing.assert_array_equal(x.grad.numpy(), 2)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (lambda: None, "NoneType"),
        (lambda g: g[:2], r"its shape is \(2,\)"),
        (lambda g: g.reshape(3, 1), r"its shape is \(3, 1\)"),
        (lambda g: g.astype(np.float32), "its dtype is float32"),
    ],
)
def test_a_rule_that_returns_no_gradient_of_its_input_is_named(rule, message):
    @primitive(rule)
    def faulty(xp, a):
        return a * 1

    x = leaf(3)
    with pytest.raises(TypeError, match=rf"rule 0 of 'faulty'.*float64 \(3,\).*{message}"):
        faulty(x).sum().backward()
    assert x.grad is None


def test_a_readers_own_op_takes_ten_lines():
    @primitive(
        lambda g, b, scale: g * b * scale,
        lambda g, a, scale: g * a * scale,
    )
    def scaled_product(xp, a, b, *, scale=1.0):
        """scale · a · b."""
        return a * b * scale

    a, b = leaf(3, 4), leaf(4, seed=1)
    scaled_product(a, b, scale=3.0).sum().backward()
    np.testing.assert_allclose(b.grad.numpy(), 3 * a.numpy().sum(0))
    scaled_product(a, b).sum().backward()
    np.testing.assert_allclose(b.grad.numpy(), 4 * a.numpy().sum(0))
    assert scaled_product.__doc__ == "scale · a · b."
    assert scaled_product(2.0, 3.0) == 6.0


def test_the_history_of_what_is_wanted_may_be_freed():
    x = tb.tensor([1.0, 2.0], requires_grad=True)
    h = x * x
    y = (h * h).sum()
    h.sum().backward()  # frees how h was computed
    np.testing.assert_allclose(tb.grad(y, h)[0].numpy(), [2, 8])
    with pytest.raises(RuntimeError, match="freed by the first"):
        tb.grad((h * h).sum(), x)
    for wanted in ([h, x], [x, h]):  # whether x is behind h, too, is forgotten
        with pytest.raises(RuntimeError, match="freed by the first"):
            tb.grad((h * 3 + x).sum(), wanted, allow_unused=True)


def test_create_graph_records_the_whole_walk_also_inside_no_grad():
    def second_order(x, block):
        y = (ops.layer_norm(x * x) ** 3).sum()
        with block:
            (g,) = tb.grad(y, x, create_graph=True)
        return tb.grad((g * g).sum(), x)[0].numpy()

    x = leaf(4, 3)
    expected = second_order(x, contextlib.nullcontext())
    np.testing.assert_array_equal(second_order(x, tb.no_grad()), expected)
