"""Numbers as text, the same in a terminal as on the page."""

from __future__ import annotations

from typing import Any

import numpy as np


def shown(value: float) -> str:
    """Six decimals; very small and large numbers with an exponent; 0 only for an exact 0."""
    value = float(value)
    if value == 0:
        return "0"
    if not np.isfinite(value):
        return str(value)
    if not 5e-5 <= abs(value) < 1e6:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa}e{int(exponent)}".replace("-", "−")
    text = f"{value:.6f}".rstrip("0").rstrip(".")
    return text.replace("-", "−")


def row(array: Any, most: int = 8) -> str:
    """The elements of an array in one line; of many, the first ones."""
    values = np.ravel(array)
    texts = [shown(v) for v in values[:most]]
    more = f" … ({values.size} numbers)" if values.size > most else ""
    return f"[{'  '.join(texts)}{more}]" if np.ndim(array) else texts[0]
