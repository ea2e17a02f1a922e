"""A compiled step does what the step does: losses, gradients, state, and everything that can happen
between two calls.
"""

import functools
import gc
import threading
import warnings
import weakref

import numpy as np
import pytest
from numeric import here

import tinybn as tb
from program.steps import BATCHES, assert_same, classifier, sgd, trained
from tinybn.program.compiled import KINDS
from tinybn.program.run import Run

NUMPY = functools.partial(tb.compile, backend="numpy")
RUNNERS = {"numpy": (NUMPY, 0), "numba": (tb.compile, 2e-5)}


@pytest.fixture(params=RUNNERS)
def runner(request):
    if request.param == "numba":
        pytest.importorskip("numba")
    return RUNNERS[request.param]


@pytest.fixture(params=[True, False], ids=["closed form", "composition"])
def fused(request):
    with tb.use_fused(request.param):
        yield request.param


OPTIMIZERS = {
    "SGD": lambda p: tb.optim.SGD(p, lr=0.05),
    "momentum": lambda p: tb.optim.SGD(p, lr=0.05, momentum=0.9),
    "nesterov": sgd,
    "Adam": lambda p: tb.optim.Adam(p, lr=0.01),
    "decay": lambda p: tb.optim.Adam(p, lr=0.01, weight_decay=0.1),
    "AdamW": lambda p: tb.optim.AdamW(p, lr=0.01),
}
STEPS = {
    **{f"{norm}": classifier(norm) for norm in ("none", *tb.nn.NORMS)},
    **{name: classifier(optimizer=make) for name, make in OPTIMIZERS.items()},
    **{name: classifier(activation=name) for name in ("tanh", "sigmoid")},
    "dropout": classifier(dropout=0.3),
    "clip": classifier(clip=0.5),
}


@pytest.mark.parametrize("name", STEPS)
def test_it_trains_like_the_step(name, runner, fused):
    compiled, rtol = runner
    expected, _ = trained(STEPS[name])
    found, run = trained(STEPS[name], compiled)
    assert_same(found, expected, rtol)
    assert run.recordings == 1


@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_other_dtypes(dtype, runner, fused):
    compiled, rtol = runner
    expected, _ = trained(classifier(dtype=dtype), dtype=dtype)
    found, _ = trained(classifier(dtype=dtype), compiled, dtype=dtype)
    assert_same(found, expected, rtol and {np.float64: 1e-12, np.float16: 0.02}[dtype])


def test_it_can_be_repeated_to_the_last_bit(runner):
    compiled, _ = runner
    assert_same(trained(STEPS["batch"], compiled)[0], trained(STEPS["batch"], compiled)[0], 0)


def test_losses_stay_together_over_100_steps(runner):
    compiled, rtol = runner
    expected, _ = trained(STEPS["batch"], steps=100)
    found, _ = trained(STEPS["batch"], compiled, steps=100)
    np.testing.assert_allclose(found["losses"], expected["losses"], rtol=rtol * 500)


# between two calls


def both(make, compiled, script):
    """What `script(step, model, optimizer)` returns, for the step as it is and compiled."""
    results = []
    for wrap in (lambda step: step, compiled):
        step, model, optimizer = make()
        results.append(script(wrap(step), model, optimizer))
    return results


def losses_of(runner, make, script):
    compiled, rtol = runner
    expected, found = both(make, compiled, script)
    np.testing.assert_allclose(found, expected, rtol=rtol * 50, atol=0)


def test_schedules(runner):
    def script(step, model, optimizer):
        schedule = tb.optim.Schedule(optimizer, tb.optim.warmup(3, tb.optim.cosine(6)))
        found = []
        for k in range(9):
            found.append(step(*BATCHES[k % 3]).item())
            schedule.step()
        return found

    losses_of(runner, STEPS["Adam"], script)


def test_evaluation_in_between(runner):
    compiled, _ = runner

    def script(step, model, optimizer):
        def evaluate(x):
            return model(x)

        look = evaluate if step.__class__.__name__ == "function" else compiled(evaluate)
        found = []
        for k in range(6):
            model.train()
            found.append(step(*BATCHES[k % 3]).item())
            model.eval()
            found.append(float(abs(look(BATCHES[0][0])).sum().item()))
        return found

    losses_of(runner, STEPS["dropout"], script)


