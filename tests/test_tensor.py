"""Tensor as a NumPy or PyTorch user meets it."""

import copy
import pickle

import numpy as np
import pytest
from numeric import draw, here

import tinybn as tb
from tinybn import arrays, ops
from tinybn.modes import current_mode


@pytest.mark.parametrize(
    ("data", "dtype"),
    [
        (1, np.float32),
        (2.5, np.float32),
        ([1, 2], np.float32),
        ([[1.5], [2]], np.float32),
        (np.float64(1), np.float64),
        (np.arange(3), np.int64),
        (np.ones(2, np.float16), np.float16),
        (np.ones(2), np.float64),
        (np.array([True]), np.bool_),
        (tb.tensor([1.0]), np.float32),
    ],
)
def test_lists_become_float32_and_arrays_keep_their_dtype(data, dtype):
    assert tb.tensor(data).dtype == dtype
    assert tb.tensor(data, dtype=np.float64).dtype == np.float64


def test_a_tensor_owns_a_copy():
    array = np.ones(3)
    t = tb.tensor(array)
    array[0] = 5
    assert t.data[0] == 1
    t.numpy()[1] = 5
    assert t.data[1] == 1
    assert not np.may_share_memory(tb.tensor(t).data, t.data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("text", "real numbers, got str"),
        ([[1], [2, 3]], "cannot make a Tensor of this list"),
        (None, "NoneType"),
        (np.array([1j]), "complex128"),
        (np.array(["a"]), "dtype <U1"),
        ([1.0, None], "real numbers, got list with dtype object"),
        ([tb.tensor([1.0])], "use tb.ops.stack"),
    ],
)
def test_what_is_not_real_numbers_is_refused(data, message):
    with pytest.raises(TypeError, match=message):
        tb.tensor(data)


def test_integers_cannot_require_gradients():
    with pytest.raises(TypeError, match=r"int64: pass dtype=np.float32"):
        tb.tensor(np.arange(3), requires_grad=True)
    t = tb.tensor(np.arange(3))
    with pytest.raises(TypeError, match="floating-point"):
        t.requires_grad = True
    w = tb.tensor([1.0], requires_grad=True)
    with pytest.raises(TypeError, match="floating-point"):
        w.data = here(np.arange(1))
    assert w.item() == 1


def test_attributes():
    t = tb.tensor(np.zeros((2, 3)), requires_grad=True)
    assert (t.shape, t.ndim, t.size, t.dtype) == ((2, 3), 2, 6, np.float64)
    assert t.backend == (current_mode().backend or "numpy")
    assert t.T.shape == (3, 2)
    assert len(t) == 2
    assert t.requires_grad
    assert t.grad is None
    assert not t.detach().requires_grad
    assert t.detach().data is t.data


def test_conversions():
    assert tb.tensor(3).item() == float(tb.tensor([[3.0]])) == int(tb.tensor([3])) == 3
    assert bool(tb.tensor([1.0]))
    assert not tb.tensor(0)
    assert f"{tb.tensor(1.23456):.2f}" == "1.23"
    with pytest.raises(ValueError, match=r"one element.*shape \(2,\)"):
        tb.tensor([1, 2]).item()
    with pytest.raises(TypeError, match="without axes"):
        len(tb.tensor(1))


class OfAnotherLibrary:
    """An array that is known by its DLPack alone, as PyTorch's and JAX's are."""

    def __init__(self, array, device=None):
        self.array, self.device = array, device

    def __dlpack__(self, **options):
        if self.device == "tracked":
            raise BufferError("Can't export tensors that require gradient")
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int64, np.bool_])
def test_arrays_of_other_libraries_keep_their_dtype_and_are_copied(dtype):
    array = np.arange(6).reshape(2, 3)[:, ::-1].astype(dtype)
    t = tb.tensor(OfAnotherLibrary(array))
    assert (t.dtype, t.backend) == (dtype, current_mode().backend or "numpy")
    np.testing.assert_array_equal(t.numpy(), array)
    array[0, 0] = 0
    assert t.numpy()[0, 0] != 0
    assert tb.tensor(OfAnotherLibrary(array), dtype=np.float64).dtype == np.float64


