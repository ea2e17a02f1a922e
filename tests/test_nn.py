"""Modules: what they hold, how it is saved and moved, and how weights begin."""

import copy
from collections import deque
from typing import NamedTuple

import numpy as np
import pytest
from numeric import draw, here, host

import tinybn as tb
from tinybn import backend as backends
from tinybn import init, nn

X = here(draw((6, 4), dtype=np.float32))


def mlp(norm="batch", seed=0):
    return nn.MLP([4, 8, 8, 3], norm, rng=np.random.default_rng(seed))


def arrays(module):
    return {name: array.copy() for name, array in module.state_dict().items()}


def assert_unchanged(module, before):
    after = module.state_dict()
    assert after.keys() == before.keys()
    for name in before:
        np.testing.assert_array_equal(after[name], before[name], err_msg=name)


# What a module is made of


def test_parameters_are_named_by_their_place():
    names = [name for name, _ in mlp().named_parameters()]
    assert names == [
        *("0.weight", "1.gamma", "1.beta"),
        *("3.weight", "4.gamma", "4.beta"),
        *("6.weight", "6.bias"),
    ]
    assert mlp().parameters()[0].requires_grad


def test_modules_in_lists_are_found_and_shared_parameters_come_once():
    class Twice(nn.Module):
        def __init__(self):
            self.blocks = [nn.Linear(4, 4), nn.Linear(4, 4)]
            self.again = self.blocks[0]

        def forward(self, x):
            for block in (*self.blocks, self.again):
                x = block(x)
            return x

    module = Twice()
    assert len(module.parameters()) == 4
    assert "blocks.1.weight" in dict(module.named_parameters())
    assert {"blocks.0.bias", "again.bias"} <= module.state_dict().keys()
    module(X).sum().backward()
    assert all(p.grad is not None for p in module.parameters())


@pytest.mark.parametrize(
    ("norm", "kinds"),
    [
        (None, "Linear ReLU Linear ReLU Linear"),
        ("none", "Linear ReLU Linear ReLU Linear"),
        ("batch", "Linear BatchNorm ReLU Linear BatchNorm ReLU Linear"),
        ("layer", "Linear LayerNorm ReLU Linear LayerNorm ReLU Linear"),
        ("group", "Linear GroupNorm ReLU Linear GroupNorm ReLU Linear"),
        ("rms", "Linear RMSNorm ReLU Linear RMSNorm ReLU Linear"),
        (lambda n: nn.GroupNorm(2, n), "Linear GroupNorm ReLU Linear GroupNorm ReLU Linear"),
    ],
)
def test_an_mlp_is_linear_norm_activation_and_a_linear_at_the_end(norm, kinds):
    model = mlp(norm)
    assert [type(layer).__name__ for layer in model] == kinds.split()
    assert model(X).shape == (6, 3)
    has_bias = [layer.bias is not None for layer in model if isinstance(layer, nn.Linear)]
    assert has_bias == ([False, False, True] if norm == "batch" else [True] * 3)


@pytest.mark.parametrize("name", ["relu", "tanh", "sigmoid"])
def test_an_mlp_has_the_activation_that_was_asked_for(name):
    model = nn.MLP([4, 8, 3], activation=name)
    assert type(model[1]).__name__.lower() == name
    assert len(model) == 3


@pytest.mark.parametrize("norm", ["batch", nn.BatchNorm, lambda width: nn.BatchNorm(width, 0.1)])
def test_no_linear_before_batch_norm_has_a_bias(norm):
    first, batch_norm, *_, last = nn.MLP([4, 8, 3], norm=norm)
    assert first.bias is None
    assert isinstance(batch_norm, nn.BatchNorm)
    assert last.bias is not None
    assert nn.MLP([4, 8, 3], norm=nn.LayerNorm)[0].bias is not None