def test_the_same_step_in_training_and_in_evaluation(runner):
    def script(step, model, optimizer):
        found = []
        for k in range(9):
            model.train(k % 3 != 2)
            found.append(step(*BATCHES[k % 3]).item())
        return found

    losses_of(runner, STEPS["batch"], script)


def test_load_state_dict_in_between(runner):
    def script(step, model, optimizer):
        for k in range(3):
            step(*BATCHES[k])
        saved = model.state_dict(), optimizer.state_dict()
        found = [step(*BATCHES[k]).item() for k in range(3)]
        model.load_state_dict(saved[0])
        optimizer.load_state_dict(saved[1])
        again = [step(*BATCHES[k]).item() for k in range(3)]
        assert again == found
        return found + again

    losses_of(runner, STEPS["nesterov"], script)


def test_a_parameter_set_by_hand(runner):
    def script(step, model, optimizer):
        found = []
        for k in range(6):
            found.append(step(*BATCHES[k % 3]).item())
            model[0].weight.data = model[0].weight.data * 0.5
        return found

    losses_of(runner, STEPS["batch"], script)


def test_a_parameter_replaced(runner):
    def script(step, model, optimizer):
        found = [step(*BATCHES[k]).item() for k in range(3)]
        model[-1].bias = tb.tensor(np.ones(5, np.float32), requires_grad=True)
        return found + [step(*BATCHES[k]).item() for k in range(3)]

    losses_of(runner, STEPS["batch"], script)


def test_a_frozen_parameter(runner):
    def script(step, model, optimizer):
        found = [step(*BATCHES[k]).item() for k in range(3)]
        model[0].weight.requires_grad = False
        before = model[0].weight.numpy()
        found += [step(*BATCHES[k]).item() for k in range(3)]
        np.testing.assert_array_equal(model[0].weight.numpy(), before)
        return found

    losses_of(runner, STEPS["SGD"], script)


def test_who_holds_an_old_array_keeps_the_old_numbers(runner):
    compiled, _ = runner
    step, model, _ = STEPS["batch"]()
    run = compiled(step)
    held = []
    for k in range(5):
        weight, view, gradient = (
            model[0].weight.data,
            model[3].weight.data[2:],
            model[0].weight.grad,
        )
        arrays = [weight, view, *([gradient.data] if gradient is not None else [])]
        held.append((arrays, [a.copy() for a in arrays], gradient))
        run(*BATCHES[k % 3])
    for arrays, copies, _ in held:
        for a, b in zip(arrays, copies, strict=True):
            np.testing.assert_array_equal(a, b)


def test_gradients_are_there_afterwards(runner):
    compiled, _ = runner
    step, model, _ = STEPS["batch"]()
    run = compiled(step)
    run(*BATCHES[0])
    run(*BATCHES[1])
    first = model[0].weight.grad
    kept = first.numpy()
    run(*BATCHES[2])
    assert model[0].weight.grad is not first
    np.testing.assert_array_equal(first.numpy(), kept)


def test_gradients_that_add_up(runner):
    def make():
        _, model, optimizer = STEPS["batch"]()

        def accumulate(x, labels):
            loss = tb.ops.cross_entropy(model(x), labels)
            loss.backward()
            return loss

        return accumulate, model, optimizer

    def script(step, model, optimizer):
        found = []
        for k in range(8):
            found.append(step(*BATCHES[k % 3]).item())
            found.append(float(np.abs(model[0].weight.grad.numpy()).sum()))
            if k % 2:
                optimizer.step()
                optimizer.zero_grad()
        return found

    losses_of(runner, make, script)


def test_an_odd_last_batch_is_not_recorded(runner):
    compiled, _ = runner
    step, *_ = STEPS["batch"]()
    run = compiled(step)
    for k in range(3):
        run(*BATCHES[k])
    x, labels = BATCHES[0]
    run(x[:7], labels[:7])
    assert run.recordings == 1


def test_two_models_and_two_optimizers(runner):
    def make():
        tb.seed(0)
        first, second = (tb.nn.MLP([20, 8, 5], norm=n) for n in ("batch", "layer"))
        one, two = sgd(first.parameters()), tb.optim.Adam(second.parameters())

        def step(x, labels):
            for o in (one, two):
                o.zero_grad()
            loss = tb.ops.cross_entropy(first(x) + second(x), labels)
            loss.backward()
            one.step()
            two.step()
            return loss

        return step, first, second

    compiled, rtol = runner
    assert_same(trained(make, compiled)[0], trained(make)[0], rtol)


