"""Mistakes that users make, and what they are told: the source of docs/errors.md.

    python tests/mistakes.py     # writes docs/errors.md

Every public function has at least one.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

DOCUMENT = Path(__file__).parents[1] / "docs" / "errors.md"

SETUP = """
import functools
import numpy as np
import tinybn as tb
from tinybn import nn, ops, optim

x = tb.tensor(np.ones((2, 3), np.float32), requires_grad=True)
w = tb.tensor(np.ones((3, 4), np.float32), requires_grad=True)
data = x.detach()
model = nn.MLP([3, 4, 2], norm="batch")
sgd = optim.SGD(model.parameters(), lr=0.1)


def steps():
    yield


@tb.primitive(lambda g, b: g * b)  # one rule for two inputs
def times(xp, a, b):
    return a * b


@tb.primitive(lambda g: g * k)  # reads k, but does not say so
def scaled(xp, a, k=2.0):
    return a * k


@tb.primitive(lambda g: g)
def pair(xp, a):
    return a, a


def twice(x):
    return x * 2


@tb.fused(composition=twice)
def unsaved(xp, x):
    return x * 2


@tb.fused(composition=twice)
def no_gradients(xp, x):
    return x * 2, None


@tb.fused(composition=twice)
def no_tuple(xp, x):
    return x * 2, None


@no_tuple.backward
def _(xp, needed, g, saved, x):
    return g * 2
