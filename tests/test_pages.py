"""Every code block of the pages, the README and the docstrings runs, and prints what they show."""

import contextlib
import doctest
import importlib
import inspect
import re
import sys
import textwrap
import types
from pathlib import Path

import numpy as np
import pytest
from pages import ROOT, blocks, matches, run

import tinybn as tb
from tinybn.fusion import FUSED

DOCS = ROOT / "docs"
ON_CUPY = {"howto/gpu.md"}
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
PAGES = [p for p in PAGES if "_build" not in p.parts and p.name != "errors.md"]  # test_mistakes.py
PAGES = {p.relative_to(DOCS if p.is_relative_to(DOCS) else ROOT).as_posix(): p for p in PAGES}
MODULES = [name for name in tb.__all__ if isinstance(getattr(tb, name), types.ModuleType)]
MODULES = {
    f"tinybn.{m}": importlib.import_module(f"tinybn.{m}") for m in [*MODULES, "init", "program"]
}


def public(module):
    """The public names of a module: `__all__`, or else what it defines without an underscore."""
    listed = getattr(module, "__all__", None)
    if listed is not None:
        return [name for name in listed if not isinstance(getattr(module, name), types.ModuleType)]
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    ]


@pytest.fixture
def page(tmp_path, monkeypatch):
    """A folder to run in; and afterwards the modes, fused ops and pictures are as before."""
    monkeypatch.chdir(tmp_path)
    before, modules = dict(FUSED), {*sys.modules}
    pyplot = None
    with contextlib.suppress(ImportError):
        import matplotlib

        matplotlib.use("agg")
        from matplotlib import pyplot

        monkeypatch.setattr(pyplot, "show", lambda *_, **__: None)
    tb.seed(0)
    yield monkeypatch
    FUSED.clear()
    FUSED.update(before)
    if pyplot:
        pyplot.close("all")
    for name in {*sys.modules} - modules:  # a chapter's own, such as docs/lesson/engine.py
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(DOCS)):
            del sys.modules[name]


def run_page(name, page):
    page.syspath_prepend(str(PAGES[name].parent))
    return run(PAGES[name])


WITH_CODE = [
    name for name, path in PAGES.items() if any(b.runs for b in blocks(path.read_text("utf-8")))
]


@pytest.mark.host("pages make NumPy arrays")
@pytest.mark.parametrize("name", [name for name in WITH_CODE if name not in ON_CUPY])
def test_the_blocks_of_a_page_print_what_it_shows(name, page):
    run_page(name, page)


@pytest.mark.parametrize("name", sorted(ON_CUPY))
def test_the_blocks_of_a_page_about_cupy_do_on_cupy(name, page, pytestconfig):
    if pytestconfig.getoption("backend") != "cupy":
        pytest.skip("needs CuPy: make test-cupy")
    run_page(name, page)


def documented():
    """Public functions and classes with a docstring, and the methods of the classes, by name."""
    found = {}
    for where, module in {"tinybn": tb, **MODULES}.items():
        for name in public(module):
            value = getattr(module, name)
            if any(value is other for other in found.values()):
                continue
            found[f"{where}.{name}"] = value
            if isinstance(value, type):
                for method, function in vars(value).items():
                    if not method.startswith("_") and callable(function):
                        found[f"{where}.{name}.{method}"] = function
    return {name: value for name, value in found.items() if inspect.getdoc(value)}


EXAMPLES = {
    name: test
    for name, value in documented().items()
    if (test := doctest.DocTestParser().get_doctest(
        inspect.getdoc(value), {"tb": tb, "np": np}, name, None, 0)).examples
}  # fmt: skip


def code(value):
    """The paragraphs of a docstring that are Python without prompts."""
    found = re.split(r"\n\s*\n", inspect.getdoc(value))
    found = [p for p in found if all(line.startswith("    ") for line in p.splitlines())]
    return [textwrap.dedent(p) for p in found if "tb." in p and ">>>" not in p]


@pytest.mark.host("examples make NumPy arrays")
@pytest.mark.parametrize("name", [name for name, value in documented().items() if code(value)])
def test_the_other_code_of_a_docstring_runs(name, page):
    space = {"tb": tb, "np": np, "Path": Path}
    for block in code(documented()[name]):
        run(Path(name), space, f"```python\n{block}\n```")


