"""Recordings as JSON, and back."""

from __future__ import annotations

import types
import typing
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np


def plain(value: Any) -> Any:
    """Dataclasses, arrays and numbers as what JSON has."""
    if is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, np.ndarray):
        return {"dtype": str(value.dtype), "shape": [*value.shape], "data": numbers(value)}
    if isinstance(value, dict):
        return {key: plain(v) for key, v in value.items()}
    if isinstance(value, list):
        return [plain(v) for v in value]
    return numbers(np.float64(value))[0] if isinstance(value, float) else value


def numbers(array: Any) -> list[Any]:
    """The elements, with as many digits as their dtype has; "nan" and "inf" as strings."""
    found = [float(str(v)) for v in np.ravel(array)]
    return [v if np.isfinite(v) else str(v) for v in found]


def rebuilt(kind: Any, value: Any) -> Any:
    """The inverse of `plain`, given the type of the value."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if value is None:
        return None
    if origin in (types.UnionType, typing.Union):
        return rebuilt(next(a for a in args if a is not type(None)), value)
    if is_dataclass(kind) and isinstance(kind, type):
        hints = typing.get_type_hints(kind)
        return kind(**{f.name: rebuilt(hints[f.name], value[f.name]) for f in fields(kind)})
    if origin is np.ndarray:
        data = [float(v) for v in value["data"]]
        return np.array(data, value["dtype"]).reshape(value["shape"])
    if origin is list:
        return [rebuilt(args[0], v) for v in value]
    if origin is dict:
        return {key: rebuilt(args[1], v) for key, v in value.items()}
    return float(value) if kind is float else value
