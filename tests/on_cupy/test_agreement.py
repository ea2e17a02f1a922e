"""NumPy and CuPy in one process: they train alike, exchange what they learnt, and never mix unseen."""

import numpy as np
import pytest
from numeric import draw

import tinybn as tb
from tinybn import nn, optim

X, LABELS = draw((64, 20), dtype=np.float32), np.arange(64) % 5
OPTIMIZERS = {
    "momentum": lambda ps: optim.SGD(ps, 0.05, momentum=0.9),
    "nesterov": lambda ps: optim.SGD(ps, 0.05, momentum=0.9, nesterov=True, weight_decay=1e-2),
    "adam": lambda ps: optim.Adam(ps, 1e-2),
    "adamw": lambda ps: optim.AdamW(ps, 1e-2),
}


def train(backend, norm, make, steps=20, model=None, optimizer=None):
    """The losses, the model and its optimizer after training on `backend` from one seed."""
    with tb.use_backend(backend):
        model = model or nn.MLP([20, 32, 32, 5], norm, rng=np.random.default_rng(0))
        optimizer = optimizer or make(model.parameters())
        factor = optim.warmup(5, optim.cosine(20, 0.1), start=0.2)
        schedule = optim.Schedule(optimizer, factor, lr=optimizer.lr)
        x, losses = tb.tensor(X), []
        assert {p.backend for p in (x, *model.parameters())} == {backend}
        for _ in range(steps):
            loss = tb.ops.cross_entropy(model(x), LABELS)
            optimizer.zero_grad()
            loss.backward()
            optim.clip_grad_norm(optimizer.params, 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
    return losses, model, optimizer


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("norm", [None, "batch", "layer", "group", "rms"])
def test_training_from_one_seed_gives_the_same_losses(norm, make):
    on_numpy, on_cupy = (train(backend, norm, make) for backend in ("numpy", "cupy"))
    np.testing.assert_allclose(on_cupy[0], on_numpy[0], rtol=1e-4)
    assert on_numpy[0][-1] < on_numpy[0][0] - 0.05
    theirs = on_numpy[1].state_dict()
    for name, array in on_cupy[1].state_dict().items():
        np.testing.assert_allclose(array, theirs[name], rtol=1e-3, atol=1e-4, err_msg=name)


@pytest.mark.parametrize(("first", "second"), [("numpy", "cupy"), ("cupy", "numpy")])
@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_training_goes_on_on_the_other_backend(first, second, norm):
    make = OPTIMIZERS["adam"]
    straight = train(first, norm, make)
    _, model, optimizer = train(first, norm, make, steps=10)
    with tb.use_backend(second):
        other = nn.MLP([20, 32, 32, 5], norm, rng=np.random.default_rng(1))
        other.load_state_dict(model.state_dict())
        mover = make(other.parameters())
        mover.load_state_dict(optimizer.state_dict())
    for mine, theirs in ((model, other), (optimizer, mover)):
        for name, array in mine.state_dict().items():
            assert type(array) is np.ndarray
            np.testing.assert_array_equal(theirs.state_dict()[name], array, err_msg=name)
    straight, there = (
        train(place, norm, make, model=m, optimizer=o)[0]
        for place, m, o in ((first, model, optimizer), (second, other, mover))
    )
    np.testing.assert_allclose(there, straight, rtol=1e-4)


def test_a_model_that_moves_takes_its_gradients_and_buffers_along_and_back():
    _, model, _ = train("numpy", "batch", OPTIMIZERS["momentum"], steps=2)
    before = model.state_dict()
    gradients = [p.grad.numpy() for p in model.parameters()]
    model.to("cupy")
    assert model[1].running_mean.backend == "cupy"
    assert {p.grad.backend for p in model.parameters()} == {"cupy"}
    model.to("numpy")
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])
    for p, g in zip(model.parameters(), gradients, strict=True):
        np.testing.assert_array_equal(p.grad.numpy(), g)


