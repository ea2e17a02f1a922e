"""PyTorch as the oracle: values and gradients of ops, layers over many steps, optimizers."""

import numpy as np
import pytest
from numeric import draw

import tinybn as tb
from tinybn import nn, ops, optim

torch = pytest.importorskip("torch")
F = torch.nn.functional


def both(f, g, inputs, rtol=1e-10, second=True):
    """f on Tensors and g on torch's: equal values, gradients and gradients of gradients."""
    xs = [tb.tensor(a, requires_grad=True) for a in inputs]
    ts = [torch.tensor(a, requires_grad=True) for a in inputs]
    y, t = f(*xs), g(*ts)
    np.testing.assert_allclose(y.numpy(), t.detach().numpy(), rtol, atol=1e-12)
    v = draw(y.shape, seed=99)
    mine = tb.grad(y, xs, tb.tensor(v), create_graph=True)
    theirs = torch.autograd.grad(t, ts, torch.tensor(v), create_graph=True)
    for a, b in zip(mine, theirs, strict=True):
        np.testing.assert_allclose(a.numpy(), b.detach().numpy(), rtol, atol=1e-11)
    if not second:
        return
    ws = [draw(x.shape, seed=50 + i) for i, x in enumerate(xs)]
    h = sum((a * w).sum() for a, w in zip(mine, ws, strict=True))
    slope = sum((b * torch.tensor(w)).sum() for b, w in zip(theirs, ws, strict=True))
    if not slope.requires_grad:  # a linear function
        assert not h.requires_grad
        return
    # The gradient of a piecewise linear function depends on no input: PyTorch says 0.
    mine = tb.grad(h, xs, allow_unused=True) if h.requires_grad else [None] * len(xs)
    theirs = torch.autograd.grad(slope, ts, allow_unused=True)
    for a, b, x in zip(mine, theirs, xs, strict=True):
        expected = np.zeros(x.shape) if b is None else b.numpy(force=True)
        found = np.zeros(x.shape) if a is None else a.numpy()
        np.testing.assert_allclose(found, expected, rtol * 10, atol=1e-9)


ROWS, COLUMNS = np.array([2, 0, 2]), np.array([1, 3, 3])
MASK = draw((3, 4), seed=9) > 0
LABELS = np.array([3, 0, 0, 2, 1])
GAMMA, BETA, MEAN = (draw((4,), seed=i) for i in (5, 6, 7))
VAR = draw((4,), "positive", seed=8)
M, V = torch.tensor(MEAN), torch.tensor(VAR)

