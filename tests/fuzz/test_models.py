"""Random lives of a model: train, evaluate, step, save, load, convert; and damaged state dicts.

A twin to which nothing but training happens says what the numbers must be.
"""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import tinybn as tb
from fuzz.examples import share
from tinybn import checkpoint, nn, optim

pytestmark = pytest.mark.host("files and state dicts are NumPy's on every backend")

NORMS = st.sampled_from([None, "batch", "layer", "rms", "group"])
OPTIMIZERS = {
    "sgd": lambda ps: optim.SGD(ps, 0.1),
    "momentum": lambda ps: optim.SGD(ps, 0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adam": lambda ps: optim.Adam(ps, 0.01),
    "adamw": lambda ps: optim.AdamW(ps, 0.01),
}
KINDS = st.sampled_from([*OPTIMIZERS])


class Life:
    """A model and its optimizer."""

    def __init__(self, norm, kind, seed=0):
        rng = np.random.default_rng(seed)
        self.model = nn.Sequential(
            nn.MLP([3, 4, 2], norm, rng=rng), nn.Tanh(), nn.Linear(2, 2, rng=rng)
        )
        self.optimizer = OPTIMIZERS[kind](self.model.parameters())
        self.kind = kind

    def data(self, seed):
        rng = np.random.default_rng([seed, 3])
        dtype = self.model.parameters()[0].dtype
        return rng.standard_normal((5, 3)).astype(dtype), rng.integers(0, 2, 5)

    def train(self, seed):
        x, labels = self.data(seed)
        self.model.train()
        self.optimizer.zero_grad()
        tb.ops.cross_entropy(self.model(x), labels).backward()
        self.optimizer.step()

    def backward(self, seed):
        """Gradients that add up, and no step."""
        x, labels = self.data(seed)
        tb.ops.cross_entropy(self.model(x), labels).backward()

    def evaluate(self, seed):
        before = self.everything()
        with tb.no_grad():
            y = self.model.eval()(self.data(seed)[0])
        same(before, self.everything())
        return y.numpy()

    def everything(self):
        """Copies of all numbers: the state, and the gradients."""
        found = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        found |= {f"optimizer.{k}": v for k, v in self.optimizer.state_dict().items()}
        for name, p in self.model.named_parameters():
            if p.grad is not None:
                found[f"grad.{name}"] = p.grad.numpy()
        return found


def same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert np.asarray(value).dtype == np.asarray(expected[name]).dtype, name
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


def through_a_file(state, folder):
    path = Path(folder) / "state.npz"
    checkpoint.save(path, state)
    return checkpoint.load(path)


STEPS = ["train", "train", "backward", "evaluate", "new", "file", "copy", "mode"]
STEPS += ["float64", "float32"]
MOVES = st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 9)), max_size=8)


@share(2)
@example(None, "momentum", [("float64", 0), ("train", 0), ("float32", 0), ("new", 0)])
@given(NORMS, KINDS, MOVES)
def test_a_life_goes_on_after_any_break(norm, kind, moves):
    """Saved, loaded into a new model or copied, it goes on to the last bit as if nothing happened."""
    alone, other = Life(norm, kind), Life(norm, kind)
    with tempfile.TemporaryDirectory() as folder:
        for move, seed in moves:
            if move in ("train", "backward", "evaluate"):
                a, b = getattr(alone, move)(seed), getattr(other, move)(seed)
                assert a is b is None or np.array_equal(a, b)
            elif move == "copy":
                other = copy.deepcopy(other)
            elif move in ("float64", "float32"):
                alone.model.to(move)
                other.model.to(move)
            elif move == "mode":
                alone.model.train(seed % 2 == 0)
                other.model.train(seed % 2 == 0)
            else:
                other = reborn(norm, kind, other, folder if move == "file" else None)
            same(other.everything(), alone.everything())
            assert modes(other) == modes(alone)


def modes(life):
    return [module.training for module in life.model.modules()]


