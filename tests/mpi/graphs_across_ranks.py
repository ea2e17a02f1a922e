"""Random graphs that cross ranks, run on the ranks, and in one process that plays all of them."""

import numpy as np

import tinybn as tb
from tinybn import distributed

C = 3


class Graph:
    """A recipe of ops on matrices (rows of this rank, C) and vectors (C,), drawn from a seed.

    `across` runs it on this rank. `alone` runs it on lists that hold every rank's Tensor.
    """

    def __init__(self, seed, sizes, length=9):
        rng = np.random.default_rng(seed)
        self.sizes, k = sizes, len(sizes)
        self.matrices = [rng.standard_normal((n, C)) for n in sizes]
        self.vectors = [rng.standard_normal(C) for _ in sizes]
        self.weights = [[rng.standard_normal((n, C)) for n in sizes] for _ in range(3)]
        self.mix = rng.standard_normal((k, 1))
        kinds, self.steps = ["matrix", "vector"], []
        for _ in range(length):
            i = int(rng.integers(len(kinds)))
            j = int(rng.integers(len(kinds)))
            both = "matrix" if "matrix" in (kinds[i], kinds[j]) else "vector"
            choices = {
                "tanh": kinds[i], "exp": kinds[i], "multiply": both, "add": both,
                **({"mean": "vector", "norm": "matrix", "norm2": "matrix"}
                   if kinds[i] == "matrix" else {"reduce": "vector", "gather": "vector"}),
            }  # fmt: skip
            op = str(rng.choice([*choices]))
            self.steps.append((op, i, j))
            kinds.append(choices[op])
        self.kinds = kinds

    def across(self, comm):
        r = comm.rank
        ops = {
            "reduce": lambda v: distributed.all_reduce(v, comm=comm),
            "gather": lambda v: (distributed.all_gather(v, comm=comm) * self.mix).sum(axis=0),
            "norm": lambda m, *affine: distributed.sync_batch_norm(m, *affine, comm=comm, eps=0.1),
        }

        def call(op, a, b):
            if op == "norm2":
                return ops["norm"](a, *([b, b] if b.ndim == 1 else []))
            return ops[op](a) if op in ops else simple(op, a, b)

        leaves = [tb.tensor(a[r], requires_grad=True) for a in (self.matrices, self.vectors)]
        values = list(leaves)
        for op, i, j in self.steps:
            values.append(call(op, values[i], values[j]))
        loss = sum((v * w).sum() for v, w in zip(values, self._weights(r, 0), strict=True))
        found = tb.grad(loss, leaves, create_graph=True)
        again = sum((g * w).sum() for g, w in zip(found, self._weights(r, 1), strict=False))
        again = again + sum((a * a).sum() for a in leaves)  # every leaf has a second gradient
        return [a.numpy() for a in (*values, *found, *tb.grad(again, leaves))]

    def alone(self, rank):
        every = range(len(self.sizes))
        ends = np.cumsum(self.sizes)

        def call(op, a, b):
            if op == "reduce":
                return [sum(a)] * len(a)
            if op == "gather":
                return [(tb.ops.stack(a) * self.mix).sum(axis=0)] * len(a)
            if op in ("norm", "norm2"):
                affine = []
                if op == "norm2" and b[0].ndim == 1:
                    affine = [
                        tb.ops.concatenate(
                            [
                                v.reshape(1, C) * np.ones((n, 1))
                                for v, n in zip(b, self.sizes, strict=True)
                            ]
                        )
                    ]
                y = tb.ops.batch_norm(tb.ops.concatenate(a), eps=0.1)
                y = y * affine[0] + affine[0] if affine else y
                return [y[end - n : end] for n, end in zip(self.sizes, ends, strict=True)]
            return [simple(op, a[r], b[r]) for r in every]

        leaves = [
            [tb.tensor(a, requires_grad=True) for a in m] for m in (self.matrices, self.vectors)
        ]
        values = list(leaves)
        for op, i, j in self.steps:
            values.append(call(op, values[i], values[j]))
        flat = [leaf for group in leaves for leaf in group]
        loss = sum(
            (v[r] * w).sum()
            for r in every
            for v, w in zip(values, self._weights(r, 0), strict=True)
        )
        found = tb.grad(loss, flat, create_graph=True)
        k = len(self.sizes)
        again = sum(
            (g * w).sum()
            for r in every
            for g, w in zip((found[r], found[k + r]), self._weights(r, 1), strict=False)
        )
        second = tb.grad(again + sum((a * a).sum() for a in flat), flat)
        mine = [*(v[rank] for v in values)]
        return [a.numpy() for a in (*mine, *found[rank::k], *second[rank::k])]

    def _weights(self, r, order):
        w = self.weights[order][r]
        return [w if kind == "matrix" else w[0] for kind in self.kinds]


def simple(op, a, b):
    if op == "tanh":
        return a.tanh()
    if op == "exp":
        return (a.tanh() / 2).exp()
    if op == "mean":
        return a.mean(axis=0)
    if op == "add":
        return a * 0.5 + b
    return a.tanh() * b.tanh()