# An op's name, the op here, the op there, the shapes of its inputs, where these are drawn from.
OPS = [
    ("abs", ops.abs, torch.abs, [(3, 4)], "nonzero"),
    ("add", ops.add, torch.add, [(3, 1), (2, 1, 4)], "any"),
    ("subtract", ops.subtract, torch.subtract, [(3, 4), (4,)], "any"),
    ("multiply", ops.multiply, torch.multiply, [(3, 4), ()], "any"),
    ("divide", ops.divide, torch.divide, [(3, 4), (3, 1)], "nonzero"),
    ("divide", lambda a, b: a / b + a * b - b, lambda a, b: a / b + a * b - b, [(3, 4), (4,)], "nonzero"),
    ("divide", lambda a: a / a, lambda a: a / a, [(3, 4)], "nonzero"),
    ("negative", ops.negative, torch.negative, [(3, 4)], "any"),
    ("power", ops.power, torch.pow, [(3, 4), (3, 1)], "positive"),
    ("power", lambda a: a**3 + 2.0**a, lambda a: a**3 + 2.0**a, [(3, 4)], "any"),
    ("exp", ops.exp, torch.exp, [(3, 4)], "any"),
    ("log", ops.log, torch.log, [(3, 4)], "positive"),
    ("sqrt", ops.sqrt, torch.sqrt, [(3, 4)], "positive"),
    ("tanh", ops.tanh, torch.tanh, [(3, 4)], "any"),
    ("sigmoid", ops.sigmoid, torch.sigmoid, [(3, 4)], "any"),
    ("relu", ops.relu, torch.relu, [(3, 4)], "nonzero"),
    ("maximum", ops.maximum, torch.maximum, [(3, 4), (4,)], "any"),
    ("minimum", ops.minimum, torch.minimum, [(3, 4), (3, 1)], "any"),
    ("clip", lambda a: ops.clip(a, -0.5, 1.0), lambda a: a.clamp(-0.5, 1.0), [(3, 4)], "any"),
    ("clip", lambda a: ops.clip(a, None, 0.5), lambda a: a.clamp(max=0.5), [(3, 4)], "any"),
    ("where", lambda a, b: ops.where(MASK, a, b), lambda a, b: torch.where(torch.tensor(MASK), a, b), [(3, 4), (4,)], "any"),
    ("sum", lambda a: a.sum((0, 2)), lambda a: a.sum((0, 2)), [(3, 4, 2)], "any"),
    ("sum", lambda a: ops.sum(a * a), lambda a: (a * a).sum(), [(3, 4)], "any"),
    ("mean", lambda a: a.mean(1, True) * a, lambda a: a.mean(1, True) * a, [(3, 4)], "any"),
    ("var", lambda a: a.var((0, 2), 1), lambda a: a.var((0, 2)), [(3, 4, 2)], "any"),
    ("var", lambda a: ops.var(a, -1, keepdims=True), lambda a: a.var(-1, correction=0, keepdim=True), [(3, 4)], "any"),
    ("max", lambda a: ops.max(a, (0, 2)), lambda a: a.amax((0, 2)), [(3, 4, 2)], "distinct"),
    ("min", lambda a: ops.min(a, 1, keepdims=True), lambda a: a.amin(1, True), [(3, 4)], "distinct"),
    ("logsumexp", lambda a: a.logsumexp(0), lambda a: a.logsumexp(0), [(3, 4)], "any"),
    ("logsumexp", ops.logsumexp, lambda a: a.logsumexp((0, 1)), [(3, 4)], "any"),
    ("softmax", ops.softmax, lambda a: torch.softmax(a, -1), [(3, 4)], "any"),
    ("log_softmax", lambda a: ops.log_softmax(a, 0), lambda a: torch.log_softmax(a, 0), [(3, 4)], "any"),
    ("matmul", ops.matmul, torch.matmul, [(2, 1, 3, 4), (5, 4, 2)], "any"),
    ("matmul", ops.matmul, torch.matmul, [(2, 3, 4), (4, 2)], "any"),
    ("matmul", ops.matmul, torch.matmul, [(4,), (2, 4, 3)], "any"),
    ("matmul", ops.matmul, torch.matmul, [(2, 3, 4), (4,)], "any"),
    ("matmul", ops.matmul, torch.matmul, [(4,), (4,)], "any"),
    ("linear", ops.linear, lambda x, w, b: F.linear(x, w.T, b), [(5, 4), (4, 3), (3,)], "any"),
    ("linear", ops.linear, lambda x, w: F.linear(x, w.T), [(2, 5, 4), (4, 3)], "any"),
    ("reshape", lambda a: ops.reshape(a * a, (2, -1)), lambda a: (a * a).reshape(2, -1), [(3, 4)], "any"),
    ("transpose", lambda a: ops.transpose(a, (2, 0, 1)), lambda a: a.permute(2, 0, 1), [(2, 3, 4)], "any"),
    ("swapaxes", lambda a: ops.swapaxes(a, 0, -1), lambda a: a.swapaxes(0, -1), [(2, 3, 4)], "any"),
    ("expand_dims", lambda a: ops.expand_dims(a, 1), lambda a: a.unsqueeze(1), [(3, 4)], "any"),
    ("squeeze", lambda a: ops.squeeze(a, 1), lambda a: a.squeeze(1), [(3, 1, 4, 1)], "any"),
    ("broadcast_to", lambda a: ops.broadcast_to(a, (2, 3, 4)), lambda a: a.broadcast_to((2, 3, 4)), [(3, 1)], "any"),
    ("concatenate", lambda a, b: ops.concatenate([a, b, a * b], -1), lambda a, b: torch.cat([a, b, a * b], -1), [(3, 1), (3, 1)], "any"),
    ("stack", lambda a, b: ops.stack([a, b, a], 1), lambda a, b: torch.stack([a, b, a], 1), [(3, 4), (3, 4)], "any"),
    ("getitem", lambda a: a[1:, ::2], lambda a: a[1:, ::2], [(3, 4)], "any"),
    ("getitem", lambda a: a[..., None, -1], lambda a: a[..., None, -1], [(3, 4)], "any"),
    ("getitem", lambda a: a[ROWS], lambda a: a[ROWS.tolist()], [(3, 4)], "any"),
    ("getitem", lambda a: a[ROWS, COLUMNS], lambda a: a[ROWS.tolist(), COLUMNS.tolist()], [(3, 4)], "any"),
    ("getitem", lambda a: a[MASK], lambda a: a[torch.tensor(MASK)], [(3, 4)], "any"),
    ("batch_norm", lambda x: ops.batch_norm(x, eps=0.1), lambda x: F.batch_norm(x, None, None, training=True, eps=0.1), [(5, 4, 2)], "any"),
    ("batch_norm", lambda x, g, b: ops.batch_norm(x, g, b, mean=MEAN, var=VAR), lambda x, g, b: F.batch_norm(x, M, V, g, b), [(5, 4, 2), (4,), (4,)], "any"),
    ("layer_norm", lambda x, g, b: ops.layer_norm(x, g, b, eps=0.1), lambda x, g, b: F.layer_norm(x, (4,), g, b, 0.1), [(5, 4), (4,), (4,)], "any"),
    ("group_norm", lambda x: ops.group_norm(x, 2, eps=0.1), lambda x: F.group_norm(x, 2, eps=0.1), [(5, 4, 2)], "any"),
    ("instance_norm", lambda x: ops.instance_norm(x, eps=0.1), lambda x: F.instance_norm(x, eps=0.1), [(3, 4, 5)], "any"),
    ("rms_norm", lambda x: ops.rms_norm(x, eps=0.1), lambda x: F.rms_norm(x, (4,), eps=0.1), [(5, 4)], "any"),
    ("cross_entropy", lambda a: ops.cross_entropy(a, LABELS), lambda a: F.cross_entropy(a, torch.tensor(LABELS)), [(5, 4)], "any"),
    ("cross_entropy", lambda a: ops.cross_entropy(a * 1e3, LABELS), lambda a: F.cross_entropy(a * 1e3, torch.tensor(LABELS)), [(5, 4)], "any"),
    ("mse_loss", ops.mse_loss, F.mse_loss, [(5, 4), (5, 4)], "any"),
]  # fmt: skip
NO_GRADIENT = ["equal", "not_equal", "less", "less_equal", "greater", "greater_equal", "sign"]
CONVERSIONS = {"astype", "to"}


