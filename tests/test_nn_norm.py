"""The normalization layers: running statistics, evaluation, shapes, and what they refuse."""

import numpy as np
import pytest
from numeric import draw, here, host

import tinybn as tb
from tinybn import nn

SHAPES = [(8, 3), (4, 3, 5), (2, 3, 4, 4)]


def stats(x, ddof=0):
    """Mean and variance per channel of (N, C, …), in float64."""
    axis = tuple(i for i in range(x.ndim) if i != 1)
    return x.astype(np.float64).mean(axis), x.astype(np.float64).var(axis, ddof=ddof)


def normalized(x, mean, var, eps=1e-5):
    shape = (1, -1) + (1,) * (x.ndim - 2)
    return (x - mean.reshape(shape)) / np.sqrt(var.reshape(shape) + eps)


def batches(shape, n=4):
    return [(3 + 2 * draw(shape, seed=i)).astype(np.float32) for i in range(n)]


@pytest.mark.parametrize("shape", SHAPES)
def test_training_normalizes_with_the_biased_variance_of_the_batch(shape):
    x = batches(shape)[0]
    y = nn.BatchNorm(3)(here(x))
    np.testing.assert_allclose(y.numpy(), normalized(x, *stats(x)), atol=1e-5)


def test_running_variance_is_the_unbiased_one():
    layer = nn.BatchNorm(1, eps=0.0, momentum=1.0)
    y = layer(tb.tensor([[0], [2]]))
    np.testing.assert_array_equal(y.numpy(), [[-1], [1]])  # the biased variance is 1 …
    np.testing.assert_array_equal(layer.running_var.numpy(), [2])  # … and the unbiased one 2
    np.testing.assert_array_equal(layer.running_mean.numpy(), [1])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("training", [True, False])
def test_batch_norms_output_and_gradients_by_hand(shape, training):
    layer = nn.BatchNorm(3, eps=0.5).to(np.float64)
    gamma, beta, mean = (draw((3,), seed=i) for i in (1, 2, 3))
    var = draw((3,), "positive", seed=4)
    for name, array in (
        ("gamma", gamma),
        ("beta", beta),
        ("running_mean", mean),
        ("running_var", var),
    ):
        getattr(layer, name).data = here(array)
    x, g = 3 + 2 * draw(shape), draw(shape, seed=5)
    t = tb.tensor(x, requires_grad=True)
    y = layer.train(training)(t)
    y.backward(g)

    axis, column = tuple(i for i in range(x.ndim) if i != 1), (1, 3) + (1,) * (x.ndim - 2)
    if training:
        mean, var = stats(x)
    x_hat = normalized(x, mean, var, eps=0.5)
    np.testing.assert_allclose(y.numpy(), gamma.reshape(column) * x_hat + beta.reshape(column))
    np.testing.assert_allclose(layer.gamma.grad.numpy(), (g * x_hat).sum(axis))
    np.testing.assert_allclose(layer.beta.grad.numpy(), g.sum(axis))
    if training:  # x moves the mean and the variance, too
        g = g - g.mean(axis, keepdims=True) - x_hat * (g * x_hat).mean(axis, keepdims=True)
    expected = g * (gamma / np.sqrt(var + 0.5)).reshape(column)
    np.testing.assert_allclose(t.grad.numpy(), expected, rtol=1e-9)