def reborn(norm, kind, old, folder):
    """Another model, with other weights, that loads the state of the old one."""
    new = Life(norm, kind, seed=1)
    new.model.to(old.model.parameters()[0].dtype)
    states = old.model.state_dict(), old.optimizer.state_dict()
    if folder:
        states = [through_a_file(state, folder) for state in states]
    new.model.load_state_dict(states[0])
    new.optimizer.load_state_dict(states[1])
    for fresh, module in zip(new.model.modules(), old.model.modules(), strict=True):
        fresh.training = module.training
    for fresh, p in zip(new.model.parameters(), old.model.parameters(), strict=True):
        fresh.grad = None if p.grad is None else tb.tensor(p.grad)
    return new


DAMAGE = [
    "drop", "add", "rename", "shape", "reshape", "text", "object", "complex", "bool", "none",
    "scalar", "empty", "integer", "nan", "negative", "half",
]  # fmt: skip


def damaged(state, how, name):
    """A copy of the state with one entry damaged."""
    state = dict(state)
    value = state.pop(name)
    if how == "drop":
        return state
    if how == "add":
        return state | {name: value, f"{name}.more": value}
    if how == "rename":
        return state | {f"{name}_": value}
    return state | {
        name: {
            "shape": np.zeros((*value.shape, 2)),
            "reshape": value.reshape(1, *value.shape),
            "text": "nonsense",
            "object": np.array(object()),
            "complex": value.astype(complex),
            "bool": value.astype(bool),
            "none": None,
            "scalar": 3.0,
            "empty": np.zeros(0),
            "integer": np.ones(value.shape, np.int64),
            "nan": np.full(value.shape, np.nan),
            "negative": np.full(value.shape, -1.5),
            "half": value.astype(np.float16),
        }[how]
    }


@share(2)
@given(
    NORMS,
    KINDS,
    st.booleans(),
    st.lists(st.tuples(st.sampled_from(DAMAGE), st.integers(0, 99)), min_size=1, max_size=3),
)
def test_a_damaged_state_is_loaded_whole_or_not_at_all(norm, kind, of_optimizer, damages):
    """What is refused changed nothing; what is accepted is what the object then holds."""
    life = Life(norm, kind)
    life.train(0)
    life.train(1)
    target = life.optimizer if of_optimizer else life.model
    state = target.state_dict()
    names = sorted(state)
    for name, how in {names[i % len(names)]: how for how, i in damages}.items():
        state = damaged(state, how, name)
    before, arrays = life.everything(), [p.data for p in life.model.parameters()]
    try:
        with np.errstate(all="ignore"):
            target.load_state_dict(state)
    except ValueError as error:
        assert "nothing" in str(error)
        same(life.everything(), before)
        assert all(p.data is a for p, a in zip(life.model.parameters(), arrays, strict=True))
        life.train(2)
        assert np.isfinite(life.evaluate(3)).all()
    else:
        loaded = target.state_dict()
        for name, value in state.items():
            with np.errstate(all="ignore"):
                expected = np.asarray(value).astype(loaded[name].dtype)
            np.testing.assert_array_equal(loaded[name], expected, err_msg=name)


def test_a_ragged_list_is_refused_by_name():
    model = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"changed nothing: .*weight"):
        model.load_state_dict(model.state_dict() | {"weight": [[1], [2, 3]]})


def test_a_number_too_large_for_the_dtype_is_refused():
    model = nn.Linear(2, 2)
    with np.errstate(all="ignore"), pytest.raises(ValueError, match=r"changed nothing: .*weight"):
        model.load_state_dict(model.state_dict() | {"weight": np.full((2, 2), 1e300)})


@share(1)
@given(
    st.binary(max_size=40),
    st.integers(0, 10**6),
    st.sampled_from(["flip", "cut", "insert", "random"]),
)
def test_a_damaged_file_is_refused(noise, place, how):
    """One line that names the file; or it was not damaged where it counts."""
    state = {"0.weight": np.arange(6.0).reshape(2, 3), "1.step": np.array(3), "é": np.ones(2, "f")}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state.npz"
        checkpoint.save(path, state)
        content = bytearray(path.read_bytes())
        at = place % len(content)
        if how == "flip":
            content[at] ^= 1 << (place % 8)
        elif how == "cut":
            del content[at:]
        elif how == "insert":
            content[at:at] = noise
        else:
            content = bytearray(noise)
        path.write_bytes(content)
        try:
            loaded = checkpoint.load(path)
        except ValueError as error:
            assert str(path) in str(error)
            assert "\n" not in str(error)
        else:
            same(loaded, state)