def test_arrays_of_other_libraries_that_cannot_be_exported_are_named():
    message = "Tensor of this OfAnotherLibrary: Can't export"
    with pytest.raises(TypeError, match=message):
        tb.tensor(OfAnotherLibrary(np.ones(2), "tracked"))
    with pytest.raises(TypeError, match="complex128"):
        tb.tensor(OfAnotherLibrary(np.ones(2, complex)))


def test_what_only_converts_to_numpy_keeps_its_dtype_too():
    class Column:
        def __array__(self, dtype=None, copy=None):
            return np.arange(3, dtype=dtype or np.int16)

    assert tb.tensor(Column()).dtype == np.int16
    assert tb.tensor(Column(), dtype=np.float32).dtype == np.float32


def test_asarray_is_a_copy_without_history():
    t = tb.tensor([1, 2], backend="numpy")
    np.testing.assert_array_equal(np.asarray(t), [1, 2])
    assert np.asarray(t, dtype=np.float64).dtype == np.float64
    np.asarray(t)[0] = 5
    assert t.data[0] == 1
    assert np.array(t, copy=False) is t.data


def test_dlpack_shares_the_memory_of_a_tensor_that_needs_no_gradient():
    t = tb.tensor([1.0, 2.0], requires_grad=True)
    with pytest.raises(BufferError, match=r"requires grad.*detach"):
        t.__dlpack__()
    other = arrays.from_dlpack(t.detach())
    assert type(other) is type(t.data)
    t.data[0] = 5  # NumPy before 2.3 gives a view that can't be written to
    assert other[0] == 5
    assert t.__dlpack_device__() == t.data.__dlpack_device__()


def test_iteration_gives_rows_with_history():
    x = tb.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    first, second = x
    (first * second).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [[3, 4], [1, 2]])


def test_arrays_and_numbers_on_either_side_make_tensors():
    x = tb.tensor([1.0, 2.0], requires_grad=True)
    a = here(np.array([3.0, 4.0], np.float32))
    for y, expected in [
        (a + x, [4, 6]),
        (a - x, [2, 2]),
        (a * x, [3, 8]),
        (a / x, [3, 2]),
        (a**x, [3, 16]),
        (a @ x, 11),
        (x @ a, 11),
        (1 - x, [0, -1]),
        (-x, [-1, -2]),
        (abs(-x), [1, 2]),
        (2**x, [2, 4]),
    ]:
        assert isinstance(y, tb.Tensor)
        assert y.requires_grad
        np.testing.assert_allclose(y.numpy(), expected)


def test_batches_of_tensors_are_tensors():
    x, y = tb.tensor(draw((6, 2))), np.arange(6)
    for a, b in tb.data.Batches(x, y, 2, shuffle=False):
        assert isinstance(a, tb.Tensor)
        np.testing.assert_array_equal(a.numpy(), x.numpy()[b])


def test_numpy_functions_do_not_lose_the_gradient_silently():
    with pytest.raises(TypeError):
        np.exp(tb.tensor([1.0], requires_grad=True))


def test_methods_are_the_ops():
    x = tb.tensor(np.array([[1.0, 4.0], [9.0, 16.0]]))
    for name in [
        "sum",
        "mean",
        "var",
        "max",
        "min",
        "exp",
        "log",
        "sqrt",
        "tanh",
        "sigmoid",
        "relu",
        "softmax",
        "logsumexp",
    ]:
        np.testing.assert_array_equal(getattr(x, name)().numpy(), getattr(ops, name)(x).numpy())
    assert x.reshape(4).shape == x.reshape((4,)).shape == x.reshape(-1).shape == (4,)
    assert x.transpose().shape == x.transpose(1, 0).shape == x.transpose((1, 0)).shape == (2, 2)
    assert x.sum(0).shape == x.sum(axis=0).shape == (2,)
    assert x.sum(0, True).shape == (1, 2)
    assert x.expand_dims(0).squeeze(0).shape == (2, 2)