def test_layers_take_their_input_by_name():
    x = tb.tensor(np.ones((2, 3), np.float32))
    for layer in (
        nn.Linear(3, 2),
        nn.ReLU(),
        nn.BatchNorm(3),
        nn.LayerNorm(3),
        nn.Flatten(),
        nn.MLP([3, 4, 2]),
    ):
        np.testing.assert_array_equal(layer(x=x).numpy(), layer(x).numpy())


def test_an_mlp_without_hidden_layers_is_one_linear_layer():
    assert [type(layer) for layer in nn.MLP([4, 3], "batch")] == [nn.Linear]


@pytest.mark.parametrize("norm", [None, "batch", "layer", "group", "rms"])
def test_an_mlp_takes_sizes_that_are_numpy_integers(norm):
    assert nn.MLP(np.array([4, 8, 3]), norm)(X).shape == (6, 3)


@pytest.mark.parametrize("container", [list, tuple])
def test_modes_and_moves_reach_modules_in_containers(container):
    class Blocks(nn.Module):
        def __init__(self):
            self.blocks = container([mlp(), nn.Sequential(nn.Dropout(), nn.BatchNorm(4))])

    module = Blocks().eval().to(np.float64)
    assert len(list(module.modules())) == 1 + 8 + 3
    assert not any(m.training for m in module.modules())
    assert {p.dtype for p in module.parameters()} == {np.dtype(np.float64)}
    assert module.blocks[1][1].running_var.dtype == np.float64
    assert {"blocks.0.0.weight", "blocks.1.1.gamma"} <= dict(module.named_parameters()).keys()


@pytest.mark.parametrize(
    ("layer", "f"),
    [
        (nn.ReLU(), lambda x: np.maximum(x, 0)),
        (nn.Tanh(), np.tanh),
        (nn.Sigmoid(), lambda x: 1 / (1 + np.exp(-x))),
        (nn.Flatten(), lambda x: x.reshape(len(x), -1)),
    ],
)
def test_layers_without_parameters(layer, f):
    x = draw((2, 3, 4))
    np.testing.assert_allclose(layer(tb.tensor(x)).numpy(), f(x), rtol=1e-12)
    assert layer.parameters() == []


def test_linear_computes_x_weight_plus_bias():
    layer = nn.Linear(4, 3)
    layer.bias.data = here(np.array([1, 2, 3], np.float32))
    expected = host(X) @ layer.weight.numpy() + [1, 2, 3]
    np.testing.assert_allclose(layer(X).numpy(), expected, rtol=1e-5)
    assert nn.Linear(4, 3, bias=False).bias is None


def test_the_first_layer_computes_no_gradient_for_the_data():
    x = tb.tensor(X)
    mlp()(x).sum().backward()
    assert x.grad is None


def test_train_and_eval_reach_every_module():
    model = nn.Sequential(mlp(), nn.Dropout())
    assert all(not m.training for m in model.eval().modules())
    assert all(m.training for m in model.train().modules())


def test_a_call_passes_its_arguments_on_to_forward():
    class Scaled(nn.Module):
        def forward(self, x, factor=1.0):
            return x * factor

    np.testing.assert_array_equal(host(Scaled()(X, factor=2.0)), 2 * host(X))
    np.testing.assert_array_equal(host(Scaled()(x=X)), host(X))


def test_zero_grad_forgets():
    model = mlp()
    model(X).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    model.zero_grad()
    assert all(p.grad is None for p in model.parameters())


def test_repr_shows_the_layers():
    assert (
        repr(nn.Sequential(nn.Linear(4, 3), nn.ReLU())) == "Sequential(0: Linear(4, 3), 1: ReLU())"
    )


# Dropout


def test_dropout_keeps_the_mean_in_training_and_does_nothing_in_evaluation():
    layer = nn.Dropout(0.25, rng=np.random.default_rng(0))
    x = tb.tensor(np.ones((200, 200), np.float32), requires_grad=True)
    y = layer(x)
    assert y.dtype == np.float32
    assert set(np.unique(y.numpy())) == {0, np.float32(1 / 0.75)}
    assert y.mean().item() == pytest.approx(1, abs=0.01)
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), y.numpy())
    assert layer.eval()(x) is x