def test_to_is_differentiable_there_and_back():
    x = tb.tensor([1.0, 2.0], requires_grad=True, backend="numpy")
    there = (x * 3).to("cupy")
    assert there.backend == "cupy"
    back = (there * there).to("numpy")
    (g,) = tb.grad(back.sum(), x, create_graph=True)
    assert g.backend == back.backend == "numpy"
    np.testing.assert_array_equal(g.numpy(), [18, 36])
    np.testing.assert_array_equal(tb.grad(g.sum(), x)[0].numpy(), [18, 18])


def test_arrays_of_the_two_do_not_mix():
    on_numpy, on_cupy = (
        tb.tensor([1.0, 2.0], requires_grad=True, backend=name) for name in ("numpy", "cupy")
    )
    for a, b in (
        (on_numpy, on_cupy),
        (on_cupy, np.ones(2, np.float32)),
        (on_cupy, np.float32([1])),
    ):
        with pytest.raises(
            tb.BackendMismatchError, match=r"multiply: float32 .* on cupy.*move one"
        ):
            a * b
    with pytest.raises(tb.BackendMismatchError, match="linear"):
        nn.Linear(20, 3)(X)
    y = on_cupy * 2
    with pytest.raises(tb.BackendMismatchError, match=r"gradient is on numpy.*use .to\('cupy'\)"):
        y.backward(tb.tensor([1.0, 1.0], backend="numpy"))


def test_labels_are_wanted_on_the_host_and_checked_there():
    logits = tb.tensor(draw((3, 4)))
    with pytest.raises(TypeError, match="labels stay on the host"):
        tb.ops.cross_entropy(logits, tb.tensor(np.array([0, 1, 2])))
    with pytest.raises(ValueError, match=r"from 0 to 3 .*got 0 to 4"):
        tb.ops.cross_entropy(logits, np.array([0, 1, 4]))


@pytest.mark.parametrize("index", [np.array([3]), [0, -4], (np.array([0, 1]), [4, 0])])
def test_an_index_on_the_host_that_leads_out_is_refused_as_by_numpy(index):
    x = tb.tensor(draw((3, 4)), requires_grad=True)
    with pytest.raises(IndexError, match=r"getitem\(float64 \(3, 4\).*out of bounds"):
        x[index]


def test_a_tensor_on_a_gpu_never_becomes_a_numpy_array_unseen():
    t = tb.tensor([1.0, 2.0])
    for convert in (np.asarray, np.array, lambda t: np.array([t])):
        with pytest.raises(TypeError, match=r"not converted silently: use .numpy\(\)"):
            convert(t)
    with pytest.raises((BufferError, RuntimeError, TypeError)):
        np.from_dlpack(t)
    assert type(t.numpy()) is np.ndarray
    assert type(np.linalg.norm(t)) is type(t.data)  # NumPy asks CuPy


def test_cupys_own_arrays_and_what_has_their_dlpack_make_tensors():
    import cupy

    array = cupy.arange(6, dtype=np.float64).reshape(2, 3)

    class OfAnotherLibrary:
        __dlpack__, __dlpack_device__ = array.__dlpack__, array.__dlpack_device__

    for data in (array, OfAnotherLibrary(), tb.tensor(array), array.sum()):
        with tb.use_backend("cupy"):
            t = tb.tensor(data)
        assert (t.backend, t.dtype, t.shape) == ("cupy", np.float64, getattr(data, "shape", (2, 3)))
    t = tb.tensor(OfAnotherLibrary(), dtype=np.float32, backend="numpy")
    array[0, 0] = 7
    np.testing.assert_array_equal(t.numpy(), np.arange(6, dtype=np.float32).reshape(2, 3))
    np.testing.assert_array_equal(cupy.from_dlpack(tb.tensor(array)).get(), array.get())


def test_gradients_move_with_their_module_whatever_the_default_backend():
    with tb.use_backend("numpy"):
        model = nn.Linear(2, 3)
        model(np.ones((4, 2), np.float32)).sum().backward()
        model.to("cupy")
        assert [p.grad.backend for p in model.parameters()] == ["cupy", "cupy"]
