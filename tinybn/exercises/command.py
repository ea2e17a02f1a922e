"""`python -m tinybn exercises`: write the file, check it, give hints."""

from __future__ import annotations

import argparse
import difflib
import io
import os
import sys
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from tinybn.exercises import text
from tinybn.exercises.hints import HINTS
from tinybn.exercises.judge import RIGHT, TO_DO, WRONG, Verdict, judge
from tinybn.exercises.learner import Learner, Problem, own_registry

FILE = "batch_norm_exercises.py"
COMMAND = "python -m tinybn exercises"

MOST = 3
"""How many wrong answers are explained at a time."""


def main(arguments: Sequence[str]) -> int:
    """Run the command; 0 if a file was written, or if all that was checked is right."""
    asked = _parser().parse_args(arguments)
    if asked.hint:
        _say(_hint(asked.hint))
        return 0
    if asked.solution:
        _say(text.solved(_known(asked.solution)))
        return 0
    names = [_known(name) for name in asked.names] or text.names()
    path = Path(asked.file)
    if asked.force or not path.exists():
        _write(path)
        return 0
    return _check(path, names)


def check(file: str) -> None:
    """Check all exercises in a file, and print what is right and what is not."""
    _check(Path(file), text.names())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=COMMAND,
        description="Batch norm by your own hands: exercises, and a checker for them. The first "
        "call writes a file with blanks into the current folder; later calls check it.",
        epilog="Exercises: " + ", ".join(text.names()),
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="check these only")
    parser.add_argument("--file", default=FILE, help=f"your file (default: {FILE})")
    parser.add_argument("--hint", nargs="+", metavar=("NAME", "N"), help="a hint, the N-th one")
    parser.add_argument("--solution", metavar="NAME", help="show the answer")
    parser.add_argument(
        "--force", action="store_true", help="start again; the old file is kept under another name"
    )
    return parser


def _known(name: str) -> str:
    if name in text.names():
        return name
    near = difflib.get_close_matches(name, text.names(), 1)
    meant = f" Did you mean {near[0]}?" if near else ""
    raise SystemExit(
        f"There is no exercise {name!r}.{meant}\nThe exercises are {', '.join(text.names())}."
    )


def _hint(asked: list[str]) -> str:
    hints = HINTS[_known(asked[0])]
    number = asked[1] if len(asked) > 1 else "1"
    if len(asked) > 2 or not number.isdecimal() or not 1 <= int(number) <= len(hints):
        raise SystemExit(f"{asked[0]} has the hints 1 to {len(hints)}: --hint {asked[0]} 1")
    n = int(number)
    lines = [f"Hint {n} of {len(hints)} for {asked[0]}:", "", hints[n - 1], ""]
    if n < len(hints):
        return "\n".join([*lines, f"The next one: {COMMAND} --hint {asked[0]} {n + 1}"])
    return "\n".join([*lines, f"The answer: {COMMAND} --solution {asked[0]}"])


def _write(path: Path) -> None:
    kept = ""
    if path.exists():
        old = next(p for i in count(1) if not (p := path.with_suffix(f".old{i}.py")).exists())
        os.replace(path, old)
        kept = f"Your old file is {old} now.\n"
    try:
        path.write_text(text.with_holes(), encoding="utf-8")
    except OSError as error:
        raise SystemExit(f"Can't write {path}: {error.strerror}") from None
    _say(
        f"{kept}Wrote {path}, with {len(text.names())} exercises.\n\n"
        "Open it in an editor, and replace the first `...` with code. Then run\n\n"
        f"    {_command(path)}\n\n"
        "to check it. That command also tells you what to do next."
    )


def _command(path: Path) -> str:
    return COMMAND if path == Path(FILE) else f"{COMMAND} --file {path}"


def _check(path: Path, names: list[str]) -> int:
    with own_registry():
        try:
            learner = Learner(path.resolve())
        except Problem as problem:
            _say(str(problem))
            return 1
        verdicts = {name: judge(name, learner) for name in names}
    _say("\n".join(_report(path, verdicts)))
    return int(any(v.state != RIGHT for v in verdicts.values()))


def _report(path: Path, verdicts: dict[str, Verdict]) -> list[str]:
    lines = [f"{path.name}", ""]
    for number, name in enumerate(text.names(), 1):
        if verdict := verdicts.get(name):
            note = verdict.message if verdict.state == RIGHT else ""
            lines.append(f"{number:>4}  {name:<20}{verdict.state:<9}{note}".rstrip())
    wrong = {name: v.message for name, v in verdicts.items() if v.state == WRONG}
    for name, message in [*wrong.items()][:MOST]:
        lines += [
            "",
            f"{name}: not yet",
            "",
            *(f"  {line}".rstrip() for line in message.split("\n")),
        ]
    to_do = next((name for name, v in verdicts.items() if v.state == TO_DO), None)
    name = next(iter(wrong), to_do or "")
    if not name:
        return [*lines, "", *_all_right(path, verdicts)]
    if not wrong:
        still = verdicts[name].message.splitlines()
        lines += ["", f"Next: {name}", *(f"  {line}".rstrip() for line in still)]
    return [*lines, "", f"Stuck? {COMMAND} --hint {name}"]


def _all_right(path: Path, verdicts: dict[str, Verdict]) -> list[str]:
    if len(verdicts) < len(text.names()):
        return [f"Right. All exercises: {_command(path)}"]
    return [
        "All is right: you have derived the gradient of batch norm, and found the bug that a check",
        "with ones can't see. Next: look at the same numbers in motion with",
        "",
        "    python -m tinybn microscope",
    ]


def _say(message: str) -> None:
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal may lack √
    sys.stdout.write(message.rstrip("\n") + "\n")