def test_dropout_can_be_repeated():
    a, b = (nn.Dropout(rng=np.random.default_rng(1))(X) for _ in range(2))
    np.testing.assert_array_equal(host(a), host(b))


def test_dropout_without_a_generator_follows_the_shared_seed_and_draws_anew_each_time():
    layer, x = nn.Dropout(), tb.tensor(np.ones((20, 20), np.float32))
    runs = []
    for _ in range(2):
        tb.seed(4)
        runs.append((layer(x).numpy(), layer(x).numpy()))
    np.testing.assert_array_equal(runs[0], runs[1])
    assert not np.array_equal(*runs[0])


def test_dropout_with_probability_0_does_nothing_in_training():
    x = tb.tensor(X)
    assert nn.Dropout(0.0)(x) is x


# How weights begin


def mlp_of_the_shared_generator():
    return nn.MLP([4, 8, 3], "layer")


def test_a_generator_of_its_own_leaves_the_shared_one_alone():
    tb.seed(3)
    first = nn.Linear(4, 3).weight.numpy()
    tb.seed(3)
    nn.Linear(4, 3, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(nn.Linear(4, 3).weight.numpy(), first)


def test_linear_begins_as_in_pytorch_but_with_a_bias_of_0():
    layer = nn.Linear(300, 200, rng=np.random.default_rng(0))
    expected = init.fan_in_uniform((300, 200), np.random.default_rng(0))
    np.testing.assert_array_equal(layer.weight.numpy(), expected)
    np.testing.assert_array_equal(layer.bias.numpy(), np.zeros(200))


def test_an_mlp_hands_its_init_to_every_linear():
    model = nn.MLP([4, 8, 3], init="he", rng=np.random.default_rng(0))
    rng = np.random.default_rng(0)
    for layer, shape in ((model[0], (4, 8)), (model[2], (8, 3))):
        np.testing.assert_array_equal(layer.weight.numpy(), init.he_normal(shape, rng))


def test_seeds_and_generators_give_the_same_weights_again():
    tb.seed(3)
    first = nn.Linear(4, 3).weight.numpy()
    tb.seed(3)
    np.testing.assert_array_equal(nn.Linear(4, 3).weight.numpy(), first)
    tb.seed(3)
    model = mlp_of_the_shared_generator()
    tb.seed(3)
    assert_unchanged(mlp_of_the_shared_generator(), model.state_dict())
    assert_unchanged(mlp(seed=5), mlp(seed=5).state_dict())
    assert not np.array_equal(mlp(seed=5)[0].weight.numpy(), mlp(seed=6)[0].weight.numpy())


@pytest.mark.parametrize(
    ("initializer", "variance", "bound"),
    [
        (init.he_normal, 2 / 300, None),
        (init.xavier_uniform, 2 / 500, np.sqrt(6 / 500)),
        (init.fan_in_uniform, 1 / 900, 1 / np.sqrt(300)),
        (init.normal(0.1), 0.01, None),
    ],
)
def test_initialisers_have_their_variance(initializer, variance, bound):
    w = initializer((300, 200), np.random.default_rng(0))
    assert w.dtype == np.float32
    assert w.shape == (300, 200)
    assert w.var() == pytest.approx(variance, rel=0.03)
    assert abs(w.mean()) < 3 * np.sqrt(variance / w.size)
    if bound:
        assert np.abs(w).max() <= bound


def test_init_by_name_and_by_function():
    rng = np.random.default_rng
    he = init.he_normal((4, 3), rng(0))
    np.testing.assert_array_equal(nn.Linear(4, 3, init="he", rng=rng(0)).weight.numpy(), he)
    np.testing.assert_array_equal(
        nn.Linear(4, 3, init=init.he_normal, rng=rng(0)).weight.numpy(), he
    )


# Saving, loading, moving


def test_state_dict_is_copies_in_numpy():
    model = mlp()
    state = model.state_dict()
    assert "1.running_mean" in state
    assert "1.num_batches_tracked" in state
    for array in state.values():
        assert type(array) is np.ndarray
    state["0.weight"][...] = 7
    assert not np.any(model.state_dict()["0.weight"] == 7)


def test_a_loaded_model_computes_the_same():
    model, other = mlp(seed=1), mlp(seed=2)
    for _ in range(3):
        model(X)
    other.load_state_dict(model.state_dict())
    assert other[1].num_batches_tracked == 3
    np.testing.assert_array_equal(other.eval()(X).numpy(), model.eval()(X).numpy())
    model[0].weight.data *= 2
    assert not np.array_equal(other[0].weight.numpy(), model[0].weight.numpy())


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s: s.pop("3.weight"), "missing: 3.weight"),
        (lambda s: s.update(extra=np.ones(1)), "unexpected: extra"),
        (lambda s: s.update({"6.bias": np.ones(4)}), r"6.bias: expected shape \(3,\), got \(4,\)"),
        (
            lambda s: s.update({"1.running_var": np.ones(1)}),
            r"1.running_var: expected shape \(8,\)",
        ),
        (lambda s: s.update({"0.weight": np.full((4, 8), "x")}), "0.weight: expected numbers"),
        (lambda s: (s.pop("0.weight"), s.update(b=1)), "missing: 0.weight; unexpected: b"),
        (lambda s: s.update({"6.bias": [[1], [2, 3]]}), r"6\.bias: setting an array element"),
        (lambda s: s.pop("4.num_batches_tracked"), "missing: 4.num_batches_tracked"),
        (lambda s: s.update({"4.num_batches_tracked": [1]}), r"4.num_batches_tracked: .*\(1,\)"),
        (lambda s: s.update({"4.num_batches_tracked": np.nan}), "4.num_batches_tracked"),
        (lambda s: s.update({"4.num_batches_tracked": 2.5}), "4.num_batches_tracked"),
        (lambda s: s.update({"4.num_batches_tracked": -1}), "4.num_batches_tracked"),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(spoil, message):
    model = mlp()
    state, before = mlp(seed=1).state_dict(), arrays(model)
    spoil(state)
    with pytest.raises(ValueError, match="load_state_dict changed nothing: .*" + message):
        model.load_state_dict(state)
    assert_unchanged(model, before)