@pytest.mark.parametrize(("f", "g", "shapes", "domain"), [case[1:] for case in OPS], ids=[case[0] for case in OPS])  # fmt: skip
def test_ops(f, g, shapes, domain):
    both(f, g, [draw(s, domain, seed=i) for i, s in enumerate(shapes)])


def test_every_op_is_compared():
    assert {case[0] for case in OPS} | {*NO_GRADIENT} | CONVERSIONS == {*ops.__all__}


@pytest.mark.parametrize("name", NO_GRADIENT)
def test_ops_without_a_gradient(name):
    inputs = [np.array([-1.0, 0.0, 2.0]), np.array([-1.0, 1.0, 1.0])][: 1 if name == "sign" else 2]
    found = getattr(ops, name)(*(tb.tensor(a, requires_grad=True) for a in inputs))
    peer = getattr(torch, {"equal": "eq"}.get(name, name))
    expected = peer(*map(torch.tensor, inputs))
    np.testing.assert_array_equal(found.numpy(), expected.numpy())
    assert not found.requires_grad


def test_a_change_of_dtype_leads_the_gradient_back():
    a = draw((3, 4))
    x, t = tb.tensor(a, requires_grad=True), torch.tensor(a, requires_grad=True)
    y, u = x.astype(np.float32), t.float()
    np.testing.assert_array_equal(y.numpy(), u.detach().numpy())
    v = draw((3, 4), seed=1, dtype=np.float32)
    y.backward(v)
    u.backward(torch.tensor(v))
    assert x.grad.dtype == np.float64
    np.testing.assert_array_equal(x.grad.numpy(), t.grad.numpy())


