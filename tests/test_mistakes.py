"""What users are told: every mistake of mistakes.py, and what is no array in place of every input."""

import inspect
import re
import traceback

import numpy as np
import pytest
from mistakes import DOCUMENT, calls, document, told, versions

import tinybn as tb
from tinybn import nn, ops, optim

pytestmark = pytest.mark.host("messages")

STUMBLES = re.compile(
    "not supported between|object has no attribute|is not iterable|not callable|subscriptable"
    "|has no len|unhashable|truth value|NoneType. and|unsupported operand"
)
"""Python's words where nobody has checked."""


def assert_helps(error, name=""):
    shown = "".join(traceback.format_exception(error))
    assert not STUMBLES.search(str(error)), error
    assert "During handling of the above" not in shown
    assert name in str(error)


@pytest.mark.parametrize("call", [call for _, call in calls()])
def test_a_mistake_is_one_error_that_helps(call):
    assert_helps(told(call).error)


def test_every_public_function_has_a_mistake():
    text = "\n".join(call for _, call in calls())
    names = [f"tb.{name}" for name in tb.__all__ if callable(getattr(tb, name))]
    for module in (ops, nn, optim):
        short = module.__name__.partition(".")[2]
        names += [f"{short}.{n}" for n in module.__all__ if callable(getattr(module, n))]
    names += [f"tb.check.{n}" for n in tb.check.__all__ if inspect.isfunction(getattr(tb.check, n))]
    names += [f"tb.graph.{name}" for name in ("tree", "mermaid", "dot")]
    names += ["tb.data.load", "tb.data.Batches", "tb.checkpoint.load"]
    without = {"tb.BackendMismatchError", "tb.BackendUnavailableError", "tb.check.cases", "tb.check.small_cases"}  # fmt: skip
    missing = [n for n in names if not re.search(rf"\b{re.escape(n)}\(", text) and n not in without]
    assert not missing


def test_the_document_is_current():
    written = DOCUMENT.read_text(encoding="utf-8")
    if versions() in written:
        assert written == document(), "run python tests/mistakes.py"
    rows = [line for line in written.splitlines() if line.startswith("| `")]
    assert [row.partition("` |")[0][3:] for row in rows] == [
        call.replace("|", "\\|") for _, call in calls()
    ]


STATIC = {
    "shape": (6,), "dtype": "float32", "backend": "numpy", "axis": 0, "axis1": 0, "axis2": 1,
    "labels": [0, 1], "groups": 1, "index": 0,
}  # fmt: skip
NO_ARRAYS = [None, "a", [1.0], {}, object(), np.array(["a"]), np.array([1 + 2j]), np]


def arguments(op):
    """What the op is called with: names, and arrays or static values."""
    x = tb.tensor(np.ones((2, 3), np.float32))
    parameters = inspect.signature(op).parameters.values()
    required = [p.name for p in parameters if p.default is p.empty]
    return {name: STATIC.get(name, x) for name in required}


@pytest.mark.parametrize("bad", NO_ARRAYS[:5], ids=lambda bad: type(bad).__name__)
@pytest.mark.parametrize("name", ops.__all__)
def test_what_is_no_array_is_refused_by_name(name, bad):
    op = getattr(ops, name)
    given = arguments(op)
    for replaced in given:
        if replaced in STATIC:
            continue
        with pytest.raises((TypeError, ValueError)) as error:
            op(**{**given, replaced: bad})
        assert_helps(error.value, name)


LAYERS = [
    nn.Linear(3, 2), nn.ReLU(), nn.Tanh(), nn.Sigmoid(), nn.Flatten(), nn.Dropout(), nn.BatchNorm(3),
    nn.LayerNorm(3), nn.RMSNorm(3), nn.GroupNorm(1, 3), nn.InstanceNorm(3), nn.MLP([3, 2]),
]  # fmt: skip


@pytest.mark.parametrize("bad", NO_ARRAYS[:5], ids=lambda bad: type(bad).__name__)
@pytest.mark.parametrize("layer", LAYERS, ids=repr)
def test_layers_refuse_what_is_no_array(layer, bad):
    for call in (layer, layer.eval()):
        with pytest.raises((TypeError, ValueError)) as error:
            call(bad)
        assert_helps(error.value)


NORMS = ["batch_norm", "layer_norm", "rms_norm", "group_norm", "instance_norm"]


@pytest.mark.parametrize("eps", [None, "a", [1e-5], np.array(1e-5), tb.tensor(1e-5), -1, np.nan])
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("name", NORMS)
def test_an_eps_that_is_no_number_is_refused(name, fused, eps):
    x = tb.tensor(np.ones((2, 4, 3), np.float32))
    with (
        tb.use_fused(fused),
        pytest.raises(ValueError, match=f"{name}: expected a number eps >= 0"),
    ):
        getattr(ops, name)(x, *([2] if name == "group_norm" else []), eps=eps)


@pytest.mark.parametrize("eps", [0, 1, 1e-3, np.float32(1e-3), np.float64(1e-3), np.int64(1)])
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("name", NORMS)
def test_an_eps_that_is_a_number_promotes_nothing(name, fused, eps):
    x = np.random.default_rng(0).standard_normal((2, 4, 3)).astype(np.float32)
    with tb.use_fused(fused):
        for given in (x, tb.tensor(x)):
            y = getattr(ops, name)(given, *([2] if name == "group_norm" else []), eps=eps)
            assert y.dtype == np.float32