def test_a_buffer_may_be_a_number_of_either_kind():
    class Averaged(nn.Module):
        buffers = ("count", "weight")

        def __init__(self, count, weight):
            self.count, self.weight = count, weight

    module, other = Averaged(0, 0.0), Averaged(3, -0.25)
    module.load_state_dict(other.state_dict())
    assert (module.count, module.weight) == (3, -0.25)
    assert (type(module.count), type(module.weight)) == (int, float)
    with pytest.raises(ValueError, match=r"count: expected a count, got 0\.5"):
        module.load_state_dict({"count": 0.5, "weight": 1})
    assert (module.count, module.weight) == (3, -0.25)


@pytest.mark.parametrize("norm", [None, "batch", "layer", "group", "rms"])
def test_every_norms_state_can_be_loaded_and_is_copied(norm):
    model, other = mlp(norm, seed=1), mlp(norm, seed=2)
    model(X)
    state = model.state_dict()
    tensors = other.parameters()
    other.load_state_dict(state)
    assert_unchanged(other, model.state_dict())
    assert all(p is q for p, q in zip(tensors, other.parameters(), strict=True))
    for array in state.values():
        array[...] = 7
    assert_unchanged(other, model.state_dict())


def test_tied_weights_stay_tied_when_loaded_and_copied():
    class Tied(nn.Module):
        def __init__(self):
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
            self.b.weight = self.a.weight

    module, other = Tied(), Tied()
    module.load_state_dict(other.state_dict())
    assert_unchanged(module, other.state_dict())
    for m in (module, copy.deepcopy(module), module.to(np.float64)):
        assert m.a.weight is m.b.weight
        assert [name for name, _ in m.named_parameters()] == ["a.weight", "a.bias", "b.bias"]


