"""Runs the code blocks of a page in Markdown, and compares what they print with what it shows.

A page's blocks run one after another in one namespace: ```python, and the ```{code-cell} of a
chapter. The page shows what they print in a ```text block right after a block, or in a comment at
the end of a line:

    print(x * 2)  # [[2., 4.]]
    x.shape  # (1, 2)

Words must be equal. Numbers may differ by one in the last digit shown, and … stands for anything.
Such a comment begins with a number, a bracket, a quotation mark, or True, False, None or tensor;
other comments are remarks. A line above a block can make an exception:

    <!-- not run: why -->                     the block is not run
    <!-- from tinybn/ops/elementwise.py -->   the block is not run, but stands in this file
"""

import ast
import contextlib
import io
import re
import tokenize
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
FENCE = re.compile(r"(?P<indent> *)(?P<ticks>`{3,})(?P<info>[^`\n]*)")
EXCEPTION = re.compile(r"<!-- (not run: .+|from (?P<file>\S+)) -->")
VALUE = re.compile(r"[-+]?[\d.]*\d|[\[({\"'…]|(True|False|None|tensor|nan|inf)\b")
NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?(?![\w])|\b(?:nan|inf)\b")


class Block(NamedTuple):
    """A fenced block: its language, its text, the line that its text starts on, what precedes it."""

    language: str
    text: str
    line: int
    above: str

    @property
    def runs(self):
        """Whether it is code of the page."""
        return self.language in ("python", "{code-cell}")


def blocks(text):
    """The fenced blocks of a page, in order."""
    lines = text.splitlines()
    found, above, i = [], [], 0
    while i < len(lines):
        fence = FENCE.fullmatch(lines[i].rstrip())
        if not fence:
            above.append(lines[i])
            i += 1
            continue
        start = i = i + 1
        while i < len(lines) and lines[i].strip() != fence["ticks"]:
            i += 1
        inside = [line.removeprefix(fence["indent"]) for line in lines[start:i]]
        language = (fence["info"].split() or [""])[0]
        if language == "{code-cell}":
            skipped = _options(inside)
            start, inside = start + skipped, inside[skipped:]
        text = "\n".join(inside) + "\n"
        found.append(Block(language, text, start + 1, "\n".join(above).strip()))
        above, i = [], i + 1
    return found


def _options(lines):
    """How many lines at the top of a cell are options: `:tags: [...]`, or YAML between dashes."""
    if lines and lines[0].strip() == "---":
        return lines.index("---", 1) + 1
    return next((i for i, line in enumerate(lines) if not line.startswith(":")), len(lines))


def run(path, space=None, text=None):
    """Run a page.

    Returns:
        Its namespace.

    Raises:
        AssertionError: a block prints something else than the page shows.
    """
    space = {"__name__": "__page__"} if space is None else space
    found = blocks(path.read_text(encoding="utf-8") if text is None else text)
    for i, block in enumerate(found):
        if not block.runs:
            continue
        exception = EXCEPTION.search(block.above.splitlines()[-1]) if block.above else None
        if exception:
            if exception["file"]:
                source = (ROOT / exception["file"]).read_text(encoding="utf-8")
                assert block.text.strip() in source, (
                    f"{path}:{block.line}: not in {exception['file']}"
                )
            continue
        printed = execute(block, path, space)
        after = found[i + 1] if i + 1 < len(found) else None
        if after and after.language == "text" and not after.above:
            check(after.text, printed, f"{path}:{after.line}")
    return space


def execute(block, path, space):
    """Run a block, statement by statement, and check the comments that show values.

    Returns:
        What the other statements print.
    """
    comments = _comments(block.text)
    tree = ast.parse(block.text, str(path))
    everything = io.StringIO()
    for node in tree.body:
        shown = comments.get(node.end_lineno, "")
        ast.increment_lineno(node, block.line - 1)
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            if isinstance(node, ast.Expr):
                code = compile(ast.Expression(node.value), str(path), "eval")
                value = eval(code, space)
                result = out.getvalue() or repr(value)
            else:
                exec(compile(ast.Module([node], []), str(path), "exec"), space)
                result = out.getvalue()
        if out.getvalue() and shown.startswith(("'", '"')):  # print writes no quotation marks
            result = f"{shown[0]}{result.strip()}{shown[0]}"
        if VALUE.match(shown) and (isinstance(node, ast.Expr) or result):
            check(shown, result, f"{path}:{node.end_lineno}", part=True)
        else:
            everything.write(out.getvalue())
    return everything.getvalue()


def _comments(text):
    """What a line says in a comment at its end."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return {
        t.start[0]: t.string.lstrip("# ").rstrip()
        for t in tokens
        if t.type == tokenize.COMMENT and t.line[: t.start[1]].strip()
    }


def check(shown, printed, where, *, part=False):
    """Compare a text that a page shows with what was printed; `part` may leave out words around it.

    Raises:
        AssertionError: they differ.
    """
    if not matches(shown, printed, part=part):
        raise AssertionError(f"{where}\nthe page shows\n{shown.rstrip()}\nbut it is\n{printed}")


def matches(shown, printed, *, part=False):
    """Whether a text shows what was printed."""
    pattern, numbers = [], []
    for k, piece in enumerate(re.split(r"…", shown)):
        words, end = [], 0
        for number in NUMBER.finditer(piece):
            words += [_words(piece[end : number.start()]), f"({NUMBER.pattern})"]
            numbers.append(number[0])
            end = number.end()
        words.append(_words(piece[end:]))
        pattern += [".*?" if k else "", *words]
    text = "".join(pattern)
    found = re.search(text if part else rf"\s*{text}\s*\Z", printed, re.DOTALL)
    if found is None or (not part and found.start() > 0):
        return False
    return all(_close(a, b) for a, b in zip(numbers, found.groups(), strict=True))


def _words(text):
    """A pattern for these words, whatever the white space between them and around them."""
    return r"\s*" + r"\s*".join(re.escape(part) for part in text.split()) + r"\s*"


def _close(shown, printed):
    """Whether two numbers agree to the digits of the first, the last of which may be off by one."""
    if shown == printed:
        return True
    if {"nan", "inf"} & {shown.strip("+-"), printed.strip("+-")}:
        return False
    digits, _, exponent = shown.partition("e")
    if "." not in digits and not exponent and "." not in printed and "e" not in printed:
        return False  # integers are exact
    decimals = len(digits.partition(".")[2])
    unit = 10.0 ** (int(exponent or 0) - decimals)
    return abs(float(shown) - float(printed)) <= 1.0001 * unit
