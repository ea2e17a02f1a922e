"""State between the calls of a compiled step: counts that differ, gradients that go."""

import numpy as np
import pytest

import tinybn as tb
from program.steps import BATCHES
from tinybn.program import relaxed
from tinybn.program.source import function

pytestmark = pytest.mark.host("tests/on_cupy/test_program.py has what is compiled for CuPy")


@pytest.mark.parametrize("ahead", [0, 2])
def test_counts_of_two_optimizers(ahead):
    """Equal counts are one input of the program; those that differ, or come to differ, are two."""

    def losses(wrap):
        tb.seed(0)
        model = tb.nn.MLP([20, 8, 5], norm="batch")
        first, second = (
            tb.optim.Adam(layer.parameters(), lr=0.1) for layer in (model[0], model[3])
        )

        def step(x, labels):
            loss = tb.ops.cross_entropy(model(x), labels)
            loss.backward()
            for optimizer in (first, second):
                optimizer.step()
                optimizer.zero_grad()
            return loss

        run, found = wrap(step), []
        for k in range(9):
            if (ahead and k < ahead) or k == 6:
                tb.ops.cross_entropy(model(BATCHES[0][0]), BATCHES[0][1]).backward()
                second.step()
                model.zero_grad()
            found.append(run(*BATCHES[k % 3]).item())
        return found

    assert losses(lambda step: tb.compile(step, backend="numpy")) == losses(lambda step: step)


def test_gradients_that_the_step_takes_away_are_gone():
    model = tb.nn.Linear(20, 5)

    def step(x, labels):
        loss = tb.ops.cross_entropy(model(x), labels)
        loss.backward()
        model.zero_grad()
        return loss

    run = tb.compile(step, backend="numpy")
    for _ in range(2):
        for x, labels in BATCHES:
            tb.ops.cross_entropy(model(x), labels).backward()
            run(x, labels)
            assert model.weight.grad is None
        assert run.recordings == 1


def test_what_is_centred_by_another_number_is_not_left_out_of_a_sum():
    x = np.random.default_rng(0).standard_normal((6, 3))

    def step(x):
        d = x - x.sum(0, keepdims=True) / 7
        return (d * 2).sum(0)

    (found,) = function(tb.program(step, x, passes=relaxed), np)(x)
    np.testing.assert_allclose(found, step(x), rtol=1e-12)


def test_parameters_that_change_after_a_forward_pass_are_noticed():
    model = tb.nn.Linear(20, 5)
    optimizer = tb.optim.SGD(model.parameters(), lr=0.1)
    x, labels = BATCHES[0]

    def step(x, labels):
        loss = tb.ops.cross_entropy(model(x), labels)
        loss.backward()
        optimizer.step()

    run = tb.compile(step, backend="numpy")
    messages = []
    for change in (step, run, run, run):
        y = (model(x) @ model.weight.T).sum()
        change(x, labels)
        with pytest.raises(RuntimeError) as caught:
            y.backward()
        messages.append(str(caught.value))
    assert len({*messages}) == 1