def test_loading_between_forward_and_backward_is_noticed():
    model = mlp(None)
    loss = model(X).sum()
    model.load_state_dict(mlp(None, seed=1).state_dict())
    with pytest.raises(RuntimeError, match="changed in place"):
        loss.backward()


def test_loading_keeps_the_models_dtype():
    model = mlp().to(np.float64)
    model.load_state_dict(mlp(seed=1).state_dict())
    assert {p.dtype for p in model.parameters()} == {np.dtype(np.float64)}


def test_to_changes_parameters_buffers_and_gradients():
    model = mlp()
    model(X).sum().backward()
    assert model.to(np.float64) is model
    for p in model.parameters():
        assert p.dtype == p.grad.dtype == np.float64
        assert p.requires_grad
    assert model[1].running_mean.dtype == np.float64
    assert model(X.astype(np.float64)).dtype == np.float64
    assert model.to(backends.name_of(X)).to("float32")(X).dtype == np.float32


def test_models_can_be_copied():
    model = mlp()
    model(X).sum().backward()
    before = arrays(model)
    twin = copy.deepcopy(model)
    assert_unchanged(twin, before)
    for p in twin.parameters():
        assert p.requires_grad
        p.data *= 2
        p.grad = None
    twin(X)
    assert twin[1].num_batches_tracked == 2
    assert_unchanged(model, before)
    assert all(p.grad is not None for p in model.parameters())


