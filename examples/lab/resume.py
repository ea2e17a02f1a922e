"""Keeping a training run in a file, so that it goes on to the last bit after any interruption."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tinybn import checkpoint


class Keeper:
    """Saves a run every so many steps, and after Ctrl-C; used around the run as `with keeper:`.

    Ctrl-C lets the step finish, saves, and raises KeyboardInterrupt. A second one does so at once.

    Attributes:
        config: what is trained, saved with the run.
        best: the state of the model when it was best, by `best_accuracy` on the validation data.
        saved: the step that the file has, or None.
    """

    def __init__(self, path: Path, config: Mapping[str, Any], every: int | None = None) -> None:
        self.path = path
        self.config = config
        self.every = every
        self.state: dict[str, Any] | None = None
        self.best: dict[str, Any] = {}
        self.best_accuracy = -1.0
        self.saved: int | None = None
        self._stop = False

    @classmethod
    def resumed(cls, path: Path, given: Mapping[str, Any], every: int | None = None) -> Keeper:
        """The keeper of the run in a file.

        Raises:
            ValueError: There is none, or it has other settings than `given`.
        """
        if not path.exists():
            raise ValueError(f"nothing to resume: there is no {path}")
        state = checkpoint.load(path)
        try:
            config = json.loads(str(state["keeper/config"]))
            keeper = cls(path, config, every)
            keeper.best_accuracy = float(state["keeper/best_accuracy"])
            different = [
                k for k, value in given.items() if json.dumps(value) != json.dumps(config[k])
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is not the checkpoint of a run: no {error}") from error
        if different:
            name, was = different[0], config[different[0]]
            raise ValueError(f"{path} was started with {name} {was}, not {given[name]}")
        keeper.state, keeper.best = state, checkpoint.part(state, "best")
        return keeper

    @property
    def resumes(self) -> bool:
        """Whether there are steps to restore."""
        return self.state is not None and self.state.get("progress/number", 0) > 0

    def start(self, parts: Mapping[str, Any]) -> None:
        """Load these parts of the run, or save them: a file that can't be written fails now."""
        checkpoint.sweep(self.path)
        if self.state is None:
            self.save(0, parts)
            return
        try:
            checkpoint.restore(self.state, **parts)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{self.path}: {error}") from error
        self.state = None

    def save(self, step: int, parts: Mapping[str, Any]) -> None:
        """Save all parts of the run."""
        own = {"config": json.dumps(self.config), "best_accuracy": self.best_accuracy}
        checkpoint.save(self.path, checkpoint.join(keeper=own, best=self.best, **parts))
        self.saved = step

    def after(self, step: int, parts: Mapping[str, Any], last: bool) -> None:
        """Save if it is time; stop if there was a Ctrl-C."""
        stop = self._stop
        if stop or last or (self.every and step % self.every == 0):
            self.save(step, parts)
        if stop:
            raise KeyboardInterrupt

    def look(self, accuracy: float, model: Any) -> None:
        """Remember the best model so far."""
        if accuracy > self.best_accuracy:
            self.best_accuracy, self.best = accuracy, model.state_dict()

    def _note(self, *_: Any) -> None:
        self._stop = True
        signal.signal(signal.SIGINT, self._before)

    def __enter__(self) -> Keeper:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.getsignal(signal.SIGINT)
            if self._before is signal.default_int_handler:  # not where Ctrl-C is ignored
                signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *_: Any) -> None:
        if signal.getsignal(signal.SIGINT) == self._note:
            signal.signal(signal.SIGINT, self._before)
