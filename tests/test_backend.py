"""Which library owns an array, and what is said when one can't be had. (No GPU is needed here.)"""

import importlib.metadata
import subprocess
import sys
import types

import numpy as np
import pytest

import tinybn as tb
from tinybn import __main__ as command
from tinybn import backend, diagnosis
from tinybn.modes import current_mode

pytestmark = pytest.mark.host("what is said of a CuPy that is absent or can't run")


class FakeRuntimeError(RuntimeError):
    """As CuPy's CUDARuntimeError."""

    def __init__(self, status, text):
        super().__init__(text)
        self.status = status


class DynamicLibNotFoundError(RuntimeError):
    """As cuda.pathfinder's."""


def fake_cupy(
    monkeypatch, *, count_error=None, run_error=None, driver=13000, runtime=13020, hip=False
):
    """A module that fails as CuPy does; the real one is tried elsewhere."""

    def fail(error):
        if error:
            raise error
        return 1

    cupy = types.ModuleType("cupy")
    cupy.ndarray = type("ndarray", (), {"__module__": "cupy"})
    cupy.ones = lambda *args, **kwargs: fail(run_error)
    cupy.cuda = types.SimpleNamespace(
        runtime=types.SimpleNamespace(
            getDeviceCount=lambda: fail(count_error),
            driverGetVersion=lambda: driver,
            runtimeGetVersion=lambda: runtime,
            is_hip=hip,
        )
    )
    monkeypatch.setitem(sys.modules, "cupy", cupy)


@pytest.fixture(autouse=True)
def _forget_cupy():
    backend._cupy.cache_clear()
    yield
    backend._cupy.cache_clear()


OLD = FakeRuntimeError(35, "cudaErrorInsufficientDriver")
NONE = FakeRuntimeError(100, "cudaErrorNoDevice")


@pytest.mark.parametrize(
    ("cause", "message"),
    [
        ({"count_error": OLD, "driver": 0}, "no NVIDIA driver.*--gpus all"),
        (
            {"count_error": OLD, "driver": 12040},
            "supports CUDA 12.4.*needs 13.2: update the driver or install cupy-cuda12x",
        ),
        (
            {"count_error": OLD, "driver": 11080, "runtime": 12090},
            "supports CUDA 11.8.*needs 12.9: update the driver$",
        ),
        ({"count_error": NONE}, "no GPU: check nvidia-smi and CUDA_VISIBLE_DEVICES"),
        ({"run_error": ImportError("libcublas.so.13")}, r"libcublas.so.13.*pip install 'cupy"),
        ({"run_error": DynamicLibNotFoundError("libnvrtc")}, r"libnvrtc.*cupy-cuda13x\[ctk\]"),
        ({"run_error": DynamicLibNotFoundError("x\n\ny")}, r"libraries it needs \(x\): run"),
        ({"count_error": NONE, "hip": True}, "no GPU: check rocm-smi and HIP_VISIBLE_DEVICES"),
        ({"run_error": ImportError("librocblas.so.5"), "hip": True}, "rocblas.*: install ROCm$"),
        ({"run_error": RuntimeError("on fire")}, r"can't run here \(RuntimeError: on fire\)"),
    ],
)
def test_each_cause_has_its_sentence_and_its_cure(monkeypatch, cause, message):
    fake_cupy(monkeypatch, **cause)
    monkeypatch.setattr(diagnosis, "packages", lambda: ["cupy-cuda13x"])
    with pytest.raises(tb.BackendUnavailableError, match=message):
        tb.tensor([1.0], backend="cupy")


def test_a_cupy_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.delitem(sys.modules, "cupy")
    monkeypatch.setattr(sys, "meta_path", [Absent(), *sys.meta_path])
    with pytest.raises(
        tb.BackendUnavailableError, match=r"not installed: run `pip install 'cupy-c"
    ):
        tb.use_backend("cupy")
    with pytest.raises(tb.BackendUnavailableError, match="not installed"):
        tb.nn.Linear(2, 2).to("cupy")
    with pytest.raises(tb.BackendUnavailableError, match="not installed"):
        tb.tensor([1.0]).to("cupy")