def test_a_gradient_penalty_has_derivatives_of_second_order(runner, fused):
    def make():
        tb.seed(0)
        model = tb.nn.MLP([20, 8, 1], norm="layer", activation="tanh")
        optimizer = tb.optim.SGD(model.parameters(), lr=0.01)

        def step(x, labels):
            optimizer.zero_grad()
            x = tb.tensor(x, requires_grad=True)
            (g,) = tb.grad(model(x).sum(), x, create_graph=True)
            penalty = (g * g).mean()
            penalty.backward()
            optimizer.step()
            return penalty

        return step, model, optimizer

    compiled, rtol = runner
    assert_same(trained(make, compiled)[0], trained(make)[0], rtol)


def test_arguments_and_results_may_be_nested(runner):
    compiled, _ = runner

    def step(pair, *, scale, flag=True, **named):
        x, y = pair
        return {"sum": x + y * scale, "both": [x * named["more"], None, 3], "flag": flag}

    run = compiled(step)
    x, y, more = (np.full(3, n, np.float32) for n in (1, 2, 3))
    for scale in (0.5, 0.25, 0.125):
        found = run((tb.tensor(x), y), scale=scale, more=more)
        np.testing.assert_array_equal(found["sum"].numpy(), x + y * np.float32(scale))
        np.testing.assert_array_equal(found["both"][0].numpy(), x * more)
        assert found["both"][1:] == [None, 3]
        assert found["flag"] is True
    assert run.recordings == 1  # a number is an input


def test_the_gradient_of_an_argument(runner):
    compiled, _ = runner

    def step(x):
        (x * x * x).sum().backward()

    run = compiled(step)
    for value in (1.0, 2.0, 3.0):
        x = tb.tensor([value], requires_grad=True)
        run(x)
        assert x.grad.item() == 3 * value * value


def test_methods_decorators_and_options():
    class Trainer:
        def __init__(self):
            self.model = tb.nn.Linear(20, 5)
            self.optimizer = tb.optim.SGD(self.model.parameters(), lr=0.1)
            self.losses = []
            self.step = tb.compile(self._step)

        def _step(self, x, labels):
            self.optimizer.zero_grad()
            loss = tb.ops.cross_entropy(self.model(x), labels)
            loss.backward()
            self.optimizer.step()
            return loss

    trainer = Trainer()
    for _ in range(5):
        trainer.losses.append(trainer.step(*BATCHES[0]).item())
    assert trainer.step.recordings == 1
    assert trainer.losses == sorted(trainer.losses, reverse=True)

    @tb.compile(backend="numpy")
    def double(x):
        """Twice x."""
        return x * 2

    assert double.__doc__ == "Twice x."
    assert [double(np.float32([1])).item() for _ in range(3)] == [2, 2, 2]


def test_the_state_can_be_named(runner):
    compiled, _ = runner
    step, model, optimizer = STEPS["batch"]()
    hidden = {"call": step}  # not to be seen from the code

    def indirect(x, labels):
        return hidden["call"](x, labels)

    run = compiled(indirect, state=(model, optimizer))
    expected, _ = trained(STEPS["batch"])
    losses = [run(*BATCHES[k % 3]).item() for k in range(6)]
    np.testing.assert_allclose(losses, expected["losses"], rtol=1e-4)


def test_no_grad_is_a_mode_of_its_own(runner):
    compiled, _ = runner
    model = tb.nn.MLP([20, 8, 5], norm="batch")

    def forward(x):
        return model(x)

    run = compiled(forward)
    for _ in range(3):
        with tb.no_grad():
            run(BATCHES[0][0])
        run(BATCHES[0][0])
    assert run.recordings == 2


def test_anomaly_detection_and_watching_see_each_op(runner):
    compiled, _ = runner

    def step(x):
        return tb.ops.log(x)

    run = compiled(step)
    x = tb.tensor([1.0, 2.0])
    run(x)
    run(x)
    with (
        np.errstate(all="ignore"),
        tb.detect_anomaly(),
        pytest.raises(FloatingPointError, match="log"),
    ):
        run(-x)


