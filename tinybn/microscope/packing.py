"""Many recordings in little room: they share their structure and most of their words.

A template is a recording in which each array and number is {"#": k} and each text {"$": k}. A
packed recording has its template, its different arrays, which array stands at which place, and the
texts that differ from the template's. The script of the page puts them together again.
"""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from tinybn.microscope.encoding import numbers


class Packer:
    """Packs one value after the other.

    Attributes:
        templates: pairs of a structure and its texts.
    """

    def __init__(self) -> None:
        self.templates: list[tuple[Any, list[str]]] = []
        self._known: dict[str, int] = {}

    def pack(self, value: Any) -> dict[str, Any]:
        """The packed form of a value made of dataclasses, tuples, lists, dicts and arrays."""
        arrays: list[Any] = []
        texts: list[str] = []
        structure = _structure(value, arrays, texts)
        key = json.dumps(structure)
        if key not in self._known:
            self._known[key] = len(self.templates)
            self.templates.append((structure, texts))
        t = self._known[key]
        table: dict[str, int] = {}
        places = [table.setdefault(json.dumps(a), len(table)) for a in arrays]
        other = {
            k: text
            for k, (text, usual) in enumerate(zip(texts, self.templates[t][1], strict=True))
            if text != usual
        }
        return {"t": t, "a": [*map(json.loads, table)], "i": places, "s": other}


def _structure(value: Any, arrays: list[Any], texts: list[str]) -> Any:
    if isinstance(value, np.ndarray | float):
        arrays.append(numbers(np.float64(value) if isinstance(value, float) else value))
        return {"#": len(arrays) - 1}
    if isinstance(value, str):
        texts.append(value)
        return {"$": len(texts) - 1}
    if is_dataclass(value):
        value = {f.name: getattr(value, f.name) for f in fields(value)}
    elif isinstance(value, tuple):
        value = value._asdict()  # type: ignore[attr-defined]
    if isinstance(value, dict):
        return {key: _structure(v, arrays, texts) for key, v in value.items()}
    if isinstance(value, list):
        return [_structure(v, arrays, texts) for v in value]
    return value
