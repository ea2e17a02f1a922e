"""State dicts, which hold arrays by name: joining them, saving them in files, loading them.

A file is an .npz archive without compression, which np.load reads, too. Its last bytes are the
format's version and the SHA-256 of all bytes before them. Nothing in it is ever unpickled.
"""

from __future__ import annotations

import io
import math
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from tinybn.tensor import Tensor

PathLike: TypeAlias = "str | os.PathLike[str]"

KIND = b"tinybn checkpoint "
MARK = KIND + b"1, sha256 "
"""What precedes the digest at the end of a file."""
DIGITS = 64


def save(path: PathLike, state: Mapping[str, Any]) -> None:
    """Write a state dict to a file; see `replace` for what a crash or a full disk can do.

    Args:
        state: arrays of numbers, or texts, by name; `join` makes one state of several.

    Raises:
        ValueError: an entry is neither numbers nor text.
        OSError: the file can't be written. An older one is still there.
    """
    import hashlib  # these two would take a sixth of `import tinybn`
    import zipfile

    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, value in state.items():  # np.savez does not accept every name
            array = value.numpy() if isinstance(value, Tensor) else np.array(value, order="C")
            if not isinstance(name, str) or "\0" in name:
                raise ValueError(f"{os.fspath(path)}: expected a text as a name, got {name!r}")
            if not _is_plain(array.dtype):
                raise ValueError(
                    f"{os.fspath(path)}: {name}: expected numbers or text, got {array.dtype}"
                )
            entry = zipfile.ZipInfo(f"{name}.npy")  # with no date: equal states, equal files
            with archive.open(entry, "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, version=(1, 0), allow_pickle=False)
        archive.comment = MARK + bytes(DIGITS)
    signed = content.getbuffer()[:-DIGITS]
    digest = hashlib.sha256(signed).hexdigest().encode()
    replace(path, b"".join([signed, digest]))


def load(path: PathLike) -> dict[str, np.ndarray]:
    """Read the state dict that `save` wrote.

    It takes no more memory than a few times the size of the file, whoever made it.

    Raises:
        ValueError: the file is damaged, or `save` did not write it.
    """
    content = Path(path).read_bytes()
    try:
        return _read(content)
    except Exception as error:  # damaged bytes can raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{os.fspath(path)} is not a file that tinybn saved: {reason}") from error


def _read(content: bytes) -> dict[str, np.ndarray]:
    import hashlib
    import zipfile

    end = len(MARK) + DIGITS
    mark, digest = content[-end:-DIGITS], content[-DIGITS:]
    if mark != MARK:
        if not zipfile.is_zipfile(io.BytesIO(content)):
            raise ValueError("it is no .npz file, or it was cut off")
        if mark.startswith(KIND):
            raise ValueError("it has another version, or it is damaged")
        raise ValueError("it has no checksum; if you trust it, read it with np.load")
    if hashlib.sha256(memoryview(content)[:-DIGITS]).hexdigest().encode() != digest:
        raise ValueError("it is damaged: its checksum is another")
    state = {}
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = archive.infolist()
        if compressed := [e.filename for e in entries if e.compress_type != zipfile.ZIP_STORED]:
            raise ValueError(f"its entry {compressed[0]!r} is compressed")
        if sum(entry.file_size for entry in entries) > len(content):
            raise ValueError("its entries claim to be larger than the file")
        for entry in entries:
            name = entry.filename
            if not name.endswith(".npy"):
                raise ValueError(f"its entry {name!r} is not an array")
            if name.removesuffix(".npy") in state:
                raise ValueError(f"its entry {name!r} comes twice")
            try:
                state[name.removesuffix(".npy")] = _array(archive.read(entry))
            except Exception as error:
                raise ValueError(f"its entry {name!r} is damaged: {error}") from error
    return state


def _array(content: bytes) -> np.ndarray:
    """The array in an .npy file, whose header can't make it larger than the file."""
    file = io.BytesIO(content)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("expected an .npy file of version 1.0")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    size = len(content) - file.tell()
    if not _is_plain(dtype):
        raise ValueError(f"expected numbers or text, got {dtype}")
    if min(shape, default=1) < 0 or math.prod(shape) * dtype.itemsize != size:
        raise ValueError(f"{size} bytes are no array of shape {shape} and dtype {dtype}")
    if fortran:
        raise ValueError("expected C order")
    return np.ndarray(shape, dtype, content, file.tell()).copy()


def _is_plain(dtype: np.dtype) -> bool:
    return dtype.kind in "biufcU" and dtype.itemsize > 0


def replace(path: PathLike, content: bytes) -> None:
    """Write a file, so that after a crash at any moment it is either the old one or the new one.

    The new one is written beside it, forced to the disk, and then renamed. It gets the old one's
    mode; a link is followed.

    Raises:
        OSError: it can't be written. The old file is still there.
    """
    real = Path(os.path.realpath(path))
    temporary = real.with_name(f".{real.name}.{os.urandom(4).hex()}.tmp")
    try:
        mode = stat.S_IMODE(real.stat().st_mode) if real.exists() else None
        if mode is not None and not real.is_file():
            raise OSError(f"{os.fspath(path)} is not a regular file")
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if mode is not None:
            temporary.chmod(mode)
        os.replace(temporary, real)
        if os.name != "nt":  # the new name must reach the disk, too
            folder = os.open(real.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def sweep(path: PathLike) -> None:
    """Remove what killed processes left when they were writing this file.

    No other process may be writing it now.
    """
    real = Path(os.path.realpath(path))
    for left in real.parent.glob(".*.tmp"):
        if left.name.startswith(f".{real.name}."):
            left.unlink(missing_ok=True)


def join(**parts: Any) -> dict[str, Any]:
    """One state dict from several, with names such as "model/0.weight".

    Args:
        parts: objects with a `state_dict`, such as models, optimizers, schedules, batches and
            random states; or mappings of arrays, numbers and texts.
    """
    return {
        f"{part}/{name}": value
        for part, thing in parts.items()
        for name, value in (thing if isinstance(thing, Mapping) else thing.state_dict()).items()
    }


def part(state: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The part of a joined state dict that `join` was given under this name."""
    start = f"{name}/"
    return {key[len(start) :]: value for key, value in state.items() if key.startswith(start)}


def restore(state: Mapping[str, Any], **parts: Any) -> None:
    """Load several objects from a joined state dict: all of them or, after an error, none.

    Raises:
        ValueError: a part does not fit.
    """
    before = {name: thing.state_dict() for name, thing in parts.items()}
    try:
        for name, thing in parts.items():
            thing.load_state_dict(part(state, name))
    except BaseException as error:
        for other in parts:
            parts[other].load_state_dict(before[other])
            if other == name:
                break
        if isinstance(error, ValueError):
            raise ValueError(f"{name}: {error}") from error
        raise
