"""The folder of an experiment: its finished runs, one a line.

An interrupted experiment continues where it stopped, and neither loses nor repeats a run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from results import Record, dumps, write


class StoreError(Exception):
    """The folder belongs to something else."""


def key_of(config: Record) -> str:
    """A text that identifies a configuration."""
    return dumps(config, sort_keys=True)


class Store:
    """Finished runs in `folder`/runs.jsonl: a first line with their identity, then one per run.

    A run's line is appended when the run is finished. If the last line is cut off, its run is
    repeated. Runs belong together only if their `identity` is the same.
    """

    def __init__(self, folder: Path, identity: Record, plan: Sequence[Record]) -> None:
        self.path = folder / "runs.jsonl"
        self.plan = list(plan)
        self.finished: dict[str, Record] = {}
        head = dumps(identity)
        if not self.path.exists():
            if folder.is_dir() and any(folder.iterdir()):
                raise StoreError(f"{folder} has other files: give another --out")
            folder.mkdir(parents=True, exist_ok=True)
            write(self.path, head + "\n")
            return
        content = self.path.read_text(encoding="utf-8")
        lines = content.splitlines(keepends=True)
        whole = [line for line in lines if line.endswith("\n")]
        self._compare(whole[0] if whole else "", identity)
        if len(whole) < len(lines):
            write(self.path, "".join(whole))
        if not os.access(self.path, os.W_OK):
            raise StoreError(f"{self.path} can't be written: give another --out")
        keys = {key_of(config) for config in self.plan}
        for line in whole[1:]:
            entry = json.loads(line)
            if key_of(entry["config"]) in keys:
                self.finished[key_of(entry["config"])] = entry["measured"]

    def _compare(self, line: str, identity: Record) -> None:
        try:
            found = json.loads(line)
            differences = [
                f"{key} {found.get(key)} (here {value})"
                for key, value in identity.items()
                if found.get(key) != value
            ]
        except (ValueError, AttributeError):
            differences = ["its first line does not say what it is"]
        if differences:
            raise StoreError(
                f"{self.path.parent} belongs to another configuration: {', '.join(differences)}; "
                f"give another --out, or remove it: rm -r {self.path.parent}"
            )

    def todo(self) -> list[Record]:
        """The configurations without a finished run."""
        return [config for config in self.plan if key_of(config) not in self.finished]

    def add(self, config: Record, measured: Record) -> None:
        """Add a finished run, on disk and in memory."""
        with self.path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(dumps({"config": config, "measured": measured}) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.finished[key_of(config)] = json.loads(dumps(measured))

    def runs(self) -> list[Record]:
        """Configuration and measures of each finished run, in the planned order."""
        done = ((config, self.finished.get(key_of(config))) for config in self.plan)
        return [config | measured for config, measured in done if measured is not None]
