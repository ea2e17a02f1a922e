"""The program as NumPy source, which runs as it is printed."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from typing import Any, NamedTuple

from tinybn.arrays import as_array
from tinybn.program.line import Line, expression, names_for
from tinybn.program.origin import label


class Program(NamedTuple):
    """A straight-line program: a function of arrays and numbers. `print` it to read it.

    Attributes:
        inputs: lines whose op is "input", in the order of the parameters.
        lines: the other lines, in the order of execution.
        outputs: the lines (or inputs) whose results the program returns.
    """

    inputs: list[Line]
    lines: list[Line]
    outputs: list[Line]

    def __str__(self) -> str:
        return source(self)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """For IPython and Jupyter, which would show a tuple of its lines."""
        printer.text(str(self))

    def parameters(self) -> list[Line]:
        """The inputs that some line or output reads: the parameters of the printed function."""
        read = {*self.outputs, *(a for line in self.lines for a in line.inputs)}
        return [line for line in self.inputs if line in read]


def source(program: Program, name: str = "step") -> str:
    """A Python function of the program's `parameters` that returns a tuple of its outputs."""
    names = named(program)
    text = [f"def {name}({', '.join(names[line] for line in program.parameters())}):"]
    for title, lines in groupby(program.lines, _title):
        text += ["", f"    # {title}"] if text[1:] else [f"    # {title}"]
        text += [f"    {names[line]} = {_right_hand_side(line, names)}" for line in lines]
    results = "".join(f"{_reference(line, names)}, " for line in program.outputs)
    return "\n".join([*text, "", f"    return {results.rstrip() or '()'}"]) + "\n"


def function(program: Program, xp: Any, name: str = "step") -> Callable[..., tuple[Any, ...]]:
    """The printed program, as a function of arrays of the library xp."""
    space = names_for(xp)
    exec(compile(source(program, name), f"<program {name}>", "exec"), space)  # noqa: S102, our text
    return space[name]


class OnNumPy:
    """Runs the printed program as it is: on CuPy, and on NumPy without Numba."""

    def __init__(self, program: Program, xp: Any) -> None:
        self.source = str(program)
        self.function = function(program, xp)
        self.read = [program.inputs.index(line) for line in program.parameters()]
        self.given: list[Any] = [None] * len(program.inputs)

    def bind(self, i: int, value: Any) -> None:
        self.given[i] = value

    def run(self) -> tuple[Any, ...]:
        results = self.function(*[self.given[i] for i in self.read])
        return tuple(map(as_array, results))


def named(program: Program) -> dict[Line, str]:
    """A unique name for each line: its label, numbered if another line has the same label."""
    names: dict[Line, str] = {}
    counts = dict.fromkeys(("t", *names_for(None)), 0)  # names that the source itself refers to
    for line in (*program.inputs, *program.lines):
        name = wanted = label(line) or "t"
        while name in counts:
            counts[wanted] += 1
            name = f"t{counts['t']}" if wanted == "t" else f"{wanted}__{counts[wanted] + 1}"
        counts[name] = 0
        names[line] = name
    return names


def _title(line: Line) -> str:
    section, layer = line.origin.section, line.origin.layer
    return f"{section}: {' '.join(layer).strip()}" if layer else section


def _right_hand_side(line: Line, names: dict[Line, str]) -> str:
    a = line.inputs[0] if line.inputs else line
    if line.op == "broadcast_to" and a.op == "constant" and not a.shape:  # CuPy takes no numbers
        value = line.dtype.type(a.static["value"]).item()
        return expression("full", [], {"shape": line.shape, "value": value, "dtype": line.dtype})
    return expression(line.op, [_reference(a, names) for a in line.inputs], line.static)


def _reference(line: Line, names: dict[Line, str]) -> str:
    """The name of a line, or the text of a constant."""
    if line.op != "constant":
        return names[line]
    text = expression(line.op, [], line.static)
    return f"({text})" if text.startswith("-") else text
