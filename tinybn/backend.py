"""NumPy or CuPy: which library owns an array, moving arrays, and which of them can be used.

The array decides: `MODULES[type(array)]` is its library, and nothing else in tinybn asks whether
there is a GPU. CuPy is imported when the first of its arrays is wanted, and never before.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from types import ModuleType
from typing import Any, ParamSpec, Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import DTypeLike

from tinybn import diagnosis

Array: TypeAlias = Any
"""A `numpy.ndarray` or a `cupy.ndarray` (CuPy may be absent, so no type can name it)."""

NAMES = ("numpy", "cupy")

P = ParamSpec("P")
T = TypeVar("T")


class BackendUnavailableError(RuntimeError):
    """The array library that was asked for is not installed, or can't run on this machine."""


class BackendMismatchError(TypeError):
    """Arrays of two libraries met in one op."""


class _Modules(dict[type, ModuleType | None]):
    """From the type of an op's argument to the library that owns it; None for plain numbers."""

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
    """Call `call(cupy)` as soon as the first CuPy array is met."""
    _greetings.append(call)


def _meet(cupy: Any) -> None:
    MODULES[cupy.ndarray] = cupy
    for call in _greetings:
        call(cupy)


def replaceable(
    function: Callable[P, T], library: Callable[..., Any] = lambda xp, *_: xp
) -> Replaceable[P, T]:
    """Let a library replace `function` for its own arrays (a decorator).

    library: which one the arguments belong to; by default, the first argument is it.
    `function.on(library, other)` declares a replacement; all others run the function itself.
    """
    replacements: dict[Any, Callable[P, T]] = {}

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        return replacements.get(library(*args), function)(*args, **kwargs)

    made: Any = call
    made.on = replacements.__setitem__
    return made


class Replaceable(Protocol[P, T]):
    """See `replaceable`."""

    on: Callable[[Any, Callable[P, T]], None]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T: ...


def checked(array: Any, check: Callable[[Any], None]) -> Any:
    """`array`, of which `check` raises if something is wrong with its values.

    A recorded array has no values yet: it is checked whenever the recording runs.
    """
    if hasattr(array, "check_later"):
        array.check_later(check)
    else:
        check(array)
    return array


def common_module(op: str, inputs: Sequence[Any]) -> Any:
    """The one library that owns the arrays of these inputs: Tensors, arrays, numbers and None.

    A library that records owns constants of the library that it records for, too.
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
    """The array library called `name`; `BackendUnavailableError` says why it can't be had."""
    if name == "numpy":
        return np
    if name == "cupy":
        return _cupy()
    raise ValueError(f"unknown backend {name!r}: expected one of {', '.join(map(repr, NAMES))}")


def move(array: Array, name: str) -> Array:
    """`array` itself if `name` owns it already, otherwise a copy of it there."""
    xp = module(name)
    if name_of(array) == name:
        return array
    source: Any = MODULES[type(array)] or np
    if hasattr(source, "move"):  # one that records
        return source.move(array, name)
    return xp.asarray(array) if source is np else source.asnumpy(array)


def new_array(data: Any, dtype: DTypeLike | None, backend: str | None) -> Array:
    """A copy of an array, a number or nested lists of numbers, on a backend; see `Tensor`."""
    if isinstance(data, np.ndarray | np.generic):
        array = np.array(data, dtype=dtype)
    elif xp := MODULES.get(type(data)):
        array = xp.array(data, dtype=dtype)
    elif hasattr(data, "__dlpack__"):
        array = from_dlpack(data)
        array = array.astype(array.dtype if dtype is None else dtype)  # a copy
    else:
        has_dtype = hasattr(data, "__array__")
        try:
            array = np.array(data, dtype=dtype if has_dtype else None)
        except ValueError as error:  # rows of different lengths
            raise TypeError(_no_tensor(data, error)) from error
        if array.dtype.kind in "fiub" and not has_dtype:
            array = array.astype(np.float32 if dtype is None else dtype)
    if array.dtype.kind not in "fiub":
        raise TypeError(
            f"a Tensor holds real numbers, got {type(data).__name__} with dtype {array.dtype}"
        )
    return array if backend is None else move(array, backend)


_HOST_DEVICES = (1, 3, 11)  # kDLCPU, kDLCUDAHost, kDLROCMHost of DLPack's dlpack.h


def from_dlpack(data: Any) -> Array:
    """Another library's array, where it is, without a copy; TypeError if it can't be exported."""
    xp = module("numpy" if data.__dlpack_device__()[0] in _HOST_DEVICES else "cupy")
    try:
        return xp.from_dlpack(data)
    except (BufferError, RuntimeError, ValueError) as error:
        raise TypeError(_no_tensor(data, error)) from error


def _no_tensor(data: Any, error: Exception) -> str:
    return f"a Tensor can't be made of this {type(data).__name__}: {error}"


_default: ContextVar[str | None] = ContextVar("tinybn_backend", default=None)


@contextlib.contextmanager
def use_backend(name: str) -> Iterator[None]:
    """New tensors and layers of this block (and this thread) live on `name`."""
    module(name)
    token = _default.set(name)
    try:
        yield
    finally:
        _default.reset(token)


def default() -> str | None:
    """The backend that `use_backend` chose, or None outside of it."""
    return _default.get()


def drawn(xp: Any, draw: Callable[[], Any], shape: tuple[int, ...], dtype: Any) -> Array:
    """`draw()`, which draws random numbers on the host, as an array of `xp`.

    A library that records instead of computing draws them again each time its program runs; so that
    it need not draw before, `shape` and `dtype` say what comes.
    """
    return xp.drawn(draw, shape, dtype) if hasattr(xp, "drawn") else xp.asarray(draw())


def problems() -> dict[str, str | None]:
    """Per backend, why it can't be used here and what to do about it; None if it can."""
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