class Checker(doctest.OutputChecker):
    def check_output(self, want, got, optionflags):
        return matches(want.replace("<BLANKLINE>", ""), got)


@pytest.mark.host("examples make NumPy arrays")
@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_of_a_docstring_print_what_it_shows(name, page):
    said = []
    runner = doctest.DocTestRunner(checker=Checker(), verbose=False)
    runner.run(EXAMPLES[name], out=said.append, clear_globs=False)
    assert runner.summarize(verbose=False).failed == 0, "".join(said)


@pytest.mark.host("text alone")
@pytest.mark.parametrize(
    "name",
    ["Tensor.backward", "grad", "primitive", "fused", "compile", "program", "check.gradcheck",
     "check.compare", "nn.MLP", "nn.BatchNorm"],
)  # fmt: skip
def test_the_docstring_of_an_entry_point_has_an_example(name):
    assert f"tinybn.{name}" in EXAMPLES


@pytest.mark.host("text alone")
def test_every_public_name_is_in_the_reference():
    text = "\n".join(path.read_text("utf-8") for path in sorted((DOCS / "api").glob("*.md")))
    entries = re.findall(r"^\.\. (?:auto)?\w+:: (tinybn\.[\w.]+)", text, re.MULTILINE)
    assert len(entries) == len({*entries}), "a name is there twice"
    entries = {entry: _find(entry) for entry in entries}
    for where, module in {"tinybn": tb, **MODULES}.items():
        for name in public(module):
            value = getattr(module, name)
            known = f"{where}.{name}" in entries or any(value is v for v in entries.values())
            assert known, f"{where}.{name} is not in docs/api"


def _find(entry):
    """What an entry of the reference names."""
    module, _, name = entry.rpartition(".")
    return getattr(importlib.import_module(module), name)


# the checker itself


@pytest.mark.host("text alone")
@pytest.mark.parametrize(
    ("shown", "printed", "expected"),
    [
        ("1.5", "1.5", True),
        ("1.5", "1.52", True),
        ("1.5", "1.7", False),
        ("0.0510", "0.05103104", True),
        ("0.0510", "0.0512", False),
        ("[[1., 2.]]", "[[1. 2.]]", False),
        ("[1, 2]", "[1,\n 2]", True),
        ("3 rows", "4 rows", False),
        ("1e-9", "1.3e-9", True),
        ("1e-9", "3e-9", False),
        ("nan", "nan", True),
        ("nan", "1.0", False),
        ("1 … 3", "1 and 2 and 3", True),
        ("1 … 3", "1 and 2", False),
        ("a b", "a c", False),
        ("-1.0", "1.0", False),
        ("x 1.0", "x 1.0 and more", False),
    ],
)
def test_a_page_that_shows_something_else_is_found(shown, printed, expected):
    assert matches(shown, printed) is expected


@pytest.mark.host("text alone")
@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("```python\nprint(1 + 1)  # 2\n```\n", True),
        ("```python\nprint(1 + 1)  # 3\n```\n", False),
        ("```python\nprint(1 + 1)  # a remark\n```\n", True),
        ("```python\n(1, 2)[0]  # 2\n```\n", False),
        ("```python\nprint('a')\n```\n\n```text\na\n```\n", True),
        ("```python\nprint('a')\n```\n\n```text\nb\n```\n", False),
        ("```python\nprint('a')\n```\n\nElsewhere:\n\n```text\nb\n```\n", True),
        ("```python\na = 1\n```\n\n```{code-cell} python\n:tags: [x]\nassert a == 2\n```\n", False),
        ("```{code-cell} python\n---\ntags: [x]\n---\nprint(3)  # 3\n```\n", True),
        ("<!-- not run: because -->\n```python\n1 / 0\n```\n", True),
        ("<!-- from tinybn/ops/elementwise.py -->\n```python\ndef adder(\n```\n", False),
    ],
)
def test_blocks_are_found_run_and_compared(tmp_path, text, right):
    with contextlib.nullcontext() if right else pytest.raises(AssertionError):
        run(tmp_path / "page.md", text=text)
