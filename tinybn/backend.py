"""NumPy or CuPy: which library owns an array, how to move arrays, and which library can be used.

The array decides: `MODULES[type(array)]` is its library, and nothing else in tinybn asks for a GPU.
CuPy is imported only when it is first needed.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, ParamSpec, Protocol, TypeAlias, TypeVar

import numpy as np

from tinybn import diagnosis
from tinybn.modes import in_mode

Array: TypeAlias = Any
"""A `numpy.ndarray` or a `cupy.ndarray`. (CuPy may be absent, so no type can name it.)"""

NAMES = ("numpy", "cupy")

P = ParamSpec("P")
T = TypeVar("T")


class BackendUnavailableError(RuntimeError):
    """The array library is not installed, or cannot run on this machine."""


class BackendMismatchError(TypeError):
    """Arrays of two libraries met in one op."""


class _Modules(dict[type, ModuleType | None]):
    """Maps the type of an op's argument to the library that owns it, or to None for numbers."""

    def __missing__(self, kind: type) -> ModuleType | None:
        if kind.__module__.partition(".")[0] == "cupy" and kind.__name__ == "ndarray":
            _meet(sys.modules["cupy"])
        elif issubclass(kind, np.generic | float | int):
            self[kind] = None
        else:
            raise TypeError(
                f"expected a Tensor, an array or a number, got {kind.__name__}: "
                "make a Tensor of it with tb.tensor(...)"
            )
        return self[kind]


MODULES = _Modules({np.ndarray: np, float: None, int: None, bool: None})

_greetings: list[Callable[[ModuleType], None]] = []


def when_cupy_is_used(call: Callable[[ModuleType], None]) -> None:
    """Call `call(cupy)` as soon as CuPy, or an array of CuPy, is first used; a decorator."""
    _greetings.append(call)


def _meet(cupy: Any) -> None:
    MODULES[cupy.ndarray] = cupy
    for call in _greetings:
        call(cupy)


class Replaceable(Protocol[P, T]):
    """See `replaceable`."""

    on: Callable[[Any, Callable[P, T]], None]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T: ...


def replaceable(function: Callable[P, T]) -> Replaceable[P, T]:
    """Let array libraries replace `function`, whose first argument is `xp`; a decorator.

    `function.on(xp, other)` makes `other` run in its place for the arrays of the library `xp`.
    """
    replacements: dict[Any, Callable[P, T]] = {}

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        return replacements.get(args[0], function)(*args, **kwargs)

    made: Any = call
    made.on, made.replacements = replacements.__setitem__, replacements
    return made


def checked(array: Any, check: Callable[[Any], None]) -> Any:
    """`array`, after `check` has accepted its values.

    A recorded array (see program/) has no values yet: it is checked each time its program runs.
    """
    if hasattr(array, "check_later"):
        array.check_later(check)
    else:
        check(array)
    return array


def common_module(op: str, inputs: Sequence[Any]) -> Any:
    """The library that owns these Tensors and arrays; BackendMismatchError if there are two.

    While a step is recorded (see program/), the recording library also owns the arrays of the
    library it stands in for, as constants.
    """
    arrays = [getattr(a, "_data", a) for a in inputs if hasattr(a, "shape")]
    found: set[Any] = {MODULES[type(a)] for a in arrays} - {None}
    if len({xp.__name__ for xp in found}) > 1:
        given = [f"{described(a)} on {name_of(a)}" for a in arrays]
        raise BackendMismatchError(
            f"{op}: {' and '.join(given)}: move one of them with .to('numpy') or .to('cupy')"
        )
    return next(xp for xp in found if not isinstance(xp, ModuleType))


def described(value: Any) -> str:
    """An argument, as error messages show it."""
    return f"{value.dtype} {value.shape}" if hasattr(value, "shape") else repr(value)


def name_of(array: Array) -> str:
    """The backend that owns `array`: "numpy" or "cupy"."""
    return (MODULES[type(array)] or np).__name__


def module(name: str) -> ModuleType:
    """The array library with this name; BackendUnavailableError if it cannot be used."""
    if name == "numpy":
        return np
    if name == "cupy":
        return _cupy()
    raise ValueError(f"unknown backend {name!r}: expected one of {', '.join(map(repr, NAMES))}")


def move(array: Array, name: str) -> Array:
    """`array` on another backend: a copy, or `array` itself if it is there already."""
    xp = module(name)
    if name_of(array) == name:
        return array
    source: Any = MODULES[type(array)] or np
    if hasattr(source, "move"):  # a recording library
        return source.move(array, name)
    return xp.asarray(array) if source is np else source.asnumpy(array)


def use_backend(name: str) -> in_mode:
    """New Tensors and layers live on this backend, inside this block and this thread.

    Raises:
        BackendUnavailableError: the backend cannot be used here; the message says what to do.
    """
    module(name)
    return in_mode(backend=name)


def drawn(xp: Any, draw: Callable[[], Any], shape: tuple[int, ...], dtype: Any) -> Array:
    """The random array that `draw()` makes on the host, as an array of `xp`.

    A recording library (see program/) does not draw now, but each time its program runs; `shape`
    and `dtype` tell it what to expect.
    """
    return xp.drawn(draw, shape, dtype) if hasattr(xp, "drawn") else xp.asarray(draw())


def problems() -> dict[str, str | None]:
    """Per backend, why it cannot be used here and what to do about it, or None if it can."""
    found: dict[str, str | None] = {}
    for name in NAMES:
        try:
            module(name)
            found[name] = None
        except BackendUnavailableError as error:
            found[name] = str(error)
    return found


@functools.cache
def _cupy() -> ModuleType:
    reason: str | None = None
    cause: Exception | None = None
    try:
        import cupy
    except ImportError as error:
        reason, cause = diagnosis.import_failure(error), error
    if reason is None:
        try:
            cupy.cuda.runtime.getDeviceCount()
            # Counting devices proves little: run a matrix product (cuBLAS) and a kernel (NVRTC).
            ones = cupy.ones((2, 2), dtype=np.float32)
            float((ones @ ones + 1).sum())
        except Exception as error:
            reason, cause = diagnosis.run_failure(cupy.cuda.runtime, error), error
    if reason is not None:
        if len(diagnosis.packages()) > 1:
            reason = diagnosis.two_packages(reason)
        raise BackendUnavailableError(reason) from cause
    _meet(cupy)
    return cupy