@pytest.mark.parametrize("shape", [(6, 4), (3, 4, 5), (2, 4, 3, 3)])
def test_norm_ops_with_a_zero_in_gamma(shape):
    c = shape[1]
    gamma = draw((c,), seed=1)
    gamma[1] = 0
    x, beta = draw(shape, seed=2) * 3 + 5, draw((c,), seed=3)
    both(
        ops.batch_norm,
        lambda x, g, b: F.batch_norm(x, None, None, g, b, training=True),
        [x, gamma, beta],
    )
    both(
        lambda x, g, b: ops.group_norm(x, 2, g, b),
        lambda x, g, b: F.group_norm(x, 2, g, b),
        [x, gamma, beta],
    )
    if len(shape) > 2:
        both(
            lambda x, g, b: ops.instance_norm(x, g, b),
            lambda x, g, b: F.instance_norm(x, weight=g, bias=b),
            [x, gamma, beta],
        )
    last = shape[1:]
    gamma, beta = draw(last, seed=4), draw(last, seed=5)
    axis = tuple(range(1, len(shape)))
    both(
        lambda x, g, b: ops.layer_norm(x, g, b, axis=axis),
        lambda x, g, b: F.layer_norm(x, last, g, b),
        [x, gamma, beta],
    )
    both(
        lambda x, g: ops.rms_norm(x, g, axis=axis),
        lambda x, g: F.rms_norm(x, last, g, eps=1e-5),
        [x, gamma],
    )


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(
    ("mine", "theirs", "shape"),
    [
        (lambda on: nn.LayerNorm(4, elementwise_affine=on), lambda on: torch.nn.LayerNorm(4, elementwise_affine=on), (6, 3, 4)),
        (lambda on: nn.LayerNorm((3, 4), 1e-2, on), lambda on: torch.nn.LayerNorm((3, 4), 1e-2, on), (6, 3, 4)),
        (lambda on: nn.LayerNorm(4, 1e-2, on, bias=False), lambda on: torch.nn.LayerNorm(4, 1e-2, on, bias=False), (6, 4)),
        (lambda on: nn.RMSNorm(4, 1e-2, on), lambda on: torch.nn.RMSNorm(4, 1e-2, on), (6, 4)),
        (lambda on: nn.RMSNorm((3, 4), 1e-2, on), lambda on: torch.nn.RMSNorm((3, 4), 1e-2, on), (6, 3, 4)),
        (lambda on: nn.GroupNorm(2, 4, affine=on), lambda on: torch.nn.GroupNorm(2, 4, affine=on), (6, 4)),
        (lambda on: nn.GroupNorm(4, 4, 1e-2, on), lambda on: torch.nn.GroupNorm(4, 4, 1e-2, on), (6, 4, 2, 3)),
        (lambda on: nn.InstanceNorm(4, affine=on), lambda on: torch.nn.InstanceNorm1d(4, affine=on), (6, 4, 5)),
        (lambda on: nn.InstanceNorm(4, 1e-2, on), lambda on: torch.nn.InstanceNorm2d(4, 1e-2, affine=on), (6, 4, 2, 3)),
    ],
)  # fmt: skip
def test_norm_layers(mine, theirs, shape, affine):
    layer, other = mine(affine).to(np.float64), theirs(affine).double()
    names = [name for name, _ in layer.named_parameters()]
    peers = {"gamma": "weight", "beta": "bias"}
    assert [peers[name] for name in names] == [name for name, _ in other.named_parameters()]

    def f(x, *params):
        for name, p in zip(names, params, strict=True):
            setattr(layer, name, p)
        return layer(x)

    def g(x, *params):
        named = {peers[name]: p for name, p in zip(names, params, strict=True)}
        return torch.func.functional_call(other, named, (x,))

    params = [draw(getattr(layer, name).shape, seed=i + 1) for i, name in enumerate(names)]
    both(f, g, [draw(shape) * 3 + 5, *params])


@pytest.mark.parametrize("shape", [(8, 3), (4, 3, 5)])
def test_batch_norm_layer_without_running_statistics(shape):
    mine = nn.BatchNorm(3, track_running_stats=False, affine=False)
    theirs = torch.nn.BatchNorm1d(3, track_running_stats=False, affine=False)
    for training in (True, False):
        both(mine.train(training), theirs.train(training), [draw(shape) * 2 + 3])