def test_a_compiled_step_in_a_compiled_step(runner):
    compiled, _ = runner
    inner = compiled(lambda x: x * 2)
    outer = compiled(lambda x: inner(x) + 1)
    assert [outer(np.float32([3])).item() for _ in range(3)] == [7, 7, 7]
    assert inner.recordings == 0


def test_threads_take_turns(runner):
    compiled, _ = runner
    step, *_ = STEPS["batch"]()
    run = compiled(step)
    failures = []

    def work():
        try:
            for k in range(10):
                run(*BATCHES[k % 3])
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_labels_are_checked_at_each_call(runner):
    compiled, _ = runner
    step, model, optimizer = STEPS["batch"]()
    run = compiled(step)
    for k in range(3):
        run(*BATCHES[k])
    before = {**model.state_dict(), **optimizer.state_dict()}
    x, labels = BATCHES[0]
    wrong = labels.copy()
    wrong[3] = 7
    with pytest.raises(ValueError, match="labels from 0 to 4 for 5 classes"):
        run(x, wrong)
    after = {**model.state_dict(), **optimizer.state_dict()}
    for name in before:
        np.testing.assert_array_equal(after[name], before[name])
    run(x, labels)


def test_shapes_that_keep_changing_get_one_warning():
    run = NUMPY(lambda x: x * 2)

    def grow():
        for n in range(1, 40):
            for _ in range(2):
                run(np.ones(n, np.float32))

    with pytest.warns(UserWarning, match="recorded 16 times") as caught:
        grow()
    assert len(caught) == 1


def test_the_source_of_the_loops_can_be_read(runner):
    compiled, rtol = runner
    step, *_ = STEPS["batch"]()
    run = compiled(step)
    with pytest.raises(ValueError, match="nothing is recorded yet"):
        run.source()
    for k in range(2):
        run(*BATCHES[k])
    compile(run.source(), "loops", "exec")
    assert ("for i0 in range(" in run.source()) == bool(rtol)


def test_bad_options():
    with pytest.raises(ValueError, match="one of 'numba', 'numpy', 'graph', got 'cuda'"):
        tb.compile(lambda x: x, backend="cuda")
    with pytest.raises(TypeError, match="expected a function, got int"):
        tb.compile(3)


@pytest.mark.parametrize(
    ("version", "problem"), [(None, "not installed"), ("0.61.2", r"0.61.2 is older than 0\.62")]
)
def test_without_a_recent_numba_numpy_runs_the_program_after_one_warning(
    version, problem, monkeypatch
):
    from tinybn.program import choice

    def version_of(name):
        if not version:
            raise choice.importlib.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(choice.importlib.metadata, "version", version_of)
    choice._has_numba.cache_clear()
    expected, _ = trained(STEPS["batch"])
    try:
        message = rf"{problem}.*pip install 'tinybn\[compile\]'"
        with pytest.warns(UserWarning, match=message) as caught:
            found = [trained(STEPS["batch"], tb.compile)[0] for _ in range(2)]
        assert len(caught) == 1
        for one in found:
            assert_same(one, expected, 0)
    finally:
        choice._has_numba.cache_clear()


def test_a_step_with_ever_new_shapes_keeps_few_recordings():
    """And one that is used all the time is not among those that it forgets."""
    step = tb.compile(lambda x: x * 2, backend="numpy")
    often = here(np.ones(7, np.float32))
    step(often)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        step(often)
        run = step.latest
        lost = []
        for n in range(100, 300):
            x = here(np.ones(n, np.float32))
            step(x)
            step(x)
            lost.append(weakref.ref(step.latest))
            step(often)
    gc.collect()
    assert step.recordings == 201
    assert sum(ref() is not None for ref in lost) < KINDS
    assert [run] in step.runs.values()


def test_the_recording_that_fitted_last_is_tried_first(monkeypatch):
    """A model that has been evaluated once is recorded again: the old recording costs nothing."""
    step, model, _ = STEPS["batch"]()
    run = tb.compile(step)
    for k in range(3):
        run(*BATCHES[k % 2])
    model.eval()
    model.train()
    run(*BATCHES[0])
    assert run.recordings == 2
    tried = []
    fits = Run.fits
    monkeypatch.setattr(Run, "fits", lambda self: tried.append(self) or fits(self))
    for mode in (True, False, False, True, True):
        model.train(mode)
        run(*BATCHES[0])
        tried.clear()
        run(*BATCHES[1])
        assert tried == [run.runs[next(iter(run.runs))][-1]]