"""

MISTAKES = {
    "Tensors": """
        tb.tensor("a")
        tb.tensor([[1, 2], [3]])
        tb.tensor([x, x])
        tb.tensor([1, 2], dtype=int, requires_grad=True)
        tb.Tensor(None)
        x.item()
        x.data = 3
        (x * 2).data = x.data
        (x * 2).requires_grad = False
        np.exp(x)
        np.asarray(x)
        len(x.sum())
        bool(x > 0)
        x + "a"
        x + [1.0, 2.0, 3.0]
        x @ x
        x & x
        x[2]
        x["a"]
        tb.use_backend("gpu")
        """,
    "Gradients": """
        x.backward()
        x.sum().backward(np.ones(3))
        data.sum().backward()
        [y.backward() for y in [x.sum()] * 2]
        tb.backward(3)
        tb.grad(x.sum(), w)
        tb.grad(x.sum(), None)
        tb.grad([x.sum(), x], [x])
        tb.grad([x.sum()], [x], [1.0, 2.0])
        tb.no_grad()(steps)
        tb.use_fused(False)(steps)
        tb.use_fused(twice)
        tb.watch(print)(steps)
        tb.detect_anomaly().__call__(lambda: ops.log(x - 1))()
        """,
    "Ops": """
        ops.multiply(x)
        ops.add(x, x, x)
        ops.subtract(x, y=x)
        ops.divide(x, None)
        ops.negative("a")
        ops.power(x, w)
        ops.exp([1.0])
        ops.log(None)
        ops.sqrt(x, x)
        ops.tanh()
        ops.sigmoid("a")
        ops.relu({})
        ops.abs(x, out=x)
        ops.sign(None)
        ops.maximum(x, w)
        ops.minimum(x)
        ops.clip(x, 1, 0)
        ops.clip(x, x, 1)
        ops.where(x > 0, x)
        ops.astype(x, "float33")
        ops.to(x, "gpu")
        ops.equal(x, "a")
        ops.not_equal(x, w)
        ops.less(x, None)
        ops.less_equal(x)
        ops.greater(x, w)
        ops.greater_equal(x, "a")
        ops.bitwise_and(x > 0, x)
        ops.bitwise_or(x, x)
        ops.invert(x)
        ops.sum(x, axis=[-1])
        ops.sum(x, axes=0)
        ops.mean(data[:0])
        ops.var(x, axis=0, ddof=2)
        ops.std(x, ddof="a")
        ops.max(x, axis=2)
        ops.min(x, axis=(0, 0))
        ops.argmax(x, axis=2)
        ops.logsumexp(x, axis=2)
        ops.softmax(x, axis=[1])
        ops.log_softmax(x, axis=2)
        ops.reshape(x, (4, 2))
        ops.transpose(x, (0, 0))
        ops.swapaxes(x, 0, 2)
        ops.expand_dims(x, 4)
        ops.squeeze(x, 1)
        ops.broadcast_to(x, (3, 2))
        ops.concatenate(x)
        ops.concatenate([x, w])
        ops.stack([x, w])
        ops.stack([x, None])
        ops.getitem(x, (0, 0, 0))
        ops.matmul(x, x)
        ops.matmul(x, 2.0)
        ops.linear(x, x)
        ops.linear(x, w, np.ones(3))
        ops.linear([[1.0]], w)
        ops.cross_entropy(x, [0, 3])
        ops.cross_entropy(x, [0.0, 1.0])
        ops.cross_entropy(x, [0])
        ops.mse_loss(x, w)
        """,
    "Norms": """
        ops.batch_norm(x, np.ones(2))
        ops.batch_norm(x, mean=np.ones(3))
        ops.batch_norm(x[:1])
        ops.batch_norm(x, epsilon=1e-3)
        ops.batch_norm(x, eps=np.array(1e-5))
        ops.layer_norm(x, axis=[-1])
        ops.layer_norm(x, axis=None)
        ops.layer_norm(x, axis=0)
        ops.rms_norm(x, eps=-1.0)
        ops.group_norm(x, 2)
        ops.group_norm(x, 3.0)
        ops.instance_norm(x)
        ops.instance_norm([[[1.0]]])
        """,
    "Layers": """
        nn.Linear(3)
        nn.Linear(0, 3)
        nn.Linear(3, 2, init="zeros")
        nn.Linear(3, 2, rng=1)
        nn.Linear(4, 2)(x)
        nn.Linear(3, 2)("a")
        nn.Sequential([nn.ReLU()])
        nn.Sequential(nn.ReLU)
        nn.ReLU()(None)
        nn.Tanh()(x, x)
        nn.Sigmoid()([1.0])
        nn.Flatten()(None)
        nn.Dropout(1.5)
        nn.Dropout("a")
        nn.Dropout(0.5)([1.0])
        nn.MLP(4, 8, 3)
        nn.MLP([4])
        nn.MLP([4, 8, 3], norm=True)
        nn.MLP([4, 8, 3], norm=nn.BatchNorm(8))
        nn.MLP([4, 8, 3], norm="bach")
        nn.MLP([4, 8, 3], activation="gelu")
        nn.BatchNorm(3, momentum=2)
        nn.BatchNorm(3, eps=None)
        nn.BatchNorm(4)(x)
        nn.BatchNorm(3)([[1.0, 2.0, 3.0]])
        nn.LayerNorm(())
        nn.LayerNorm(4)(x)
        nn.RMSNorm("a")
        nn.GroupNorm(2, 3)
        nn.InstanceNorm(3)(x)
        nn.Module()(x)
        model.to("int32")
        model.load_state_dict({})
        """,
    "Optimizers": """
        optim.SGD(model, lr=0.1)
        optim.SGD([], lr=0.1)
        optim.SGD([data], lr=0.1)
        optim.SGD([x * 1], lr=0.1)
        optim.SGD(model.named_parameters(), lr=0.1)
        optim.SGD([x], lr="fast")
        optim.SGD([x, x], lr=0.1)
        optim.SGD([x], lr=0.1, nesterov=True)
        optim.Adam([x], betas=0.9)
        optim.AdamW([x], weight_decay=-1)
        optim.Optimizer([x], lr=-1.0)
        optim.Schedule(0.1, optim.cosine(10))
        optim.Schedule(sgd, 0.1)
        optim.cosine(0)
        optim.step_decay(10, factor=-1)
        optim.warmup("a")
        optim.clip_grad_norm(model.parameters(), 1.0)
        optim.clip_grad_norm([x], -1.0)
        """,
    "Ops of one's own": """
        tb.primitive(lambda g, c: g * c)(times)
        tb.primitive(lambda g: g, lambda g: g)(lambda xp, a: a)
        tb.primitive()(steps)
        tb.primitive(lambda g: g)(3)
        times(x, x)
        tb.grad(scaled(x).sum(), x)
        pair(x)
        tb.fused(twice)(x)
        tb.fused(composition=twice)(lambda xp, a: (a, None))
        unsaved(x)
        tb.grad(no_gradients(x).sum(), x)
        tb.grad(no_tuple(x).sum(), x)
        """,
    "Checks, graphs, programs, data, files": """
        tb.check.gradcheck(ops.relu, x)
        tb.check.gradcheck(lambda a: 3, [np.ones(2)])
        tb.check.gradcheck(ops.relu, [np.ones(2)], order=0)
        tb.check.compare("relu", [x])
        tb.check.compare("rms_norm", [np.arange(3)])
        tb.check.prove("relu", [x])
        tb.check.explain_batch_norm(x, w)
        tb.graph.tree(3)
        tb.graph.mermaid(None)
        tb.graph.dot("a")
        tb.graph.svg(3)
        tb.graph.svg(x, most=0)
        tb.graph.tree(x, values={})
        tb.compile(3)
        tb.compile(steps, backend="cuda")
        tb.program(3)
        tb.program(lambda a: a.sum().item(), x)
        tb.seed("a")
        tb.data.load("mnist1d")
        tb.data.Batches(np.ones(3), np.ones(2), 2)
        tb.data.Batches(np.ones(3), np.ones(3), 0)
        tb.checkpoint.load("missing.npz")
        """,
}


class Told(NamedTuple):
    """What a mistake raised."""

    call: str
    error: Exception

    @property
    def message(self) -> str:
        return "; ".join([str(self.error).strip(), *getattr(self.error, "__notes__", [])])


def calls() -> list[tuple[str, str]]:
    """All mistakes: their sections, and their code."""
    return [
        (section, line.strip())
        for section, lines in MISTAKES.items()
        for line in lines.strip().splitlines()
    ]


def told(call: str) -> Told:
    """What the user is told who makes this mistake; AssertionError if nothing."""
    from tinybn.fusion import FUSED

    space: dict[str, object] = {}
    before = {*FUSED}
    try:
        exec(compile(SETUP, "<setup>", "exec"), space)
        with np.errstate(all="ignore"):
            exec(compile(call, "<example>", "exec"), space)
    except Exception as error:
        return Told(call, error)
    finally:
        for name in FUSED.keys() - before:
            del FUSED[name]
    raise AssertionError(f"{call} raises nothing")


def versions() -> str:
    """What the words of some messages depend on."""
    python = ".".join(map(str, sys.version_info[:2]))
    return f"Python {python} and NumPy {'.'.join(np.__version__.split('.')[:2])}."


def document() -> str:
    """The text of docs/errors.md."""
    text = [
        "# What tinybn says to a mistake",
        "",
        "`python tests/mistakes.py` writes this file, and the tests check that it is current. Messages begin with",
        "the op or the class, and say what was expected, what came, and often what to do. The words of some are",
        f"Python's and NumPy's, here {versions()} All calls come after",
        "",
        f"```python{SETUP}```",
    ]
    section = ""
    for name, call in calls():
        if name != section:
            section = name
            text += ["", f"## {section}", "", "| call | error | message |", "|---|---|---|"]
        found = told(call)
        ticks = "``" if "`" in found.message else "`"  # as code, which Markdown leaves alone
        space = " " * (len(ticks) - 1)
        message = f"{ticks}{space}{found.message}{space}{ticks}"
        cells = f"`{call}`", f"`{type(found.error).__name__}`", message
        text.append(
            "| " + " | ".join(c.replace("|", "\\|").replace("\n", " ") for c in cells) + " |"
        )
    return "\n".join(text) + "\n"


if __name__ == "__main__":
    DOCUMENT.write_text(document(), encoding="utf-8")
