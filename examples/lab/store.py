"""The folder of an experiment: its finished runs, one a line.

An interrupted experiment continues where it stopped, and neither loses nor repeats a run. Seeds can
be added later: a run is found by its configuration, whatever else was asked for at that time.
"""

from __future__ import annotations

import json
import os
import weakref
from collections.abc import Sequence
from pathlib import Path

from lab.files import dumps
from lab.records import Record
from tinybn import checkpoint

try:
    import fcntl
except ImportError:  # Windows: two processes in one folder go unnoticed
    fcntl = None  # type: ignore[assignment]


class StoreError(Exception):
    """The folder belongs to something else, or can't be used."""


def key_of(config: Record) -> str:
    """A text that identifies a configuration."""
    return dumps(config, sort_keys=True)


class Store:
    """Finished runs in `folder`/runs.jsonl: a first line that says what they are, then one per run.

    A run's line is appended when the run is finished. If the last line is cut off, its run is
    repeated. The file is locked until the Store, or its process, ends.

    Attributes:
        head: the first line as it was written before the first run: the experiment, the code, and
            the rules that the runs will be judged by. Only runs of one experiment share a folder.
        code: the code that the finished runs are known to be the results of.
    """

    def __init__(self, folder: Path, head: Record, plan: Sequence[Record]) -> None:
        self.path = folder / "runs.jsonl"
        self.plan = list(plan)
        self.finished: dict[str, Record] = {}
        self.head = dict(head)
        self.code = head.get("code", "")
        first = dumps(head).encode() + b"\n"
        if not self.path.exists():
            if folder.is_dir() and any(not _left(path) for path in folder.iterdir()):
                raise StoreError(f"{folder} has other files: give another --out")
            folder.mkdir(parents=True, exist_ok=True)
        try:
            self._file = self.path.open("ab+", buffering=0)
        except PermissionError as error:
            raise StoreError(f"{self.path} can't be written: give another --out") from error
        weakref.finalize(self, self._file.close)
        self._lock()
        for name in ("runs.jsonl", "runs.csv", "result.json", "figure.png"):
            checkpoint.sweep(folder / name)
        self._file.seek(0)
        lines = self._file.read().splitlines(keepends=True)
        cut = lines.pop() if lines and not lines[-1].endswith(b"\n") else b""
        if not lines and first.startswith(cut):  # new, or killed while writing its first line
            self._file.truncate(0)
            self._append(first)
            return
        self.head = self._read_head(lines[0] if lines else b"")
        self.code = self.head.get("code", "")
        if cut:
            self._file.truncate(sum(map(len, lines)))
        keys = {key_of(config) for config in self.plan}
        for number, line in enumerate(lines[1:], 2):
            try:
                entry = json.loads(line)
                if "kept" in entry:
                    self.code = entry["code"]
                    continue
                key, measured = key_of(entry["config"]), dict(entry["measured"])
            except (ValueError, TypeError, KeyError) as error:
                raise StoreError(
                    f"{self.path}: line {number} is not a finished run; remove that line, and the "
                    "run is repeated"
                ) from error
            if key in keys:
                self.finished[key] = measured

    def _lock(self) -> None:
        if fcntl is None:
            return
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            raise StoreError(
                f"{self.path.parent} is in use by another process: wait for it, or give another "
                "--out"
            ) from error

    def _append(self, line: bytes) -> None:
        """Add a whole line and force it to the disk, or else leave the file as it was."""
        size = self._file.seek(0, os.SEEK_END)
        try:
            if self._file.write(line) != len(line):
                raise OSError("not all of it was written: is the disk full?")
            os.fsync(self._file.fileno())
        except OSError as error:
            self._file.truncate(size)
            raise StoreError(f"{self.path}: {error.strerror or error}") from error

    def _read_head(self, line: bytes) -> Record:
        name = self.head["experiment"]
        try:
            found: Record = json.loads(line)
            other = found["experiment"]
        except (ValueError, TypeError, KeyError):
            other = "something unknown: its first line does not say what it is"
        if other != name:
            raise StoreError(
                f"{self.path.parent} belongs to {other} (here {name}); {self.another_folder()}"
            )
        return found

    def another_folder(self) -> str:
        """What to do about a folder that can't be used."""
        return f"give another --out, or remove it: rm -r {self.path.parent}"

    def keep(self, code: str) -> None:
        """Note that the finished runs are the results of this code, too."""
        line = dumps({"code": code, "kept": len(self.finished)})
        self._append(line.encode() + b"\n")
        self.code = code

    def todo(self) -> list[Record]:
        """The configurations without a finished run."""
        return [config for config in self.plan if key_of(config) not in self.finished]

    def add(self, config: Record, measured: Record) -> None:
        """Add a finished run, on disk and in memory."""
        line = dumps({"config": config, "measured": measured})
        self._append(line.encode() + b"\n")
        self.finished[key_of(config)] = json.loads(dumps(measured))

    def runs(self) -> list[Record]:
        """Configuration and measures of each finished run, in the planned order."""
        done = ((config, self.finished.get(key_of(config))) for config in self.plan)
        return [config | measured for config, measured in done if measured is not None]


def _left(path: Path) -> bool:
    """Whether a killed process left this temporary file."""
    return path.name.startswith(".runs.jsonl.")