@pytest.mark.parametrize(
    ("f", "g", "values"),
    [
        (ops.relu, torch.relu, [-1.0, 0.0, 1.0]),
        (ops.abs, torch.abs, [-1.0, 0.0, 1.0]),
        (ops.max, torch.amax, [2.0, 1.0, 2.0]),
        (ops.min, torch.amin, [2.0, 1.0, 1.0]),
        (lambda a: ops.maximum(a, 1.0), lambda a: torch.maximum(a, torch.tensor(1.0).double()), [0, 1.0, 2]),
        (lambda a: ops.clip(a, -1, 1), lambda a: torch.clamp(a, -1, 1), [-2.0, -1, 0, 1, 2]),
        (lambda a: ops.minimum(a, 1.0), lambda a: torch.minimum(a, torch.tensor(1.0).double()), [0, 1.0, 2]),
        (lambda a: ops.max(a.reshape(2, 3), 1), lambda a: a.reshape(2, 3).amax(1), [1.0, 1, 0, 2, 2, 2]),
        (lambda a: ops.min(a.reshape(2, 3), 0), lambda a: a.reshape(2, 3).amin(0), [1.0, 1, 0, 1, 2, 0]),
        (lambda a: ops.clip(a, -1), lambda a: torch.clamp(a, min=-1), [-2.0, -1, 0]),
        (lambda a: a**0, lambda a: a**0, [0.0, 1.0]),
        (lambda a: a**2, lambda a: a**2, [0.0, 1.0]),
    ],
)  # fmt: skip
def test_conventions_at_kinks(f, g, values):
    both(f, g, [np.array(values, float)], second=False)


@pytest.mark.parametrize(
    ("f", "g", "a", "b"),
    [
        (ops.maximum, torch.maximum, [0.0, 1, 2], [1.0, 1, 1]),
        (ops.minimum, torch.minimum, [0.0, 1, 2], [1.0, 1, 1]),
        (ops.power, torch.pow, [0.0, 0, 2], [1.0, 2, 0]),
    ],
)
def test_conventions_at_kinks_of_two_inputs(f, g, a, b):
    both(f, g, [np.array(a), np.array(b)], second=False)


@pytest.mark.parametrize("shape", [(8, 3), (4, 3, 5), (2, 3, 4, 4)])
@pytest.mark.parametrize("momentum", [0.1, 0.3, None])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_batch_norm_layer_over_20_steps_and_evaluation(shape, momentum, affine, dtype):
    kinds = {2: torch.nn.BatchNorm1d, 3: torch.nn.BatchNorm1d, 4: torch.nn.BatchNorm2d}
    mine = nn.BatchNorm(3, momentum=momentum, affine=affine).to(dtype)
    theirs = kinds[len(shape)](3, momentum=momentum, affine=affine).to(
        torch.float64 if dtype == np.float64 else torch.float32
    )
    if affine:
        mine.gamma.data = draw((3,), seed=5).astype(dtype)
        theirs.weight.data = torch.tensor(mine.gamma.numpy())
    tolerance = (
        {"rtol": 1e-9, "atol": 1e-11} if dtype == np.float64 else {"rtol": 1e-4, "atol": 1e-5}
    )

    def step(seed):
        a, v = (draw(shape, seed=seed + k).astype(dtype) for k in (0, 1000))
        a = a * 2 + 3
        x, t = tb.tensor(a, requires_grad=True), torch.tensor(a, requires_grad=True)
        mine.zero_grad()
        theirs.zero_grad()
        y, u = mine(x), theirs(t)
        y.backward(v)
        u.backward(torch.tensor(v))
        pairs = [(y, u), (x.grad, t.grad)]
        if affine:
            pairs += [(mine.gamma.grad, theirs.weight.grad), (mine.beta.grad, theirs.bias.grad)]
        for a, b in pairs:
            np.testing.assert_allclose(a.numpy(), b.detach().numpy(), **tolerance)
        for name in ("running_mean", "running_var"):
            expected = getattr(theirs, name).numpy()
            np.testing.assert_allclose(getattr(mine, name).numpy(), expected, **tolerance)
        assert mine.num_batches_tracked == theirs.num_batches_tracked.item()

    for seed in range(20):
        step(seed)
    mine.eval()
    theirs.eval()
    step(77)


