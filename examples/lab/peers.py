"""The fused ops in PyTorch and JAX: further columns for the comparison of gradients."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tinybn.check import Rival


def installed() -> list[str]:
    """The peers that are installed."""
    return [name for name in PEERS if importlib.util.find_spec(name)]


def torch_rival(op: str, names: Sequence[str], static: dict[str, Any]) -> Rival:
    """PyTorch's own op and its derivatives by torch.autograd."""
    import torch
    import torch.nn.functional as f

    op = op.removeprefix("sync_")  # of one rank

    def fn(*inputs: Any) -> Any:
        given = dict(zip(names, inputs, strict=True))
        x, gamma, beta = inputs[0], given.get("gamma"), given.get("beta")
        eps, dtype = static.get("eps", 1e-5), inputs[0].dtype
        if op == "batch_norm" and "mean" in static:
            mean, var = (torch.tensor(static[name]).to(dtype) for name in ("mean", "var"))
            return f.batch_norm(x, mean, var, gamma, beta, False, 0.0, eps)
        if op == "batch_norm":
            return f.batch_norm(x, None, None, gamma, beta, True, 0.0, eps)
        if op == "layer_norm":
            return f.layer_norm(x, _last_axes(x, static), gamma, beta, eps)
        if op == "rms_norm":
            return f.rms_norm(x, _last_axes(x, static), gamma, eps)
        if op == "group_norm":
            return f.group_norm(x, static["groups"], gamma, beta, eps)
        if op == "instance_norm":
            return f.instance_norm(x, weight=gamma, bias=beta, eps=eps)
        if op == "linear":
            return f.linear(x, given["weight"].T, given.get("bias"))
        return f.cross_entropy(x, torch.tensor(static["labels"]))

    def rival(
        arrays: list[np.ndarray], weights: list[list[np.ndarray]], orders: int
    ) -> list[list[np.ndarray]]:
        xs = [torch.tensor(a, requires_grad=True) for a in arrays]
        values: Any = [fn(*xs)]
        found = [[values[0].detach().numpy()]]
        for k in range(orders):
            terms = [
                (v * torch.tensor(w).to(v.dtype)).sum()
                for v, w in zip(values, weights[k], strict=True)
                if v is not None and v.requires_grad
            ]
            values = [None] * len(xs)
            if terms:
                total = torch.stack(terms).sum()
                values = torch.autograd.grad(
                    total, xs, create_graph=k + 1 < orders, allow_unused=True
                )
            found.append(
                [
                    np.zeros_like(a) if v is None else v.detach().numpy()
                    for v, a in zip(values, arrays, strict=True)
                ]
            )
        return found

    return rival


def jax_rival(op: str, names: Sequence[str], static: dict[str, Any]) -> Rival:
    """The formula in jax.numpy and its derivatives by jax.grad."""
    import jax

    jax.config.update("jax_enable_x64", True)
    jnp = jax.numpy
    op = op.removeprefix("sync_")  # of one rank

    def normalize(x: Any, axis: Any, eps: float, centred: bool = True) -> Any:
        d = x - x.mean(axis, keepdims=True) if centred else x
        return d / jnp.sqrt((d * d).mean(axis, keepdims=True) + eps)

    def fn(*inputs: Any) -> Any:
        given = dict(zip(names, inputs, strict=True))
        x, eps = inputs[0], static.get("eps", 1e-5)
        if op == "linear":
            return x @ given["weight"] + given.get("bias", jnp.zeros((), x.dtype))
        if op == "cross_entropy":
            return -jax.nn.log_softmax(x)[np.arange(len(x)), static["labels"]].mean()
        per_channel = (1, -1) + (1,) * (x.ndim - 2)
        if op == "batch_norm" and "mean" in static:
            mean, var = (jnp.asarray(static[n], x.dtype) for n in ("mean", "var"))
            y = (x - mean.reshape(per_channel)) / jnp.sqrt(var.reshape(per_channel) + eps)
        elif op == "batch_norm":
            y = normalize(x, (0, *range(2, x.ndim)), eps)
        elif op == "group_norm":
            grouped = x.reshape((x.shape[0], static["groups"], -1))
            y = normalize(grouped, 2, eps).reshape(x.shape)
        elif op == "instance_norm":
            y = normalize(x, tuple(range(2, x.ndim)), eps)
        else:
            y = normalize(x, static.get("axis", -1), eps, centred=op == "layer_norm")
            per_channel = _last_axes(x, static)
        for name, combine in (("gamma", jnp.multiply), ("beta", jnp.add)):
            if name in given:
                y = combine(y, given[name].reshape(per_channel))
        return y

    def rival(
        arrays: list[np.ndarray], weights: list[list[np.ndarray]], orders: int
    ) -> list[list[np.ndarray]]:
        derivatives: Callable[..., Any] = lambda *xs: [fn(*xs)]  # noqa: E731
        found = [[np.asarray(derivatives(*arrays)[0])]]
        for k in range(orders):
            derivatives = jax.grad(_contracted(derivatives, weights[k]), tuple(range(len(arrays))))
            found.append([np.asarray(g) for g in derivatives(*arrays)])
        return found

    return rival


PEERS = {"torch": torch_rival, "jax": jax_rival}


def _contracted(values: Callable[..., Any], weights: Sequence[np.ndarray]) -> Callable[..., Any]:
    """Σ w · values, as a function."""
    return lambda *xs: sum(
        (v * w.astype(v.dtype)).sum() for v, w in zip(values(*xs), weights, strict=True)
    )


def _last_axes(x: Any, static: dict[str, Any]) -> tuple[int, ...]:
    """The lengths of the axes that layer and RMS norm normalize over."""
    axis = static.get("axis", -1)
    return tuple(x.shape[i] for i in (axis if isinstance(axis, tuple) else (axis,)))
