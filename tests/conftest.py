"""Every test runs on the backend that `pytest --backend` names: "numpy", or "cupy".

There, new Tensors and layers live, as inside of `tb.use_backend`; `numeric.here` moves an array to
where they are. CuPy runs on a GPU if there is one and otherwise on the CPU (tools/cupy-on-cpu).
A test that is about the host alone says so, `@pytest.mark.host("why")`, and runs on NumPy only.
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from importlib.util import find_spec

import pytest

import tinybn as tb
from tinybn.__main__ import report
from tinybn.fusion import FUSED, fused

EXTRAS = {"hatchling", "hypothesis", "sympy", "tqdm"}

_stack = contextlib.ExitStack()
_ran: Counter[str] = Counter()
_host_only: dict[str, list[str]] = {}


def pytest_addoption(parser):
    parser.addoption("--backend", default="numpy", choices=["numpy", "cupy"])
    parser.addoption(
        "--thread-order",
        default="forward",
        choices=["forward", "reverse"],
        help="the order in which CuPy on the CPU runs the threads of a kernel",
    )


def pytest_configure(config):
    name = config.getoption("backend")
    config.addinivalue_line("markers", "host(why): about the host alone, so it runs on NumPy only")
    try:
        if name == "cupy":
            import cupy_on_cpu

            cupy_on_cpu.enable_unless_gpu()
            _stack.enter_context(tb.use_backend(name))
            if (order := config.getoption("thread_order")) != "forward":
                _stack.enter_context(cupy_on_cpu.thread_order(order))
    except RuntimeError as error:  # BackendUnavailableError, or the tool's own
        pytest.exit(f"no tests on {name}: {error}", returncode=2)


def pytest_unconfigure(config):
    _stack.close()


def pytest_ignore_collect(collection_path, config):
    """on_cupy holds what only CuPy can show: how it and NumPy agree, and what waits for a GPU."""
    on_cupy = config.getoption("backend") == "cupy"
    if collection_path.name == "on_cupy" and not on_cupy:
        return True
    if collection_path.name == "fuzz" and on_cupy and find_spec("hypothesis") is None:
        _host_only["hypothesis is not installed"] = ["tests/fuzz"]
        return True
    return None


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    """On a GPU, where nothing can be installed, files that need an extra package are skipped."""
    report = yield
    on_cupy = collector.config.getoption("backend") == "cupy"
    missing = re.search(r"No module named '(\w+)'", str(report.longrepr))
    if on_cupy and report.failed and missing and missing[1] in EXTRAS:
        report.outcome = "skipped"
        report.longrepr = str(collector.path), 0, f"Skipped: {missing[1]} is not installed"
    return report


def pytest_collection_modifyitems(config, items):
    if config.getoption("backend") == "numpy":
        return
    kept, left = [], []
    for item in items:
        marker = item.get_closest_marker("host")
        (left if marker else kept).append(item)
        if marker:
            _host_only.setdefault(marker.args[0], []).append(item.nodeid)
    items[:] = kept
    config.hook.pytest_deselected(items=left)


@pytest.fixture
def planted():
    """Makes fused ops for one test, and takes them out of the registry afterwards."""
    before = set(FUSED)

    def make(composition, forward, backward):
        forward.__name__ = "planted"
        op = fused(composition=composition)(forward)
        op.backward(backward)
        return op

    yield make
    for name in FUSED.keys() - before:
        del FUSED[name]


@pytest.fixture(autouse=True)
def _on_its_backend(pytestconfig):
    """Tensors are where they are meant to be, before and after; and how many tests used a GPU."""
    name = pytestconfig.getoption("backend")
    assert tb.tensor([1.0]).backend == name
    with _counting(name) as counts:
        yield
    assert tb.tensor([1.0]).backend == name
    _ran["tests"] += 1
    _ran["with kernels"] += counts.get("launch", 0) > 0
    _ran["launches"] += counts.get("launch", 0)


def _counting(name):
    if name == "cupy":
        import cupy_on_cpu

        if cupy_on_cpu.enabled():
            return cupy_on_cpu.count()
    return contextlib.nullcontext({})


def pytest_terminal_summary(terminalreporter, config):
    if config.getoption("backend") == "numpy":
        return
    passed, failed = (len(terminalreporter.stats.get(k, [])) for k in ("passed", "failed"))
    terminalreporter.section("on CuPy, for a bug report")
    terminalreporter.line(report())
    terminalreporter.line(f"{_ran['tests']} tests ran on CuPy: {passed} passed, {failed} failed")
    if _ran["launches"]:
        terminalreporter.line(
            f"{_ran['with kernels']} of them launched {_ran['launches']} kernels, counted on the CPU"
        )
    for why, names in _host_only.items():
        terminalreporter.line(f"{len(names)} not run on CuPy: {why}")
