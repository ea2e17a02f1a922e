"""Saving and loading what `state_dict` returns, in NumPy's .npz format."""

from __future__ import annotations

import io
import os
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np


def save(path: str | os.PathLike[str], state: Mapping[str, np.ndarray]) -> None:
    """Write the arrays to `path`, atomically: an older file stays until the new one is whole."""
    path = Path(path)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file, zipfile.ZipFile(file, "w") as archive:
            for name, array in state.items():  # np.savez could not take every name
                with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                    np.lib.format.write_array(entry, np.asarray(array), allow_pickle=False)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def load(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The arrays that `save` wrote to `path`."""
    content = io.BytesIO(Path(path).read_bytes())
    try:
        with zipfile.ZipFile(content) as archive:
            return {_array_name(name): _read(archive, name) for name in archive.namelist()}
    except Exception as error:  # whatever a reader makes of damaged bytes
        raise ValueError(f"{os.fspath(path)} is not a file that tinybn saved: {error}") from error


def _array_name(entry: str) -> str:
    if not entry.endswith(".npy"):
        raise ValueError(f"its entry {entry!r} is no array")
    return entry.removesuffix(".npy")


def _read(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with archive.open(name) as entry:
        array = np.lib.format.read_array(entry, allow_pickle=False)
        entry.read()  # to the end, where the checksum is compared
    return array
