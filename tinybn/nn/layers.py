"""Linear, activations, and networks of layers. Arguments follow PyTorch where it has them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from tinybn import ops
from tinybn.backend import drawn
from tinybn.init import Initializer, generator, initializer
from tinybn.nn.module import Module, at_least_1, parameter
from tinybn.nn.norm import NORMS, BatchNorm
from tinybn.op import module_of
from tinybn.ops import checks
from tinybn.parameters import number
from tinybn.tensor import Input, Tensor


class Sequential(Module):
    """Call the layers one after another."""

    def __init__(self, *layers: Module) -> None:
        for i, layer in enumerate(layers):
            if not isinstance(layer, Module):
                made = isinstance(layer, type) and issubclass(layer, Module)
                what = f"the class {layer.__name__}" if made else type(layer).__name__
                raise TypeError(
                    f"Sequential: expected Modules, as in Sequential(Linear(4, 8), ReLU()), got "
                    f"{what} at {i}"
                )
        self.layers = layers

    def append(self, layer: Module) -> None:
        """Add a layer at the end. An optimizer that exists already does not know it."""
        self.layers = Sequential(*self.layers, layer).layers

    def children(self) -> Iterator[tuple[str, Module]]:
        """The layers, named "0", "1", …, and the other Modules that a subclass has."""
        return ((name.removeprefix("layers."), child) for name, child in super().children())

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
        shape = (
            at_least_1("in_features of Linear", in_features),
            at_least_1("out_features of Linear", out_features),
        )
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
        shape = checks.array_shape("Flatten", x)
        if not shape:
            raise ValueError(f"Flatten: expected x of shape (N, …), got {shape}")
        return ops.reshape(x, (shape[0], math.prod(shape[1:])))


class Dropout(Module):
    """In training, set each value to 0 with probability p and divide the others by 1 - p.

    The division keeps the expected value, so evaluation needs no scaling.

    Args:
        p: the probability of setting a value to 0; at least 0, and below 1.
        rng: draws which values; by default the generator that `tb.seed` restarts.

    Source: Srivastava et al. 2014 (JMLR 15), section 4, which scales in evaluation instead.
    """

    def __init__(self, p: float = 0.5, *, rng: np.random.Generator | None = None) -> None:
        if not 0 <= number(p) < 1:
            raise ValueError(f"Dropout: expected a probability 0 <= p < 1, got {p!r}")
        self.p = p
        self.rng = None if rng is None else generator(rng)

    def forward(self, x: Input) -> Tensor:
        checks.array_shape("Dropout", x)
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

    Example:
        >>> model = tb.nn.MLP([64, 32, 10], norm="batch")
        >>> model
        MLP(0: Linear(64, 32, bias=False), 1: BatchNorm(32), 2: ReLU(), 3: Linear(32, 10))
        >>> model(np.zeros((5, 64), np.float32)).shape
        (5, 10)
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
        if not isinstance(sizes, Sequence | np.ndarray) or isinstance(sizes, str):
            raise TypeError(f"MLP: expected a list of sizes, as in MLP([4, 8, 3]), got {sizes!r}")
        if len(sizes) < 2:
            raise ValueError(
                f"MLP: expected at least an input and an output size, got {list(sizes)}"
            )
        if not isinstance(activation, str) or activation not in ACTIVATIONS:
            raise ValueError(f"MLP: unknown activation {activation!r}: one of {[*ACTIVATIONS]}")
        make_norm = _norm_maker(norm)
        layers: list[Module] = []
        for n, m in pairwise(sizes[:-1]):
            norms = [make_norm(at_least_1("sizes", m))] if make_norm else []
            bias = not any(isinstance(made, BatchNorm) for made in norms)
            layers.append(Linear(n, m, bias=bias, init=init, rng=rng))
            layers += [*norms, ACTIVATIONS[activation]()]
        layers.append(Linear(sizes[-2], sizes[-1], init=init, rng=rng))
        super().__init__(*layers)


def _norm_maker(norm: Any) -> Callable[[int], Module] | None:
    """The function from width to Module that MLP's `norm` stands for; None for no norm."""
    if norm is None or norm == "none":
        return None
    if isinstance(norm, str) and norm not in NORMS:
        raise ValueError(f"MLP: unknown norm {norm!r}: expected one of {['none', *NORMS]}")
    found = NORMS[norm] if isinstance(norm, str) else norm
    if not callable(found) or isinstance(found, Module):
        raise TypeError(
            f"MLP: expected norm to be one of {['none', *NORMS]}, or a function from width to "
            f"Module such as nn.BatchNorm, got {norm!r}"
        )
    return found