def test_a_cupy_that_cannot_be_imported(monkeypatch):
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Absent("libamdhip64.so.7"), *sys.meta_path])
    with pytest.raises(tb.BackendUnavailableError, match=r"can't be imported \(libamdhip64"):
        tb.tensor([1.0], backend="cupy")


def test_the_cause_is_shown_and_not_the_page_that_cupy_wraps_it_in(monkeypatch):
    page = ImportError("====\nFailed to import CuPy. Check the guide.\n====")
    page.__cause__ = ImportError("libamdhip64.so.7: no such file")
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Absent(page), *sys.meta_path])
    with pytest.raises(tb.BackendUnavailableError) as error:
        tb.tensor([1.0], backend="cupy")
    assert "can't be imported (libamdhip64.so.7: no such file): install" in str(error.value)
    assert "\n" not in str(error.value)


def test_two_packages_are_named_where_cupy_fails(monkeypatch):
    fake_cupy(monkeypatch, run_error=RuntimeError("broken"))
    monkeypatch.setattr(
        importlib.metadata,
        "distributions",
        lambda: [types.SimpleNamespace(name=n) for n in ("numpy", "CuPy-cuda13x", "cupy-cuda12x")],
    )
    message = r"2 CuPy packages .*`pip uninstall cupy-cuda12x cupy-cuda13x`, then .*: broken\)"
    with pytest.raises(tb.BackendUnavailableError, match=message):
        tb.tensor([1.0], backend="cupy")
    assert "warning: 2 CuPy packages" in command.report()


def test_problems_are_the_reasons_and_the_command_prints_them_with_versions(monkeypatch):
    fake_cupy(monkeypatch, count_error=NONE)
    problems = backend.problems()
    assert problems["numpy"] is None
    assert problems["cupy"].startswith("CuPy finds a driver but no GPU")
    head, numpy, cupy = command.report().splitlines()
    assert head.startswith(f"tinybn {tb.__version__}, Python {sys.version.split()[0]}")
    assert numpy.startswith(f"numpy: ready, NumPy {np.__version__} with ")
    assert cupy == f"cupy: {problems['cupy']}"


def test_the_command_runs_where_there_is_no_cupy():
    run = subprocess.run(
        [sys.executable, "-m", "tinybn"], capture_output=True, text=True, check=True
    )
    assert "\nnumpy: ready, " in run.stdout
    assert "\ncupy: " in run.stdout


class Absent:
    """Makes `import cupy` fail: as if it were not installed, or with `reason`."""

    def __init__(self, reason=None):
        self.reason = reason

    def find_spec(self, name, path=None, target=None):
        if name == "cupy":
            if isinstance(self.reason, ImportError):
                raise self.reason
            raise (
                ImportError(self.reason)
                if self.reason
                else ModuleNotFoundError("No module named 'cupy'", name="cupy")
            )


def test_unknown_backends_are_refused_with_the_known_ones():
    for call in (
        lambda: tb.tensor([1.0], backend="jax"),
        lambda: tb.use_backend("jax"),
        lambda: tb.tensor([1.0]).to("jax"),
    ):
        with pytest.raises(ValueError, match=r"unknown backend 'jax'.*'numpy', 'cupy'"):
            call()
    with pytest.raises(ValueError, match="'numpy', 'cupy' or a floating-point dtype, got 'jax'"):
        tb.nn.Linear(2, 2).to("jax")


def test_use_backend_ends_with_its_block():
    with tb.use_backend("numpy"):
        assert current_mode().backend == "numpy"
        assert tb.tensor([1.0]).backend == "numpy"
    assert current_mode().backend is None


class Foreign:
    """An array of another library, as far as an op looks."""

    shape = (2,)
    dtype = np.dtype(np.float32)