def matched_parameters(dtype):
    arrays = [draw((4, 3), seed=1).astype(dtype), draw((3,), seed=2).astype(dtype)]
    return (
        [tb.tensor(a, requires_grad=True) for a in arrays],
        [torch.tensor(a, requires_grad=True) for a in arrays],
    )


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(
    ("mine", "theirs", "options"),
    [
        (optim.SGD, torch.optim.SGD, {}),
        (optim.SGD, torch.optim.SGD, {"momentum": 0.9}),
        (optim.SGD, torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
        (optim.SGD, torch.optim.SGD, {"weight_decay": 0.1}),
        (optim.Adam, torch.optim.Adam, {}),
        (optim.Adam, torch.optim.Adam, {"weight_decay": 0.1, "betas": (0.8, 0.9), "eps": 1e-4}),
        (optim.AdamW, torch.optim.AdamW, {}),
        (optim.AdamW, torch.optim.AdamW, {"weight_decay": 0.3}),
        (optim.AdamW, torch.optim.AdamW, {"betas": (0.5, 0.6), "eps": 1e-2}),
    ],
)
def test_optimizers_step_for_step(mine, theirs, options, dtype):
    ps, ts = matched_parameters(dtype)
    a, b = mine(ps, lr=0.05, **options), theirs(ts, lr=0.05, **options)
    rtol = 1e-12 if dtype == np.float64 else 2e-5
    for step in range(25):
        for i, (p, t) in enumerate(zip(ps, ts, strict=True)):
            g = draw(p.shape, seed=100 * step + i).astype(dtype)
            p.grad, t.grad = tb.tensor(g), torch.tensor(g)
        a.step()
        b.step()
        for p, t in zip(ps, ts, strict=True):
            np.testing.assert_allclose(p.numpy(), t.detach().numpy(), rtol, atol=rtol)


@pytest.mark.parametrize(
    ("factor", "make"),
    [
        (optim.step_decay(3, 0.5), lambda o: torch.optim.lr_scheduler.StepLR(o, 3, 0.5)),
        (optim.cosine(10), lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 10)),
        (optim.cosine(10, 0.1), lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 10, 0.02)),
        (
            optim.warmup(5, start=0.25),
            lambda o: torch.optim.lr_scheduler.LinearLR(o, 0.25, total_iters=5),
        ),
    ],
)
def test_schedules(factor, make):
    ps, ts = matched_parameters(np.float64)
    a, b = optim.SGD(ps, 0.2), torch.optim.SGD(ts, 0.2)
    schedule, scheduler = optim.Schedule(a, factor), make(b)
    for _ in range(10):
        assert a.lr == pytest.approx(b.param_groups[0]["lr"], rel=1e-12, abs=1e-15)
        b.step()
        scheduler.step()
        schedule.step()


@pytest.mark.parametrize("max_norm", [0.1, 100])
@pytest.mark.parametrize(("dtype", "rtol"), [(np.float64, 1e-12), (np.float32, 1e-6)])
def test_clipping(max_norm, dtype, rtol):
    ps, ts = matched_parameters(dtype)
    for p, t in zip(ps, ts, strict=True):
        p.grad, t.grad = tb.tensor(p.numpy()), t.detach().clone()
    found = optim.clip_grad_norm(ps, max_norm)
    expected = torch.nn.utils.clip_grad_norm_(ts, max_norm)
    assert found.item() == pytest.approx(expected.item(), rel=rtol)
    for p, t in zip(ps, ts, strict=True):
        np.testing.assert_allclose(p.grad.numpy(), t.grad.numpy(), rtol=rtol)


def test_a_network_trains_as_in_torch():
    """Linear–BatchNorm–ReLU–Linear, cross-entropy, momentum: the same losses for 30 steps."""
    model = nn.MLP([6, 16, 4], "batch", rng=np.random.default_rng(0)).to(np.float64)
    twin = torch.nn.Sequential(
        torch.nn.Linear(6, 16, bias=False),
        torch.nn.BatchNorm1d(16),
        torch.nn.ReLU(),
        torch.nn.Linear(16, 4),
    ).double()
    with torch.no_grad():
        twin[0].weight.copy_(torch.tensor(model[0].weight.numpy().T))
        twin[3].weight.copy_(torch.tensor(model[3].weight.numpy().T))
        twin[3].bias.zero_()
    a = optim.SGD(model.parameters(), 0.1, momentum=0.9)
    b = torch.optim.SGD(twin.parameters(), 0.1, momentum=0.9)
    for step in range(30):
        x, labels = draw((12, 6), seed=step), np.arange(12) % 4
        loss = ops.cross_entropy(model(x), labels)
        other = F.cross_entropy(twin(torch.tensor(x)), torch.tensor(labels))
        assert loss.item() == pytest.approx(other.item(), rel=1e-9)
        a.zero_grad()
        b.zero_grad()
        loss.backward()
        other.backward()
        a.step()
        b.step()
