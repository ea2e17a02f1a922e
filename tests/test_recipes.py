"""The blocks of docs/recipes.md run, one after another, and give what they promise."""

import re
from pathlib import Path

import numpy as np
import pytest

import tinybn as tb
from tinybn import ops

pytestmark = pytest.mark.host("the blocks make NumPy arrays")


@pytest.fixture(scope="module")
def space():
    text = (Path(__file__).parents[1] / "docs" / "recipes.md").read_text(encoding="utf-8")
    found = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(block, found)
    return found


def test_gradients_of_intermediates(space):
    first, second, labels = space["first"], space["second"], space["labels"]
    h = first(np.eye(3, dtype=np.float32)).detach()
    h.requires_grad = True
    a = ops.relu(h).detach()
    a.requires_grad = True
    ops.cross_entropy(second(ops.relu(h)), labels).backward()
    ops.cross_entropy(second(a), labels).backward()
    np.testing.assert_allclose(space["d_h"].numpy(), h.grad.numpy(), rtol=1e-6)
    np.testing.assert_allclose(space["d_a"].numpy(), a.grad.numpy(), rtol=1e-6)
    np.testing.assert_allclose(space["d_weight"].numpy(), h.grad.numpy(), rtol=1e-6)  # x is 1


def test_hessian_vector_products_are_differences_of_gradients(space):
    f, params, vectors = (space[name] for name in ("f", "params", "vectors"))
    before = [p.numpy() for p in params]
    sides = []
    for step in (1e-2, -1e-2):
        for p, old, v in zip(params, before, vectors, strict=True):
            p.data = old + np.float32(step) * v
        sides.append([g.numpy() for g in tb.grad(f(), params)])
    for p, old in zip(params, before, strict=True):
        p.data = old
    for found, up, down in zip(space["products"], *sides, strict=True):
        np.testing.assert_allclose(found.numpy(), (up - down) / 2e-2, atol=2e-4)


def test_the_penalty_reaches_the_weights_and_std_takes_ddof(space):
    assert space["first"].weight.grad is not None
    assert space["second"].weight.grad is not None
    np.testing.assert_allclose(space["biased"].item(), np.std([1, 2, 4]), rtol=1e-6)
    np.testing.assert_allclose(space["unbiased"].item(), np.std([1, 2, 4], ddof=1), rtol=1e-6)