def test_a_large_mean_costs_no_digits():
    x = (1e4 + draw((64, 3))).astype(np.float32)
    layer = nn.BatchNorm(3, momentum=1.0)
    np.testing.assert_allclose(layer(here(x)).numpy(), normalized(x, *stats(x)), atol=3e-6)
    np.testing.assert_allclose(layer.running_var.numpy(), stats(x, ddof=1)[1], rtol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("momentum", [0.1, 0.3, 0.0, 1.0, None])
def test_running_statistics_follow_with_the_unbiased_variance(shape, momentum):
    layer = nn.BatchNorm(3, momentum=momentum)
    mean, var = np.zeros(3), np.ones(3)
    for i, x in enumerate(batches(shape), 1):
        layer(here(x))
        weight = 1 / i if momentum is None else momentum
        new_mean, new_var = stats(x, ddof=1)
        mean, var = (1 - weight) * mean + weight * new_mean, (1 - weight) * var + weight * new_var
        np.testing.assert_allclose(layer.running_mean.numpy(), mean, rtol=1e-5)
        np.testing.assert_allclose(layer.running_var.numpy(), var, rtol=1e-5)
        assert layer.num_batches_tracked == i
    assert layer.running_mean.dtype == layer.running_var.dtype == np.float32


@pytest.mark.parametrize("shape", SHAPES)
def test_evaluation_uses_the_running_statistics_and_leaves_them(shape):
    layer = nn.BatchNorm(3)
    for x in batches(shape):
        layer(here(x))
    before = layer.state_dict()
    x = draw(shape, seed=9, dtype=np.float32)
    y = layer.eval()(here(x))
    expected = normalized(x, before["running_mean"], before["running_var"])
    np.testing.assert_allclose(y.numpy(), expected, atol=1e-5)
    layer(here(x[:1]))  # one sample is enough in evaluation
    for name, value in layer.state_dict().items():
        np.testing.assert_array_equal(value, before[name])


def test_a_loaded_layer_goes_on_with_its_cumulative_average():
    first, second = nn.BatchNorm(3, momentum=None), nn.BatchNorm(3, momentum=None)
    xs = batches((8, 3))
    for x in xs[:3]:
        first(here(x))
    second.load_state_dict(first.state_dict())
    second(here(xs[3]))
    means, variances = zip(*(stats(x, ddof=1) for x in xs), strict=True)
    np.testing.assert_allclose(second.running_mean.numpy(), np.mean(means, axis=0), rtol=1e-5)
    np.testing.assert_allclose(second.running_var.numpy(), np.mean(variances, axis=0), rtol=1e-5)
    assert first.num_batches_tracked == 3  # and the layer that it was loaded from stays


def test_running_statistics_are_no_parameters_and_need_no_recording():
    layer = nn.BatchNorm(3)
    assert [name for name, _ in layer.named_parameters()] == ["gamma", "beta"]
    x = tb.tensor(batches((8, 3))[0], requires_grad=True)
    with tb.no_grad():
        assert not layer(x).requires_grad
    assert layer.num_batches_tracked == 1
    layer(x).sum().backward()
    assert layer.num_batches_tracked == 2
    for running in (layer.running_mean, layer.running_var):
        assert not running.requires_grad
        assert running.grad is None


def test_without_running_statistics_evaluation_uses_the_batch():
    layer = nn.BatchNorm(3, track_running_stats=False)
    x = batches((8, 3))[0]
    assert layer.state_dict().keys() == {"gamma", "beta"}
    t = tb.tensor(x)
    np.testing.assert_array_equal(layer.eval()(t).numpy(), layer.train()(t).numpy())


def test_without_affine_there_are_no_parameters():
    assert nn.BatchNorm(3, affine=False).parameters() == []
    assert nn.LayerNorm(3, elementwise_affine=False).parameters() == []
    assert nn.LayerNorm(3, bias=False).beta is None
    assert nn.RMSNorm(3, elementwise_affine=False).parameters() == []
    assert nn.GroupNorm(3, 3, affine=False).parameters() == []
    assert nn.InstanceNorm(3).parameters() == []
    assert len(nn.InstanceNorm(3, affine=True).parameters()) == 2


def test_the_running_statistics_may_change_between_forward_and_backward():
    layer = nn.BatchNorm(3)
    for x in batches((8, 3)):
        layer(here(x))
    layer.eval()
    x = tb.tensor(batches((8, 3))[0], requires_grad=True)
    y = layer(x).sum()
    expected = tb.grad(y, x, retain_graph=True)[0].numpy()
    layer.train()(here(batches((8, 3))[1]))
    y.backward()
    np.testing.assert_array_equal(x.grad.numpy(), expected)


def test_nor_does_that_change_derivatives_of_the_second_order():
    layer = nn.BatchNorm(3).eval()
    x = tb.tensor(batches((8, 3))[0], requires_grad=True)
    found = []
    for between in (False, True):
        (g,) = tb.grad((layer(x) ** 3).sum(), x, create_graph=True)
        if between:
            layer.train()(here(batches((8, 3))[1]))
        found.append(tb.grad((g * g).sum(), x)[0].numpy())
    np.testing.assert_array_equal(*found)


class Number:
    """A number that a program computes with: it can be nothing but + - * /."""

    def __init__(self, value):
        self.value = value

    def __add__(self, other):
        return Number(self.value + other)

    def __rtruediv__(self, other):
        return Number(other / self.value)

    def __rsub__(self, other):
        return Number(other - self.value)

    def __mul__(self, other):
        product = self.value * other
        return product if isinstance(product, np.ndarray) else Number(product)

    __array_ufunc__ = None
    __rmul__ = __mul__


@pytest.mark.host("what a count may be has nothing to do with a GPU")
def test_a_cumulative_average_only_computes_with_its_count():
    recorded, layer = nn.BatchNorm(3, momentum=None), nn.BatchNorm(3, momentum=None)
    recorded.num_batches_tracked = Number(0)
    for x in batches((8, 3)):
        recorded(x)
        layer(x)
    assert recorded.num_batches_tracked.value == layer.num_batches_tracked == 4
    for name in ("running_mean", "running_var"):
        found, expected = getattr(recorded, name).numpy(), getattr(layer, name).numpy()
        np.testing.assert_array_equal(found, expected)


def test_a_second_batch_between_forward_and_backward_changes_no_gradient():
    first, second = batches((8, 3))[:2]
    gradients = []
    for between in (False, True):
        layer, x = nn.BatchNorm(3), tb.tensor(first, requires_grad=True)
        y = layer(x)
        if between:
            layer(here(second))
        y.backward(draw((8, 3), seed=7, dtype=np.float32))
        gradients.append([x.grad, layer.gamma.grad, layer.beta.grad])
    assert np.abs(gradients[0][0].numpy()).max() > 0.01
    for a, b in zip(*gradients, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_the_bias_before_batch_norm_has_no_gradient():
    linear = nn.Linear(4, 3, rng=np.random.default_rng(0)).to(np.float64)
    norm = nn.BatchNorm(3, eps=0).to(np.float64)
    (norm(linear(here(draw((8, 4))))) * here(draw((8, 3), seed=1))).sum().backward()
    np.testing.assert_allclose(linear.bias.grad.numpy(), 0, atol=1e-13)
    along = (linear.weight.numpy() * linear.weight.grad.numpy()).sum(axis=0)
    np.testing.assert_allclose(along, 0, atol=1e-13)  # it is of order eps


LAYERS = [
    (lambda: nn.BatchNorm(4), (6, 4)),
    (lambda: nn.LayerNorm(4), (6, 4)),
    (lambda: nn.LayerNorm((3, 4)), (6, 3, 4)),
    (lambda: nn.RMSNorm(4), (6, 4)),
    (lambda: nn.GroupNorm(2, 4), (6, 4, 5)),
    (lambda: nn.InstanceNorm(4, affine=True), (6, 4, 5)),
]


@pytest.mark.parametrize(("make", "shape"), LAYERS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtype_stays_in_outputs_gradients_and_state(make, shape, dtype):
    layer = make().to(dtype)
    x = tb.tensor(draw(shape, dtype=dtype), requires_grad=True)
    y = layer(x)
    (y * here(draw(shape, seed=1, dtype=dtype))).sum().backward()
    for t in (y, x.grad, *(p.grad for p in layer.parameters())):
        assert t.dtype == dtype
    assert all(v.dtype in (dtype, np.int64) for v in layer.state_dict().values())


@pytest.mark.parametrize(("make", "shape"), LAYERS[1:])
def test_other_norms_do_not_mix_samples(make, shape):
    layer = make()
    x = here(draw(shape, dtype=np.float32))
    np.testing.assert_allclose(layer(x).numpy()[:2], layer(x[:2]).numpy(), rtol=1e-6)
    np.testing.assert_array_equal(layer.eval()(x).numpy(), layer.train()(x).numpy())


def over(axis, centred=True):
    """Normalization over `axis` by hand, with eps 0.5."""

    def f(x):
        d = x - x.mean(axis, keepdims=True) if centred else x
        return d / np.sqrt((d * d).mean(axis, keepdims=True) + 0.5)

    return f


@pytest.mark.parametrize(
    ("make", "shape", "f"),
    [
        (lambda: nn.LayerNorm(4, 0.5), (6, 3, 4), over(-1)),
        (lambda: nn.LayerNorm((3, 4), 0.5), (6, 3, 4), over((1, 2))),
        (lambda: nn.RMSNorm(4, 0.5), (6, 3, 4), over(-1, centred=False)),
        (lambda: nn.RMSNorm([3, 4], 0.5), (6, 3, 4), over((1, 2), centred=False)),
        (lambda: nn.GroupNorm(2, 4, 0.5), (6, 4), lambda x: over(-1)(x.reshape(6, 2, 2))),
        (lambda: nn.GroupNorm(2, 4, 0.5), (6, 4, 5), lambda x: over(-1)(x.reshape(6, 2, 10))),
        (lambda: nn.InstanceNorm(4, 0.5, affine=True), (6, 4, 5), over(-1)),
        (lambda: nn.InstanceNorm(4, 0.5, affine=True), (6, 4, 2, 3), over((2, 3))),
    ],
)
def test_outputs_are_those_of_the_formula(make, shape, f):
    layer = make().to(np.float64)
    x = 3 + 2 * draw(shape)
    expected = f(x).reshape(shape)
    np.testing.assert_allclose(layer(here(x)).numpy(), expected, rtol=1e-12)
    layer.gamma.data = here(draw(layer.gamma.shape, seed=1))
    per_channel = isinstance(layer, nn.GroupNorm | nn.InstanceNorm)
    column = (1, 4) + (1,) * (len(shape) - 2) if per_channel else layer.gamma.shape
    expected = expected * layer.gamma.numpy().reshape(column)
    if not isinstance(layer, nn.RMSNorm):
        layer.beta.data = here(draw(layer.beta.shape, seed=2))
        expected = expected + layer.beta.numpy().reshape(column)
    np.testing.assert_allclose(layer(here(x)).numpy(), expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("kind", [nn.LayerNorm, nn.RMSNorm])
@pytest.mark.parametrize("shape", [4, np.int64(4), (4,), [4]])
def test_normalized_shape_is_an_integer_or_several(kind, shape):
    assert kind(shape).normalized_shape == (4,)


def test_layer_norm_normalizes_each_sample():
    x = here(draw((6, 3, 4)))
    y = nn.LayerNorm((3, 4)).to(np.float64)(x).numpy()
    np.testing.assert_allclose(y.mean((1, 2)), 0, atol=1e-12)
    np.testing.assert_allclose(y.std((1, 2)), 1, rtol=1e-4)


def test_group_norm_with_one_group_is_layer_norm_and_with_c_groups_instance_norm():
    x = here(draw((3, 4, 5)))
    one, all_ = (nn.GroupNorm(g, 4).to(np.float64)(x).numpy() for g in (1, 4))
    layer = nn.LayerNorm((4, 5), elementwise_affine=False).to(np.float64)
    np.testing.assert_allclose(one, host(layer(x)), rtol=1e-12)
    np.testing.assert_allclose(all_, host(nn.InstanceNorm(4).to(np.float64)(x)), rtol=1e-12)


@pytest.mark.parametrize("x", [here(np.ones((n, 3), np.float32)) for n in (1, 0)])
def test_a_batch_without_variance_is_refused_in_training_and_changes_nothing(x):
    layer = nn.BatchNorm(3)
    before = layer.state_dict()
    with pytest.raises(ValueError, match=r"one value per channel|empty batch"):
        layer(x)
    for name, value in layer.state_dict().items():
        np.testing.assert_array_equal(value, before[name])
    layer(here(np.ones((1, 3, 2), np.float32)))  # two values per channel


@pytest.mark.parametrize("shape", [(8, 4), (8, 2), (4, 5, 3), (3,)])
def test_the_wrong_channels_are_refused_and_change_nothing(shape):
    layer = nn.BatchNorm(3)
    layer(here(batches((8, 3))[0]))
    before = layer.state_dict()
    with pytest.raises(ValueError, match=r"expected x of shape \(N, 3\) or"):
        layer(here(draw(shape, dtype=np.float32)))
    for name, value in layer.state_dict().items():
        np.testing.assert_array_equal(value, before[name])


def test_an_empty_batch_is_refused_in_evaluation_too():
    with pytest.raises(ValueError, match="empty batch"):
        nn.BatchNorm(3).eval()(here(np.ones((0, 3), np.float32)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: nn.BatchNorm(0),
            "num_features of BatchNorm to be an integer of at least 1, got 0",
        ),
        (lambda: nn.BatchNorm(3, momentum=1.5), "0 <= momentum <= 1 or None, got 1.5"),
        (lambda: nn.BatchNorm(3, momentum=-0.1), "got -0.1"),
        (lambda: nn.BatchNorm(3, momentum=np.nan), "got nan"),
        (lambda: nn.BatchNorm(3, eps=-1), "eps >= 0, got -1"),
        (lambda: nn.BatchNorm(3, eps=np.nan), "eps >= 0, got nan"),
        (
            lambda: nn.BatchNorm(2.5),
            "num_features of BatchNorm to be an integer of at least 1, got 2.5",
        ),
        (lambda: nn.RMSNorm(3, eps=-1), "eps >= 0"),
        (lambda: nn.GroupNorm(1, 3, eps=-1), "eps >= 0"),
        (lambda: nn.InstanceNorm(3, eps=-1), "eps >= 0"),
        (lambda: nn.LayerNorm(0), "normalized_shape to be an integer of at least 1, got 0"),
        (lambda: nn.LayerNorm((3, 2.5)), "normalized_shape .*got 2.5"),
        (lambda: nn.GroupNorm(0, 4), "groups"),
        (lambda: nn.GroupNorm(2.0, 4), "num_groups .*2.0"),
        (lambda: nn.InstanceNorm(0), "num_features .*got 0"),
        (lambda: nn.InstanceNorm(3)(np.ones((2, 3, 1))), "one value per channel"),
        (
            lambda: nn.BatchNorm(3)(np.ones((2, 4))),
            r"BatchNorm\(3\): expected.*\(N, 3\) or \(N, 3, …\), got \(2, 4\)",
        ),
        (lambda: nn.BatchNorm(3)(np.ones(3)), r"got \(3,\)"),
        (lambda: nn.LayerNorm(3, eps=-1), "eps >= 0"),
        (lambda: nn.LayerNorm(()), "at least one axis"),
        (lambda: nn.LayerNorm((3, 4))(np.ones((2, 4))), r"\(…, 3, 4\), got \(2, 4\)"),
        (lambda: nn.RMSNorm(3)(np.ones((2, 4))), r"\(…, 3\), got \(2, 4\)"),
        (lambda: nn.GroupNorm(3, 4), "3 groups do not divide 4 channels"),
        (lambda: nn.GroupNorm(2, 4)(np.ones((2, 6))), r"GroupNorm\(2, 4\).*\(2, 6\)"),
        (lambda: nn.InstanceNorm(3)(np.ones((2, 4, 5))), r"InstanceNorm\(3\).*\(2, 4, 5\)"),
        (lambda: nn.InstanceNorm(3)(np.ones((2, 3))), r"\(N, C, L, …\), got \(2, 3\)"),
    ],
)
def test_bad_arguments_and_shapes(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_running_statistics_are_exact_and_keep_their_dtype():
    x = (1e6 + draw((333, 8))).astype(np.float32)
    layer = nn.BatchNorm(8, momentum=1.0)
    layer(here(x))
    mean, var = stats(x, ddof=1)
    half_an_ulp = np.spacing(np.float32(1e6)) / 2
    np.testing.assert_allclose(layer.running_mean.numpy(), mean, rtol=0, atol=1.01 * half_an_ulp)
    np.testing.assert_allclose(layer.running_var.numpy(), var, rtol=1e-6)
    layer(here(x.astype(np.float64)))
    assert layer.running_mean.dtype == layer.running_var.dtype == np.float32


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("training", [True, False])
def test_images_of_uint8_are_normalized_like_their_values(training, compiled):
    if compiled:
        pytest.importorskip("numba")
    images = here(np.random.default_rng(0).integers(0, 256, (4, 3, 5, 5)).astype(np.uint8))
    found = []
    for x in (images, images.astype(np.float64)):
        layer = nn.BatchNorm(3).train(training)
        forward = tb.compile(lambda x, layer=layer: layer(x)) if compiled else layer
        outputs = [forward(x).numpy() for _ in range(3)]
        found.append([*outputs, layer.running_mean.numpy(), layer.running_var.numpy()])
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)
