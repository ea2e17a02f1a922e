"""The house: who may import whom. Arrows point down, and nothing goes round."""

import ast
from pathlib import Path

import pytest

import tinybn

PACKAGE = Path(tinybn.__file__).parent

LAYERS = [
    {"diagnosis", "parameters"},
    {"modes"},
    {"backend"},
    {"arrays"},
    {"tensor", "summation"},
    {"anomaly"},
    {"node"},
    {"op"},
    {"fusion"},
    {"walk"},
    {"autodiff"},
    {"ops"},
    {"init", "checkpoint", "loading"},
    {"distributed"},
    {"nn", "optimizer"},
    {"schedule"},
    {"optim", "data"},
    {"on_cupy", "graph"},
    {"program"},
    {"check"},
    {"microscope"},
    {"exercises"},
    {"__init__"},
    {"__main__"},
]
"""Rooms, from the bottom up: a room imports those below it, and its own files."""


def imports(file):
    """The modules of the package that a file imports, by name, as `ops.norm`."""
    nodes = [*ast.walk(ast.parse(file.read_text(encoding="utf-8")))]
    typing = [n for n in nodes if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    skipped = {inner for node in typing for part in node.body for inner in ast.walk(part)}
    for node in nodes:
        if node in skipped:
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "tinybn":
            path = node.module.split(".")[1:]
            for alias in node.names:
                inner = PACKAGE.joinpath(*path, alias.name)
                is_module = inner.is_dir() or inner.with_suffix(".py").exists()
                yield ".".join([*path, alias.name] if is_module else path or ["__init__"])


def name(file):
    return ".".join(file.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


FILES = {name(file): file for file in sorted(PACKAGE.rglob("*.py"))}


def level(module):
    room = module.partition(".")[0]
    found = [i for i, rooms in enumerate(LAYERS) if room in rooms]
    assert found, f"{module} is in no layer"
    return found[0]


@pytest.mark.parametrize("module", FILES)
def test_a_file_imports_only_what_is_below_it(module):
    for other in imports(FILES[module]):
        same_room = other.partition(".")[0] == module.partition(".")[0]
        assert level(other) < level(module) or same_room, f"{module} imports {other}"


def test_no_circles():
    waiting = {module: {*imports(file)} & FILES.keys() - {module} for module, file in FILES.items()}
    while ready := [module for module, needs in waiting.items() if not needs & waiting.keys()]:
        for module in ready:
            del waiting[module]
    assert not waiting


@pytest.mark.parametrize("module", FILES)
def test_a_file_has_at_most_250_lines(module):
    assert len(FILES[module].read_text(encoding="utf-8").splitlines()) <= 250
