"""State dicts, which hold arrays by name: loading them into objects, and saving them in files."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tinybn.backend import move
from tinybn.tensor import Tensor


def save(path: str | os.PathLike[str], state: Mapping[str, np.ndarray]) -> None:
    """Write a state dict to a file in NumPy's .npz format.

    The write is atomic: an existing file stays intact until the new one is complete.

    Raises:
        ValueError: an entry is not an array of numbers.
    """
    import tempfile  # these two would take a sixth of `import tinybn`
    import zipfile

    path = Path(path)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file, zipfile.ZipFile(file, "w") as archive:
            for name, array in state.items():  # np.savez does not accept every name
                with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                    np.lib.format.write_array(entry, np.asarray(array), allow_pickle=False)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def load(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read the state dict that `save` wrote.

    Raises:
        ValueError: the file is damaged, or `save` did not write it.
    """
    import zipfile

    content = io.BytesIO(Path(path).read_bytes())
    try:
        if not zipfile.is_zipfile(content):
            raise ValueError("it is no .npz file")
        content.seek(0)
        with np.load(content, allow_pickle=False) as archive:
            entries = archive.zip.namelist()
            if damaged := archive.zip.testzip():
                raise ValueError(f"its entry {damaged!r} is damaged")
            if others := [entry for entry in entries if not entry.endswith(".npy")]:
                raise ValueError(f"its entry {others[0]!r} is not an array")
            return dict(archive)
    except Exception as error:  # damaged bytes can raise anything
        raise ValueError(f"{os.fspath(path)} is not a file that tinybn saved: {error}") from error


def fit(
    state: Mapping[str, Any], own: Mapping[str, Any], problems: Iterable[str] = ()
) -> dict[str, Any]:
    """Convert the values of a state dict to what an object holds under the same names.

    Args:
        state: the state dict.
        own: by name, a number, or a Tensor whose shape the value must have, and whose dtype and
            backend it gets.
        problems: what the caller already found wrong, such as a missing name.

    Returns:
        Arrays and Python numbers, for the names that `state` and `own` share.

    Raises:
        ValueError: there are problems, an unexpected name, or values that do not fit.
    """
    values: dict[str, Any] = {}
    problems = [*problems, *(f"unexpected: {name}" for name in state.keys() - own.keys())]
    for name, like in own.items():
        if name not in state:
            continue
        value, shape = np.asarray(state[name]), np.shape(like)
        if value.shape != shape:
            problems.append(f"{name}: expected shape {shape}, got {value.shape}")
        elif value.dtype.kind not in "fiu":
            problems.append(f"{name}: expected numbers, got dtype {value.dtype}")
        elif isinstance(like, Tensor):
            values[name] = move(value.astype(like.dtype), like.backend)
        elif isinstance(like, int) and not (value >= 0 and float(value).is_integer()):
            problems.append(f"{name}: expected a count, got {value}")
        else:
            values[name] = type(like)(value)
    if problems:
        raise ValueError("load_state_dict changed nothing: " + "; ".join(sorted(problems)))
    return values
