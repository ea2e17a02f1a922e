"""Linear, activations, and networks of layers. Arguments follow PyTorch where it has them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import numpy as np

from tinybn import ops
from tinybn.backend import drawn
from tinybn.init import Initializer, generator, initializer
from tinybn.nn.module import Module, at_least_1, parameter
from tinybn.nn.norm import NORMS
from tinybn.op import module_of
from tinybn.tensor import Input, Tensor


class Sequential(Module):
    """Call the layers one after another."""

    def __init__(self, *layers: Module) -> None:
        for i, layer in enumerate(layers):
            if not isinstance(layer, Module):
                raise TypeError(f"Sequential: expected Modules, got {type(layer).__name__} at {i}")
        self.layers = layers

    def children(self) -> Iterator[tuple[str, Module]]:
        """The layers, named "0", "1", …"""
        return ((str(i), layer) for i, layer in enumerate(self.layers))

    def forward(self, x: Input) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[Module]:
        return iter(self.layers)

    def __getitem__(self, i: int) -> Module:
        return self.layers[i]


class Linear(Module):
    """x @ weight + bias: from (…, in_features) to (…, out_features).

    Args:
        bias: whether to add a bias.
        init: "default" (as in PyTorch), "he", "xavier", or a function such as those of init.py.
        rng: draws the weight; by default the generator that `tb.seed` restarts.

    Attributes:
        weight: (in_features, out_features).
        bias: (out_features,), initially 0; or None.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        init: str | Initializer = "default",
        rng: np.random.Generator | None = None,
    ) -> None:
        shape = (at_least_1("in_features", in_features), at_least_1("out_features", out_features))
        self.weight = Tensor(initializer(init)(shape, generator(rng)), requires_grad=True)
        self.bias = parameter(0.0, shape[1:]) if bias else None

    def forward(self, x: Input) -> Tensor:
        return ops.linear(x, self.weight, self.bias)

    def __repr__(self) -> str:
        n, m = self.weight.shape
        return f"Linear({n}, {m}{'' if self.bias is not None else ', bias=False'})"


class ReLU(Module):
    """max(x, 0)."""

    def forward(self, x: Input) -> Tensor:
        return ops.relu(x)


class Tanh(Module):
    """tanh(x)."""

    def forward(self, x: Input) -> Tensor:
        return ops.tanh(x)


class Sigmoid(Module):
    """1 / (1 + exp(-x))."""

    def forward(self, x: Input) -> Tensor:
        return ops.sigmoid(x)


class Flatten(Module):
    """From (N, …) to (N, product of the rest)."""

    def forward(self, x: Input) -> Tensor:
        if x.ndim < 1:
            raise ValueError(f"Flatten: expected x of shape (N, …), got {x.shape}")
        return ops.reshape(x, (x.shape[0], int(np.prod(x.shape[1:]))))


class Dropout(Module):
    """In training, set each value to 0 with probability p and divide the others by 1 - p.

    The division keeps the expected value, so evaluation needs no scaling.

    Args:
        p: the probability of setting a value to 0; at least 0, and below 1.
        rng: draws which values; by default the generator that `tb.seed` restarts.

    Source: Srivastava et al. 2014 (JMLR 15), section 4, which scales in evaluation instead.
    """

    def __init__(self, p: float = 0.5, *, rng: np.random.Generator | None = None) -> None:
        if not 0 <= p < 1:
            raise ValueError(f"Dropout: expected a probability 0 <= p < 1, got {p}")
        self.p = p
        self.rng = None if rng is None else generator(rng)

    def forward(self, x: Input) -> Tensor:
        if not self.training or self.p == 0:
            return x
        p, rng, shape, dtype = self.p, self.rng, x.shape, x.dtype

        def keep() -> np.ndarray:
            return (generator(rng).random(shape) >= p).astype(dtype)

        return x * (drawn(module_of(x), keep, shape, dtype) / (1 - p))

    def __repr__(self) -> str:
        return f"Dropout({self.p})"


ACTIVATIONS: dict[str, Callable[[], Module]] = {"relu": ReLU, "tanh": Tanh, "sigmoid": Sigmoid}


class MLP(Sequential):
    """Linear, norm and activation for each hidden layer, and a Linear at the end.

    With norm="batch", the Linear before each norm has no bias, which the norm would subtract again.

    Args:
        sizes: the number of features of the input, of each hidden layer, and of the output.
        norm: None, "none", a name in `NORMS` ("group" has 4 groups), or a function that
            makes a norm for a given width.
        activation: "relu", "tanh" or "sigmoid".
        init: as for `Linear`.
        rng: as for `Linear`.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        norm: str | Callable[[int], Module] | None = None,
        activation: str = "relu",
        *,
        init: str | Initializer = "default",
        rng: np.random.Generator | None = None,
    ) -> None:
        if len(sizes) < 2:
            raise ValueError(
                f"MLP: expected at least an input and an output size, got {list(sizes)}"
            )
        if isinstance(norm, str) and norm != "none" and norm not in NORMS:
            raise ValueError(f"MLP: unknown norm {norm!r}: expected one of {['none', *NORMS]}")
        if activation not in ACTIVATIONS:
            raise ValueError(f"MLP: unknown activation {activation!r}: one of {[*ACTIVATIONS]}")
        make_norm = NORMS.get(norm) if isinstance(norm, str) else norm
        layers: list[Module] = []
        for n, m in pairwise(sizes[:-1]):
            layers.append(Linear(n, m, bias=norm != "batch", init=init, rng=rng))
            layers += [make_norm(m)] if make_norm else []
            layers.append(ACTIVATIONS[activation]())
        layers.append(Linear(sizes[-2], sizes[-1], init=init, rng=rng))
        super().__init__(*layers)
