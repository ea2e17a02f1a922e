"""In float32, closed forms lose at most 3 ULP more than PyTorch, and compositions little more."""

import numpy as np
import pytest

from lab.peers import torch_rival
from tinybn.check import compare

EPS = np.finfo(np.float32).eps


def errors(op, shape, mean, scale, seed):
    """The largest error in ULP by method, result by result (order, input)."""
    rng = np.random.default_rng([*shape, seed])
    x = mean + scale * rng.standard_normal(shape)
    inputs = [x, *rng.standard_normal((2, shape[1]))]
    rival = torch_rival(op, ["x", "gamma", "beta"], {})
    rows = compare(
        op,
        inputs,
        orders=1,
        dtypes=["float32"],
        differences=False,
        rivals={"torch": rival},
        rng=rng,
    )
    return {
        (row.order, row.input): {r.method: r.max_ulp for r in rows if r[4:6] == row[4:6]}
        for row in rows
    }


@pytest.mark.parametrize("mean", [0, 1, 1e2, 1e4, 1e6])
@pytest.mark.parametrize("scale", [1e-3, 1, 1e3])
@pytest.mark.parametrize("op", ["batch_norm", "layer_norm"])
@pytest.mark.parametrize("shape", [(2, 3), (16, 2), (64, 32), (256, 128), (1000, 33), (4096, 256)])
def test_float32_is_at_least_as_exact_as_pytorch(op, shape, scale, mean):
    for seed in range(1 if shape[0] > 1000 else 3):
        for result, found in errors(op, shape, mean, scale, seed).items():
            assert found["fused"] <= 16, result
            assert found["fused"] <= found["torch"] + 3, result
            assert found["composition"] <= 3 * max(found["torch"], 1), result