def test_an_optimizer_made_before_a_change_of_dtype_still_trains_the_model():
    model = mlp()
    optimizer = tb.optim.SGD(model.parameters(), 0.1)
    model.to(np.float64)(X.astype(np.float64)).sum().backward()
    before = arrays(model)
    optimizer.step()
    assert not np.array_equal(model.state_dict()["6.bias"], before["6.bias"])


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (
            lambda: nn.Linear(0, 3),
            ValueError,
            "in_features of Linear to be an integer of at least 1, got 0",
        ),
        (lambda: nn.Linear(3, 2.5), ValueError, "out_features of Linear to be an integer.*got 2.5"),
        (lambda: nn.Linear(-1, 3), ValueError, "in_features .*got -1"),
        (lambda: nn.Linear("3", 3), ValueError, "in_features .*got '3'"),
        (lambda: nn.MLP([4, 0, 2]), ValueError, "out_features .*got 0"),
        (lambda: nn.MLP([4, 6, 2], "group"), ValueError, "4 groups do not divide 6 channels"),
        (lambda: nn.MLP([4, 2], rng=0), TypeError, "numpy.random.Generator, got int"),
        (lambda: nn.Linear(3, 2, init="best"), ValueError, "unknown init 'best'.*'he'"),
        (lambda: nn.Linear(3, 2, rng=0), TypeError, "numpy.random.Generator, got int"),
        (lambda: nn.Linear(3, 2)(X), ValueError, r"x \(6, 4\) does not fit weight \(3, 2\)"),
        (lambda: nn.Sequential(nn.ReLU), TypeError, "expected Modules, .* got the class ReLU at 0"),
        (lambda: nn.MLP([4]), ValueError, r"at least an input and an output size, got \[4\]"),
        (lambda: nn.MLP([4, 2], "bach"), ValueError, "unknown norm 'bach'.*'batch'"),
        (lambda: nn.MLP([4, 2], activation="gelu"), ValueError, "unknown activation 'gelu'"),
        (lambda: nn.Dropout(1.0), ValueError, "0 <= p < 1, got 1.0"),
        (lambda: nn.Dropout(-0.1), ValueError, "got -0.1"),
        (lambda: nn.Dropout(np.nan), ValueError, "got nan"),
        (lambda: nn.Dropout(rng=0), TypeError, "numpy.random.Generator, got int"),
        (lambda: nn.Flatten()(tb.tensor(1.0)), ValueError, r"\(N, …\), got \(\)"),
        (lambda: nn.Module()(X), NotImplementedError, "Module defines no forward"),
        (lambda: mlp().to("float99"), ValueError, "floating-point dtype, got 'float99'"),
        (lambda: mlp().to(np.int64), ValueError, "floating-point dtype"),
        (lambda: init.normal(-1.0), ValueError, ">= 0, got -1.0"),
    ],
)
def test_bad_arguments(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


# Parameters in containers


class Nested(nn.Module):
    """Tensors and Modules in every container that a person may think of."""

    def __init__(self, seed=0):
        rng = np.random.default_rng(seed)

        def w():
            return tb.tensor(rng.standard_normal(2), dtype=np.float32, requires_grad=True)

        self.grid = [[nn.Linear(2, 2, rng=rng) for _ in range(2)] for _ in range(2)]
        self.heads = {"digit": nn.Linear(2, 3, rng=rng), "letters": (nn.Linear(2, 4, rng=rng),)}
        self.scales = [w(), {"last": w()}]
        self.queue = deque([w()])
        self.pair = NamedPair(w(), nn.BatchNorm(2))
        self.nothing = [1, "x", None, {}]


class NamedPair(NamedTuple):
    scale: object
    norm: object


NAMES = [
    "scales.0", "scales.1.last", "queue.0", "pair.0",
    *(f"grid.{i}.{j}.{name}" for i in (0, 1) for j in (0, 1) for name in ("weight", "bias")),
    "heads.digit.weight", "heads.digit.bias", "heads.letters.0.weight", "heads.letters.0.bias",
    "pair.1.gamma", "pair.1.beta",
]  # fmt: skip


def test_parameters_are_found_in_every_list_tuple_dict_and_deque():
    module = Nested()
    assert [name for name, _ in module.named_parameters()] == NAMES
    assert {"pair.1.running_mean", *NAMES} < module.state_dict().keys()
    other = Nested(1)
    other.load_state_dict(module.state_dict())
    assert_unchanged(other, module.state_dict())
    assert {p.dtype for p in other.to(np.float64).parameters()} == {np.dtype(np.float64)}
    module.eval()
    assert not any(m.training for m in module.modules())
    assert len([*module.modules()]) == 8


def test_a_set_of_modules_is_refused():
    module = nn.Linear(2, 2)
    module.extra = {nn.ReLU()}
    with pytest.raises(TypeError, match="extra: a set of Tensors or Modules has no order"):
        module.parameters()


def test_two_parameters_of_one_name_are_refused():
    module = nn.Linear(2, 2)
    module.a = {"b": [tb.tensor([1.0])], "b.0": tb.tensor([2.0])}
    for call in (module.state_dict, lambda: module.load_state_dict({})):
        with pytest.raises(ValueError, match=r"two .* have the same name, a\.b\.0"):
            call()


@pytest.mark.parametrize("value", [np.ones((3, 2)), 1.0, [[1.0]]], ids=lambda v: type(v).__name__)
def test_a_parameter_is_not_replaced_by_anything_but_a_tensor(value):
    layer = nn.Linear(3, 2)
    with pytest.raises(TypeError, match=r"Linear\.weight is a Tensor: .* would be lost; set its"):
        layer.weight = value
    layer.weight = tb.tensor(np.zeros((3, 2), np.float32), requires_grad=True)
    layer.bias = None
    assert [name for name, _ in layer.named_parameters()] == ["weight"]


def test_a_module_that_knows_its_parent():
    module = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    module[0].parent = module
    module[1].itself = [module[1]]
    assert [name for name, _ in module.named_parameters()] == ["0.weight", "0.bias"]
    assert [*module.modules()] == [module, module[0], module[1]]
    module.load_state_dict(module.state_dict())


def test_a_list_that_contains_itself():
    module = nn.Linear(2, 2)
    module.extra = [tb.tensor([1.0])]
    module.extra.append(module.extra)
    assert [name for name, _ in module.named_parameters()] == ["weight", "bias", "extra.0"]


def test_what_a_subclass_of_sequential_adds_is_found():
    class Net(nn.Sequential):
        def __init__(self):
            super().__init__(nn.Linear(2, 2))
            self.head = nn.Linear(2, 1)

    names = [name for name, _ in Net().named_parameters()]
    assert names == ["0.weight", "0.bias", "head.weight", "head.bias"]


def test_a_sequential_grows():
    model = nn.Sequential(nn.Linear(4, 3))
    model.append(nn.ReLU())
    model.append(nn.Linear(3, 2))
    assert model(X).shape == (6, 2)
    assert [name for name, _ in model.named_parameters()][2:] == ["2.weight", "2.bias"]
    with pytest.raises(TypeError, match=r"Sequential: expected Modules.*got int at 3"):
        model.append(3)
    assert len(model) == 3


class WithArrays(nn.Module):
    """Buffers of all kinds."""

    buffers = ("table", "index", "mask", "on", "unset")

    def __init__(self, value=0):
        self.table = here(np.full((2, 3), value, np.float32))
        self.index = here(np.full(3, value))
        self.mask = here(np.full(3, bool(value)))
        self.on = bool(value)
        self.unset = None


def test_buffers_may_be_arrays():
    module, other = WithArrays(1), WithArrays(0)
    state = module.state_dict()
    assert [*state] == ["table", "index", "mask", "on"]
    other.load_state_dict(state)
    state["table"][:] = 9
    assert_unchanged(other, module.state_dict())
    assert other.on is True
    assert type(other.table) is type(here(np.ones(1)))
    assert other.parameters() == []
    module.to(np.float64)
    assert (module.table.dtype, module.index.dtype) == (np.float64, int)
    for name, wrong in (("mask", np.ones(3)), ("index", np.full(3, 1.5)), ("table", np.ones(2))):
        with pytest.raises(ValueError, match=f"changed nothing: {name}: expected"):
            other.load_state_dict({**module.state_dict(), name: wrong})
    assert_unchanged(other, WithArrays(1).state_dict())


def test_a_buffer_of_another_kind_is_refused():
    module = WithArrays()
    module.unset = [1, 2]
    with pytest.raises(TypeError, match=r"WithArrays: expected the buffer unset to be .* got list"):
        module.state_dict()


def test_an_integer_buffer_stays_one_when_the_dtype_changes():
    module = WithArrays()
    module.index = tb.tensor(np.arange(3))
    assert module.to(np.float64).index.dtype == int


def test_keywords_reach_forward():
    class Scaled(nn.Module):
        def forward(self, x, *, by=1):
            return x * by

    np.testing.assert_array_equal(Scaled()(tb.tensor([2.0]), by=3).numpy(), [6])


def test_the_history_of_a_loss_is_not_copied():
    model = mlp()
    loss = model(X).sum()
    for value in (loss, [loss], {"model": model, "loss": loss}):
        with pytest.raises(TypeError, match=r"output of sum can't be deep-copied: .* detach\(\)"):
            copy.deepcopy(value)
    assert copy.deepcopy(loss.detach()).item() == loss.item()
    leaf = tb.tensor([1.0, 2.0], requires_grad=True)
    (leaf * leaf).sum().backward()
    (a, b) = copy.deepcopy((leaf, leaf))
    assert a is b
    assert a.requires_grad
    a.data[0] = 7
    a.grad.data[0] = 7
    assert (leaf.numpy()[0], leaf.grad.numpy()[0]) == (1, 2)
