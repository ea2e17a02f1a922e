"""The lesson's engine in 100 lines: the pieces of its chapter, and tinybn's numbers."""

import re
from pathlib import Path

import engine
import numpy as np
import pytest

import tinybn as tb

pytestmark = pytest.mark.host("the lesson's engine knows NumPy only")
LESSON = Path(__file__).parents[1] / "docs" / "lesson"


def agree(here, there, tolerance=1e-12):
    np.testing.assert_allclose(here, there, rtol=tolerance, atol=tolerance)


def compare(function, *arrays, ops=tb.ops):
    """`function(library, *tensors)`: the same value and gradients here and in tinybn."""
    ours = [engine.Tensor(a) for a in arrays]
    theirs = [tb.tensor(a, requires_grad=True) for a in arrays]
    y, expected = function(engine, *ours), function(Translated, *theirs)
    agree(y.data, expected.data)
    dy = np.random.default_rng(1).standard_normal(expected.shape)
    engine.backward(y, dy)
    gradients = tb.grad(expected, theirs, dy)
    for tensor, gradient in zip(ours, gradients, strict=True):
        agree(tensor.grad, gradient.data)


class Translated:
    """tinybn's ops under the names of the lesson's engine."""

    exp, log, relu, matmul, power = (
        getattr(tb.ops, name) for name in ("exp", "log", "relu", "matmul", "power")
    )

    @staticmethod
    def total(a, axis):
        return tb.ops.sum(a, axis, keepdims=True)

    @staticmethod
    def mean(a, axis):
        return tb.ops.mean(a, axis, keepdims=True)

    @staticmethod
    def standardize(x, axis, eps=1e-5):
        if axis == 0:
            return tb.ops.batch_norm(x, eps=eps)
        return tb.ops.layer_norm(x, eps=eps)

    @staticmethod
    def cross_entropy(logits, one_hot):
        return tb.ops.cross_entropy(logits, one_hot.argmax(axis=1)).reshape((1, 1))


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


@pytest.mark.parametrize("seed", range(20))
def test_random_graphs(seed):
    """Every op, chosen at random, on Tensors that broadcast; each result may be used again."""
    rng = np.random.default_rng(seed)
    shapes = [(3, 4), (1, 4), (3, 1), (4,), ()]
    arrays = [rng.standard_normal(shapes[i]) for i in rng.integers(len(shapes), size=4)]
    arrays.append(rng.standard_normal((3, 4)))
    plan = rng.integers(10, size=12), rng.integers(1000, size=(12, 2))

    def graph(lib, *tensors):
        known = list(tensors)
        for op, (i, j) in zip(*plan, strict=True):
            a, b = known[i % len(known)], known[j % len(known)]
            known.append(
                [
                    lambda a, b: a + b,
                    lambda a, b: a * b * 0.5,
                    lambda a, b: a - b,
                    lambda a, b: a / (b * b + 1.0),
                    lambda a, b: -a + 2.0 - 1.0 / (b * b + 1.0),
                    lambda a, b: lib.exp(a * -1.0 * a),
                    lambda a, b: lib.log(a * a + 1.0),
                    lambda a, b: lib.relu(a) + b,
                    lambda a, b: (a * a + 0.1) ** 0.5,
                    lambda a, b: a + lib.mean(b * known[4], 0) + lib.total(b + known[4], 1),
                ][op](a, b)
            )
        out = tensors[0]
        for tensor in known[1:]:
            out = out + tensor
        return out

    compare(graph, *arrays)


@pytest.mark.parametrize("shape", [(), (4,), (1, 4), (3, 1), (1, 1), (3, 4), (2, 3, 4), (2, 1, 1)])
def test_broadcasting(shape):
    compare(lambda _, a, b: a * b + a / (b * b + 1.0), normal(3, 4), normal(*shape, seed=1))


def test_a_tensor_read_twice_gets_both_contributions():
    x = engine.Tensor(3.0)
    engine.backward(x * x + x)
    assert x.grad == 7.0
    y = x * 1.0  # read by a square, and by a long chain that is walked first
    engine.backward(y * y + engine.exp(engine.log(y)))
    agree(x.grad, 7.0)


def test_a_second_backward_pass_starts_again():
    x = engine.Tensor([1.0, 2.0])
    y = x * x
    engine.backward(y)
    engine.backward(y, np.array([1.0, 0.0]))
    agree(x.grad, [2.0, 0.0])


def test_arrays_may_stand_on_the_left():
    x, a = engine.Tensor([1.0, 2.0]), np.array([3.0, 4.0])
    engine.backward(a * x + a - x + a / x)
    agree(x.grad, a - 1 - a / x.data**2)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("eps", [0.0, 1e-5, 0.1])
def test_norms(axis, eps):
    def norm(lib, x, gamma, beta):
        return gamma * lib.standardize(x, axis, eps) + beta

    x = normal(8, 5) * 10 + 100
    compare(norm, x, np.array([0.0, 1.5, -2.0, 0.5, 3.0]), normal(5, seed=2))


def test_norms_are_tinybns_op_with_parameters():
    x, gamma, beta, dy = normal(8, 5), normal(5, seed=1), normal(5, seed=2), normal(8, 5, seed=3)
    ours = [engine.Tensor(a) for a in (x, gamma, beta)]
    y = ours[1] * engine.standardize(ours[0], axis=0) + ours[2]
    engine.backward(y, dy)
    theirs = [tb.tensor(a, requires_grad=True) for a in (x, gamma, beta)]
    expected = tb.ops.batch_norm(*theirs)  # the fused op
    agree(y.data, expected.data)
    for tensor, gradient in zip(ours, tb.grad(expected, theirs, dy), strict=True):
        agree(tensor.grad, gradient.data)


def test_a_step_of_an_mlp():
    images = tb.data.load("digits").train
    x, labels = images.x[:32].astype(np.float64), images.y[:32]
    tb.seed(0)
    model = tb.nn.MLP([64, 16, 16, 10], norm="batch").to(np.float64)
    arrays = [p.numpy() for p in model.parameters()]
    weights = [engine.Tensor(a) for a in arrays]
    names = [name.rpartition(".")[2] for name, _ in model.named_parameters()]
    a = engine.Tensor(x)
    for i, (name, weight) in enumerate(zip(names, weights, strict=True)):
        if name == "weight":
            a = engine.relu(a) @ weight if i else a @ weight
        elif name == "gamma":
            a = engine.standardize(a, axis=0) * weight
        else:
            a = a + weight
    loss = engine.cross_entropy(a, np.eye(10)[labels])
    expected = tb.ops.cross_entropy(model(x), labels)
    agree(loss.data, expected.item())
    engine.backward(loss)
    expected.backward()
    for weight, parameter in zip(weights, model.parameters(), strict=True):
        agree(weight.grad, parameter.grad.data)


def test_it_is_small():
    text = (LESSON / "engine.py").read_text(encoding="utf-8")
    assert len(list(filter(str.strip, text.splitlines()))) <= 100


def test_the_chapter_shows_the_whole_file_piece_by_piece():
    chapter = (LESSON / "04-engine.md").read_text(encoding="utf-8")
    cells = re.findall(r"```\{code-cell\} python\n(.*?)```", chapter, re.DOTALL)
    text = (LESSON / "engine.py").read_text(encoding="utf-8").split('"""\n', 1)[1]
    end = 0
    for cell in cells:
        at = text.find(cell.strip(), end)
        if at >= 0:
            assert not text[end:at].strip(), f"the chapter leaves out {text[end:at]!r}"
            end = at + len(cell.strip())
    assert not text[end:].strip(), f"the chapter leaves out {text[end:]!r}"
