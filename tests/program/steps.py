"""Training steps to be compiled, and what compares them with the same steps, eager."""

import numpy as np

import tinybn as tb

RNG = np.random.default_rng(0)
BATCHES = [
    (RNG.standard_normal((32, 20)).astype(np.float32), RNG.integers(0, 5, 32)) for _ in range(3)
]


def sgd(params):
    return tb.optim.SGD(params, lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3)


def classifier(
    norm="batch", optimizer=sgd, activation="relu", dtype=np.float32, dropout=0.0, clip=0.0
):
    """A function that makes a step of its own: the step, its model and its optimizer."""

    def make():
        tb.seed(0)
        model = tb.nn.MLP([20, 16, 16, 5], norm=norm, activation=activation).to(dtype)
        if dropout:
            model = tb.nn.Sequential(*model.layers[:3], tb.nn.Dropout(dropout), *model.layers[3:])
        optim = optimizer(model.parameters())

        def step(x, labels):
            optim.zero_grad()
            loss = tb.ops.cross_entropy(model(x), labels)
            loss.backward()
            if clip:
                tb.optim.clip_grad_norm(model.parameters(), clip)
            optim.step()
            return loss

        return step, model, optim

    return make


def trained(make, compiled=None, steps=6, batches=BATCHES, dtype=np.float32):
    """The losses and the state of a step made anew, after some steps; `compiled` makes another of it."""
    step, *things = make()
    run = compiled(step) if compiled else step
    losses = [
        np.asarray(
            run(batches[k % len(batches)][0].astype(dtype), batches[k % len(batches)][1]).numpy()
        )
        for k in range(steps)
    ]
    state = {f"{i}.{k}": v for i, t in enumerate(things) for k, v in t.state_dict().items()}
    gradients = {
        f"d{k}": p.grad.numpy() for k, p in things[0].named_parameters() if p.grad is not None
    }
    return {"losses": np.array(losses), **state, **gradients}, run


def assert_same(found, expected, rtol):
    """Equal to the last bit (rtol=0), or up to a fraction of the largest."""
    assert found.keys() == expected.keys()
    for name, a in expected.items():
        b = found[name]
        assert b.dtype == a.dtype, name
        assert b.shape == a.shape, name
        if rtol == 0:
            np.testing.assert_array_equal(b, a, err_msg=name)
        else:
            np.testing.assert_allclose(
                b, a, rtol=rtol, atol=rtol * (np.abs(a).max() + 1e-6), err_msg=name
            )