def test_arrays_of_two_libraries_do_not_mix(monkeypatch):
    monkeypatch.setitem(backend.MODULES, Foreign, types.ModuleType("cupy"))
    x = tb.tensor([1.0, 2.0], requires_grad=True)
    message = r"multiply: float32 \(2,\) on numpy and float32 \(2,\) on cupy: move one"
    with pytest.raises(tb.BackendMismatchError, match=message):
        x * Foreign()
    y = x * 2
    with pytest.raises(tb.BackendMismatchError):
        tb.ops.where(y > 0, y, Foreign())


def test_cupy_is_not_imported_before_it_is_wanted():
    code = (
        "import tinybn, sys; assert 'cupy' not in sys.modules and 'matplotlib' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_arrays_of_subclasses_are_refused():
    with pytest.raises(TypeError, match="got MaskedArray"):
        tb.tensor([1.0]) + np.ma.array([1.0])


class Recorded:
    """An array without numbers, as of a library that only notes what is asked of it."""

    def __init__(self, values):
        self.values, self.checks = np.asarray(values), []
        self.shape, self.ndim, self.dtype = self.values.shape, self.values.ndim, self.values.dtype

    def check_later(self, check):
        self.checks.append(check)


class Recorder:
    """The library of `Recorded`: an object that has the name of the one it notes for."""

    __name__ = "numpy"

    def __init__(self):
        self.draws = []

    def drawn(self, draw, shape, dtype):
        self.draws.append(draw)
        return "a line"

    def array(self, data, dtype=None):
        return Recorded(data.values if dtype is None else data.values.astype(dtype))


@pytest.fixture
def recorder(monkeypatch):
    library = Recorder()
    monkeypatch.setitem(backend.MODULES, Recorded, library)
    return library


def test_what_the_host_draws_goes_to_the_library_or_is_drawn_at_each_run(recorder):
    rng = np.random.default_rng(0)
    expected = np.random.default_rng(0).random(3)
    np.testing.assert_array_equal(backend.drawn(np, lambda: rng.random(3), (3,), float), expected)
    assert backend.drawn(recorder, lambda: rng.random(3), (3,), float) == "a line"
    np.testing.assert_array_equal(rng.random(3), np.random.default_rng(0).random(6)[3:])
    assert recorder.draws[0]().shape == (3,)


def test_a_check_is_made_at_once_or_left_to_the_array(recorder):
    seen = []
    array = np.ones(3)
    assert backend.checked(array, seen.append) is array
    assert seen[0] is array
    recorded = Recorded([1.0])
    assert backend.checked(recorded, seen.append) is recorded
    assert len(seen) == 1
    assert recorded.checks == [seen.append]


def test_an_array_of_any_library_is_copied_by_that_library_and_stays_there(recorder):
    recorded = Recorded(np.ones(3, np.float32))
    x = tb.tensor(recorded, requires_grad=True)
    assert type(x.data) is Recorded
    assert x.data is not recorded
    assert tb.tensor(recorded, dtype=np.float64).dtype == np.float64
    assert x.backend == "numpy"
    assert backend.move(x.data, "numpy") is x.data
    assert type(tb.tensor(recorded, backend="numpy").data) is Recorded


def test_a_library_may_replace_a_function_for_its_own_arrays():
    other = types.ModuleType("other")

    @backend.replaceable
    def double(xp, a, *, times=2):
        """Twice a."""
        return a * times

    double.on(other, lambda xp, a, times=2: (xp, a, times))
    assert double(np, 3) == 6
    assert double(np, 3, times=3) == 9
    assert double(other, 3) == (other, 3, 2)
    assert double(object(), 3) == 6  # such as one that records
    assert double.__doc__ == "Twice a."


def test_the_first_cupy_array_is_announced(monkeypatch):
    fake_cupy(monkeypatch)
    met = []
    monkeypatch.setattr(backend, "_greetings", [met.append])
    monkeypatch.setattr(backend, "MODULES", backend._Modules(backend.MODULES))
    cupy = sys.modules["cupy"]
    assert backend.MODULES[cupy.ndarray] is cupy
    assert backend.MODULES[cupy.ndarray] is cupy
    assert met == [cupy]
