"""The package's docstrings, which are plain text in Google's style, as reStructuredText.

`name` becomes a link if the reference has the name. An indented block is shown as it is written.
Any other character means itself.
"""

import inspect
import re

from docutils import nodes
from sphinx import addnodes

SPAN = re.compile(r"``?(.+?)``?")
NAME = re.compile(r"(tb\.)?([A-Za-z_][\w.]*)(\(\))?")
SECTION = re.compile(r"(Args|Returns|Raises|Yields|Attributes|Note|Example|Examples):$")
CODE = re.compile(r"\s+(@|import |with |def |\w+ = [^·]*$)")
BACK = re.compile(r'<a class="viewcode-back"[^>]*>[^<]*</a>')
STARRED = re.compile(r"\s+\*{1,2}\w+: ")


def linked(match):
    """A name as a reference, anything else as code."""
    name = NAME.fullmatch(match[1])
    if not name:
        return f"``{match[1]}``"
    target = f"tinybn.{name[2]}" if name[1] else name[2]
    return f":py:obj:`{match[1]} <{target}>`"


def escaped(text):
    """Characters that mean something in reStructuredText, made to mean themselves."""
    return re.sub(r"([*|\\]|_\b|(?<=\w)_(?!\w))", r"\\\1", text)


def line(text):
    """One line outside of a block."""
    if STARRED.match(text):  # napoleon escapes *args
        name, _, rest = text.partition(": ")
        return f"{name}: {line(rest)}"
    parts, end = [], 0
    for span in SPAN.finditer(text):
        parts += [escaped(text[end : span.start()]), linked(span)]
        end = span.end()
    return "".join([*parts, escaped(text[end:])])


def as_rst(lines):
    """A docstring's lines. Outside of sections, an indented block after a blank line is code."""
    out, section, block, example = [], "", False, False
    for i, text in enumerate(lines):
        indented, first = text.startswith("    "), i == 0 or not lines[i - 1]
        if text and not indented:
            header = SECTION.match(text)
            section, block = header[1] if header else "", False
        elif indented and first and not section and not block:
            block = True
            out += [f".. code-block:: {'python' if CODE.match(text) else 'text'}", ""]
        example = bool(text) and (example or text.lstrip().startswith(">>> "))
        text = text if block or example else line(text)
        if section in ("Returns", "Yields") and SECTION.match(lines[i - 1]):
            text = untyped(text)
        out.append(text)
    return out


def untyped(text):
    """What napoleon does not split at a colon, into a type and a description."""
    return f"{text[: len(text) - len(text.lstrip())]}: {text.lstrip()}" if ":" in text else text


def process(app, what, name, obj, options, lines):
    """Rewrite a docstring before napoleon reads it."""
    lines[:] = as_rst(lines)
    if what in ("attribute", "data", "property") and lines:
        lines[0] = untyped(lines[0])


class Written(str):
    """An annotation as the source has it."""

    __slots__ = ()

    def __repr__(self):
        """Without quotes."""
        return str(self)


def signature(app, what, name, obj, options, shown, returned):
    """The signature as the source has it; an op's has no types, as it takes Tensors and numbers."""
    if shown is None or what not in {"function", "method", "class", "exception"}:
        return None
    try:
        found = inspect.signature(obj)
    except (TypeError, ValueError):
        return None
    given, none = [*found.parameters.values()], inspect.Parameter.empty
    if what == "method" and given and given[0].name in {"self", "a", "tensor"}:
        given = given[1:]
    typed = not hasattr(obj, "op")

    def written(annotation):
        return Written(annotation) if isinstance(annotation, str) and typed else none

    given = [p.replace(annotation=written(p.annotation)) for p in given]
    result = written(found.return_annotation) if typed and what != "class" else none
    if str(result).startswith("Callable[[Callable"):  # a decorator's, which its docstring explains
        result = none
    return str(inspect.Signature(given)), None if result is none else str(result)


def renamed(app, doctree):
    """tinybn is imported as tb: tb.ops.add(a, b). (tb.program is a function, not the module.)"""
    for node in doctree.findall(addnodes.desc_addname):
        text = node.astext()
        if not text.startswith("tinybn.program."):
            node.clear()
            node += nodes.Text("tb." + text.removeprefix("tinybn."))


def without_back_links(app, pagename, templatename, context, doctree):
    """Source pages link back to names as the module has them: tinybn.init.seed for tb.seed."""
    if pagename.startswith("_modules/") and "body" in context:
        context["body"] = BACK.sub("", context["body"])


def setup(app):
    """For Sphinx."""
    app.connect("autodoc-process-docstring", process, priority=400)
    app.connect("autodoc-process-signature", signature)
    app.connect("doctree-read", renamed)
    app.connect("html-page-context", without_back_links)
    return {"parallel_read_safe": True}
