"""Real data sets, split by a seed, and mini-batches of them."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinybn.backend import Array
from tinybn.init import generator

NAMES = ("digits", "wine", "breast_cancer", "fashion")
FASHION_FOLDER = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist installs its files."""
WHITE = {"digits": 16, "fashion": 255}
"""The brightest pixel."""


class Part(NamedTuple):
    """x: float32 (n, features); y: int64 labels (n,)."""

    x: np.ndarray
    y: np.ndarray


class Dataset(NamedTuple):
    """A data set in three parts: to learn from, to choose settings with, and to report once."""

    name: str
    train: Part
    validation: Part
    test: Part
    features: int
    classes: int


def load(
    name: str,
    *,
    seed: int = 0,
    validation: float = 0.15,
    test: float = 0.15,
    scale: bool = True,
    folder: Path | None = None,
) -> Dataset:
    """Load a real data set, shuffle it by a seed, and split it.

    Args:
        name: "digits" (1797 handwritten digits of 8 × 8 pixels, 10 classes), "wine" (178 wines, 13
            measurements, 3 classes) or "breast_cancer" (569 tumours, 30 measurements, 2 classes),
            which scikit-learn ships; or "fashion" (70 000 pieces of clothing of 28 × 28 pixels, 10
            classes; Xiao, Rasul & Vollgraf 2017, 1708.07747).
        validation, test: the fractions of the examples that go to these parts.
        scale: divide pixels by the brightest one; standardize measurements by the training part's
            mean and standard deviation.
        folder: where the files of "fashion" are; by default where Debian's package puts them.

    Raises:
        ValueError: the name is unknown, or an argument does not fit.
        ModuleNotFoundError: scikit-learn is not installed.
        FileNotFoundError: the folder lacks a file of Fashion-MNIST.
    """
    if name not in NAMES:
        raise ValueError(f"unknown data {name!r}: expected one of {', '.join(map(repr, NAMES))}")
    if folder is not None and name != "fashion":
        raise ValueError(f"the {name} data come with scikit-learn: only fashion takes a folder")
    x, y = _fashion(folder or FASHION_FOLDER) if name == "fashion" else _sklearn(name)
    order = np.random.default_rng(seed).permutation(len(x))
    x, y = x[order], y[order].astype(np.int64)
    sizes = [round(f * len(x)) if 0 < f < 1 else 0 for f in (test, validation)]
    if 0 in sizes or sum(sizes) >= len(x):
        raise ValueError(
            f"validation and test must be fractions > 0 that leave something of the {len(x)} "
            f"examples for each part and for training, got {validation} and {test}"
        )
    cuts = [sizes[0], sum(sizes)]
    if scale and name in WHITE:
        x = x / np.float32(WHITE[name])
    elif scale:
        train = x[cuts[1] :]
        x = (x - train.mean(axis=0)) / train.std(axis=0)
    parts = map(Part, np.split(x.astype(np.float32, copy=False), cuts), np.split(y, cuts))
    test_part, validation_part, train_part = parts
    return Dataset(name, train_part, validation_part, test_part, x.shape[1], len(np.unique(y)))


def _sklearn(name: str) -> tuple[np.ndarray, np.ndarray]:
    try:
        from sklearn import datasets
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"the {name} data come with scikit-learn, which is not installed: "
            "run `pip install scikit-learn`"
        ) from error
    x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    return x, y


def _fashion(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Both parts of Fashion-MNIST, one after the other."""
    xs, ys = [], []
    for part in ("train", "t10k"):
        x = read_idx(_find(folder, f"{part}-images-idx3-ubyte"))
        y = read_idx(_find(folder, f"{part}-labels-idx1-ubyte"))
        if x.ndim != 3 or y.shape != x.shape[:1]:
            raise ValueError(f"{folder}: {part} has images {x.shape} and labels {y.shape}")
        xs.append(x.reshape(len(x), -1))
        ys.append(y)
    return np.concatenate(xs), np.concatenate(ys)


def _find(folder: Path, name: str) -> Path:
    for path in (folder / f"{name}.gz", folder / name):
        if path.exists():
            return path
    raise FileNotFoundError(
        f"Fashion-MNIST: no {name}.gz in {folder}: run `sudo apt-get install "
        "dataset-fashion-mnist` (Debian, Ubuntu), or name the folder that has the four files"
    )


def read_idx(path: Path) -> np.ndarray:
    """Read an array of bytes from an IDX file, MNIST's format, gzipped or not.

    The format is 0, 0, 8 (for unsigned bytes), the number of axes; the length of each axis as a
    big-endian uint32; then the bytes.

    Raises:
        ValueError: the file is damaged, or not an IDX file of bytes.
    """
    content = path.read_bytes()
    try:
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
        zero, kind, axes = struct.unpack_from(">HBB", content)
        shape = struct.unpack_from(f">{axes}I", content, 4)
        if (zero, kind) != (0, 8):
            raise ValueError("it does not begin with 0, 0, 8")
        return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)
    except (ValueError, struct.error, EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path} is not a whole IDX file of bytes: {error}") from error


class Batches:
    """Mini-batches (x[i], y[i]) of two arrays; each loop over it is one epoch.

    Args:
        shuffle: draw a new order for each epoch.
        drop_last: leave out a smaller last batch (batch norm can't train on a batch of one).
        rng: draws the orders; by default the generator that `tb.seed` restarts.
    """

    def __init__(
        self,
        x: Array,
        y: Array,
        batch_size: int,
        *,
        shuffle: bool = True,
        drop_last: bool = False,
        rng: np.random.Generator | None = None,
    ) -> None:
        if len(x) != len(y):
            raise ValueError(f"x and y must have equal lengths, got {len(x)} and {len(y)}")
        if not isinstance(batch_size, int | np.integer) or batch_size < 1:
            raise ValueError(f"expected batch_size to be an integer >= 1, got {batch_size!r}")
        if len(x) == 0 or (drop_last and batch_size > len(x)):
            raise ValueError(
                f"{len(x)} examples give no batch of {batch_size} (drop_last={drop_last})"
            )
        self.x, self.y = x, y
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.rng = generator(rng)

    def __len__(self) -> int:
        """The number of batches in an epoch."""
        full, rest = divmod(len(self.x), self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        n = len(self.x)
        order = self.rng.permutation(n) if self.shuffle else np.arange(n)
        for k in range(len(self)):
            i = order[k * self.batch_size : (k + 1) * self.batch_size]
            yield self.x[i], self.y[i]