def test_repr_shows_values_dtype_and_where_it_comes_from():
    x = tb.tensor([1.0, 2.0], requires_grad=True, backend="numpy")
    assert repr(x) == "tensor([1., 2.], requires_grad=True)"
    assert repr(x.exp().astype(np.float64)).endswith("dtype=float64, from astype)")
    assert repr(tb.tensor([1], backend="numpy")) == "tensor([1.])"


def test_leaves_can_be_copied_and_pickled():
    x = tb.tensor([1.0, 2.0], requires_grad=True)
    for twin in (copy.deepcopy(x), pickle.loads(pickle.dumps(x))):
        assert twin.requires_grad
        np.testing.assert_array_equal(twin.numpy(), x.numpy())
        assert not np.may_share_memory(twin.data, x.data)


def test_the_data_of_an_output_cannot_be_replaced():
    x = tb.tensor([1.0], requires_grad=True)
    y = x * 2
    with pytest.raises(ValueError, match="detach"):
        y.data = np.ones(1)
    with pytest.raises(ValueError, match="detach"):
        y.requires_grad = False
    with pytest.raises(TypeError, match="must be an array, got float"):
        x.data = 1.0


def ones(shape):
    return here(np.ones(shape))


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda x: x + ones(2), ValueError, r"add\(float64 \(3, 4\), float64 \(2,\)\): .*broadcast"),
        (lambda x: x @ x, ValueError, r"matmul\(float64 \(3, 4\), float64 \(3, 4\)\)"),
        (lambda x: x.sum(2), ValueError, r"sum\(float64 \(3, 4\), axis=2.*out of bounds"),
        (lambda x: x.mean(axis=(0, -3)), ValueError, r"mean\(.*axis=\(0, -3\).*out of bounds"),
        (lambda x: x.max((0, 0)), ValueError, r"max\(.*duplicate"),
        (lambda x: x.reshape(5, 2), ValueError, r"reshape\(float64 \(3, 4\), shape=\(5, 2\)\)"),
        (lambda x: x.transpose(0, 2), ValueError, r"transpose\("),
        (lambda x: x[5], IndexError, r"getitem\(float64 \(3, 4\), index=5\).*out of bounds"),
        (lambda x: x[np.array([3])], IndexError, "out of bounds"),
        (lambda x: x.squeeze(0), ValueError, r"squeeze\("),
        (lambda x: x.broadcast_to((2, 4)), ValueError, r"broadcast_to\("),
        (lambda x: ops.concatenate([x, x.T], 0), ValueError, r"concatenate\("),
        (lambda x: ops.concatenate([]), ValueError, "at least one"),
        (lambda x: ops.stack([x, x.T]), ValueError, r"equal shapes, got \[\(3, 4\), \(4, 3\)\]"),
        (lambda x: ops.clip(x, 1, 0), ValueError, r"a_min \(1\) is larger than a_max \(0\)"),
        (lambda x: x + "a", TypeError, "expected a Tensor, an array or a number, got str"),
        (lambda x: x + [1.0], TypeError, r"got list: make a Tensor of it with tb.tensor"),
        (lambda x: ops.add(x, x, x), TypeError, r"add\(\) takes 2 positional arguments but 3 were given"),
        (lambda x: ops.sum(x, 0, axis=0), TypeError, "axis"),
        (lambda x: ops.sum(x, axsi=0), TypeError, "axsi"),
        (lambda x: ops.add(x), TypeError, r"add\(\) missing 1 required positional argument: 'b'"),
        (lambda x: ops.var(x, 0, 3), ValueError, "3 elements along axis 0 are too few for ddof=3"),
        (lambda x: ops.mean(x[:0]), ValueError, r"mean\(float64 \(0, 4\).*no elements to take the mean of"),
        (lambda x: ops.linear(x, ones((3, 2))), ValueError, r"x \(3, 4\) does not fit weight \(3, 2\)"),
        (lambda x: ops.linear(x, ones(4)), ValueError, r"weight \(4,\)"),
        (lambda x: ops.linear(x, ones((4, 2)), ones(3)), ValueError, r"shape \(2,\).*got \(3,\)"),
        (lambda x: ops.mse_loss(x, x.T), ValueError, r"equal shapes, got \(3, 4\) and \(4, 3\)"),
        (lambda x: ops.batch_norm(x, ones(3)), ValueError, r"gamma of shape \(4,\).*got \(3,\)"),
        (lambda x: ops.batch_norm(x, None, 1.0), ValueError, r"beta of shape \(4,\).*got \(\)"),
        (lambda x: ops.batch_norm(x, mean=ones(4)), ValueError, "both mean and var"),
        (lambda x: ops.batch_norm(x, mean=ones(4), var=ones(2)), ValueError, r"var of shape"),
        (lambda x: ops.batch_norm(x, eps=-1e-5), ValueError, "expected a number eps >= 0, got -1e-05"),
        (lambda x: ops.layer_norm(x, eps=float("nan")), ValueError, "expected a number eps >= 0, got nan"),
        (lambda x: ops.batch_norm(x[:1]), ValueError, r"\(1, 4\) has one value per channel"),
        (lambda x: ops.batch_norm(x[:0]), ValueError, "empty batch"),
        (lambda x: ops.batch_norm(x[0]), ValueError, r"\(N, C\).*got \(4,\)"),
        (lambda x: ops.layer_norm(x, axis=0), ValueError, r"last axes of x \(3, 4\), got axis=0"),
        (lambda x: ops.layer_norm(x, axis=(0, 1, 2)), ValueError, "last axes"),
        (lambda x: ops.layer_norm(x, axis=3), ValueError, "last axes"),
        (lambda x: ops.layer_norm(x, axis=-3), ValueError, "last axes"),
        (lambda x: ops.layer_norm(x, ones(3)), ValueError, r"gamma of shape \(4,\)"),
        (lambda x: ops.rms_norm(x, ones(3)), ValueError, r"gamma of shape \(4,\)"),
        (lambda x: ops.group_norm(x, 3), ValueError, "3 groups do not divide 4 channels"),
        (lambda x: ops.group_norm(x, 0), ValueError, "0 groups"),
        (lambda x: ops.instance_norm(x), ValueError, r"\(N, C, L, …\), got \(3, 4\)"),
        (lambda x: ops.instance_norm(x.expand_dims(2)), ValueError, "one value per channel"),
        (lambda x: ops.cross_entropy(x, np.array([0, 1, 4])), ValueError, "from 0 to 3 .*got 0 to 4"),
        (lambda x: ops.cross_entropy(x, np.array([-1, 1, 2])), ValueError, "got -1 to 2"),
        (lambda x: ops.cross_entropy(x, np.array([0, 1])), ValueError, r"shape \(3,\).*got \(2,\)"),
        (lambda x: ops.cross_entropy(x, np.zeros((3, 1), int)), ValueError, r"got \(3, 1\)"),
        (lambda x: ops.cross_entropy(x, np.zeros(3)), TypeError, "integer labels, got dtype float64"),
        (lambda x: ops.cross_entropy(x, None), TypeError, "labels as a NumPy array"),
        (lambda x: ops.cross_entropy(x[:0], np.zeros(0, int)), ValueError, "batch is empty"),
        (lambda x: ops.cross_entropy(x[0], np.zeros(3, int)), ValueError, r"\(N, C\), got \(4,\)"),
    ],
)  # fmt: skip
def test_bad_input_is_named_with_what_was_expected_and_what_came(call, kind, message):
    x = tb.tensor(np.ones((3, 4)), requires_grad=True)
    with pytest.raises(kind, match=message):
        call(x)
    np.testing.assert_array_equal(x.numpy(), 1)
