"""The learner's file, made from `solved.py`: the same text with holes in place of the answers.

In `solved.py`, a line `# hole: TEXT` says what the learner's file has in place of the lines below
it, down to the next such line or an empty one.
"""

from __future__ import annotations

import re
from importlib import resources

HOLE = re.compile(r"^( *)# hole: (.*)\n((?:(?! *# hole:)(?!\n).*\n)+)", re.MULTILINE)
HEAD = re.compile(r"^# -{9,} (\w+(?: \w+)*)\n", re.MULTILINE)

NAMES = [
    *("x", "gamma", "beta", "eps", "mean", "var", "x_hat", "y", "dy", "d_x_hat", "d_var", "d_mean"),
    *("running_mean", "running_var", "momentum", "g", "a", "xp"),
]
"""The arguments of the exercises."""

PLANTED = "along_x_hat = g.mean(axis=0) * x_hat.mean(axis=0)"
"""The line with the bug, in the exercise find_the_bug."""


def _marked() -> str:
    text = resources.files(__package__).joinpath("solved.py").read_text(encoding="utf-8")
    return text.removeprefix("# mypy: ignore-errors\n")


def solved(name: str | None = None) -> str:
    """The file, or one exercise of it, with the answers."""
    return _part(HOLE.sub(r"\3", _marked()), name)


def with_holes(name: str | None = None) -> str:
    """The file, or one exercise of it, as the learner gets it."""
    return _part(HOLE.sub(r"\1\2\n", _marked()), name)


def names() -> list[str]:
    """The exercises, in the order of the file."""
    return HEAD.findall(_marked())[:-1]  # the last part starts the checker


def _part(text: str, name: str | None) -> str:
    if name is None:
        return text
    parts = HEAD.split(text)
    return parts[parts.index(name) + 1].strip() + "\n"
