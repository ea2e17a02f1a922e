"""The learner's file: it is loaded and called here, and errors in it are explained."""

from __future__ import annotations

import contextlib
import difflib
import inspect
import textwrap
import traceback
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tinybn.exercises import text
from tinybn.fusion import FUSED


class Problem(Exception):  # noqa: N818, it is the learner's, and what it says is shown
    """Something that the learner can repair; the message is shown as it is."""


class Hole(Problem):
    """There is still a `...`."""


class Learner:
    """The learner's file, run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.module = types.ModuleType(path.stem)
        self.module.__file__ = str(path)
        try:
            code = compile(path.read_bytes(), str(path), "exec", dont_inherit=True)
        except SyntaxError as error:
            raise Problem(_syntax(path, error)) from None
        except ValueError as error:
            raise Problem(f"Python can't read {path.name}: {error}") from None
        except OSError as error:
            raise Problem(f"Can't read {path}: {error.strerror}") from None
        with self.explained():
            exec(code, vars(self.module))  # noqa: S102, the learner's own code

    def function(self, name: str) -> Callable[..., Any]:
        """A function of the file."""
        found = vars(self.module).get(name)
        if not callable(found):
            exercise = next(e for e in text.names() if f"def {name}(" in text.with_holes(e))
            raise Problem(
                f"There is no function {name} in {self.path.name} any more. It began like this:\n\n"
                + indented(text.with_holes(exercise))
            )
        return found

    def call(self, function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        """Call the learner's code with arrays that it can't change."""
        for array in arguments:
            if isinstance(array, np.ndarray):
                array.flags.writeable = False
        with self.explained():
            try:
                inspect.signature(function).bind(*arguments, **keywords)
            except TypeError as error:
                raise Problem(
                    f"The checker can't call {function.__name__}: {error}. Its first line must "
                    "stay as it was."
                ) from None
            return function(*arguments, **keywords)

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Turn an error in the learner's code into a Problem that shows the line."""
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                yield
        except Problem:
            raise
        except KeyboardInterrupt as error:
            raise SystemExit(f"\nStopped in {self._line(error)}") from None
        except (Exception, SystemExit) as error:
            if "ellipsis" in str(error).lower():
                raise Hole(f"There is still a `...` to replace above {self._line(error)}") from None
            said = ": ".join([type(error).__name__, *str(error).splitlines()[:1]])
            lines = [f"An error stopped {self._line(error)}", "", *textwrap.wrap(said, 90)]
            lines[2:] = [f"    {line}" for line in lines[2:]]
            raise Problem("\n".join([*lines, "", _advice(error, said)]).rstrip()) from None

    def _line(self, error: BaseException) -> str:
        """Where in the learner's file it happened, and the text of that line."""
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if frame.filename == str(self.path)]
        return f"line {own[-1].lineno}:\n\n    {own[-1].line}" if own else "your code:"


@contextlib.contextmanager
def own_registry() -> Iterator[None]:
    """The fused ops that a file declares in this block are forgotten afterward.

    The file may run twice: as a script, and in the checker.
    """
    before = dict(FUSED)
    for name, op in before.items():
        if not op.forward.__module__.startswith("tinybn."):
            del FUSED[name]
    try:
        yield
    finally:
        FUSED.clear()
        FUSED.update(before)


def _syntax(path: Path, error: SyntaxError) -> str:
    lines = [f"Python can't read {path.name}: {error.msg} (line {error.lineno})."]
    if error.text is not None:
        shown = error.text.rstrip("\n")
        lines += ["", f"    {shown}"]
        if error.offset:
            lines.append(f"    {' ' * (error.offset - 1)}^")
    lines += [
        "",
        "Nothing can be checked until this is repaired. If that line looks right, look at",
    ]
    return "\n".join([*lines, "the line above it: a bracket may be open there."])


def _advice(error: BaseException, said: str) -> str:
    """What usually causes this error here."""
    if "read-only" in said:
        return (
            "This line changes an argument in place. The caller still needs its array: make a new "
            "one instead, for example `a = a * 2` in place of `a *= 2`."
        )
    if "could not be broadcast" in said:
        return (
            "The shapes of two arrays don't fit. A sum or mean over axis=0 of an (n, C) array has "
            "shape (C,), which fits (n, C). Over axis=-1 it has shape (n,), which does not: with "
            "keepdims=True it has shape (n, 1), which does."
        )
    if "not callable" in said and "ndarray" in said:
        return (
            "An argument has the name of a function here. It is an array already, with the right "
            "numbers in it: use it without brackets."
        )
    if isinstance(error, NameError) and error.name is not None:
        known = difflib.get_close_matches(error.name, [*text.NAMES, "np", "tb"], 1)
        meant = f" Did you mean {known[0]}?" if known else ""
        return f"A function knows its arguments, `np` and `tb`.{meant}"
    if isinstance(error, AttributeError) and error.name is not None:
        known = difflib.get_close_matches(error.name, dir(error.obj), 1)
        return f"Did you mean {known[0]}?" if known else ""
    if isinstance(error, RecursionError):
        return "The function calls itself again and again."
    if isinstance(error, SystemExit):
        return "Take exit() out of the file: it also ends the checker."
    if "ufunc" in said or "numpy" in said.lower():
        return (
            "This code also runs on Tensors, and NumPy's functions don't know them: use operators, "
            "and tb.ops.sqrt, tb.ops.mean and so on."
        )
    return ""


def indented(block: object) -> str:
    """A block of text, moved to the right."""
    return textwrap.indent(str(block), "    ")
