# make demo           set up, and train an MLP on real digits with and without batch norm
# make test           set up, and run the tests
# make fuzz           random graphs, states and extreme numbers: new ones each time, for an hour or so
# make compare        every fused op against its composition, in higher precision, number by number
# make prove          the same with symbols in place of numbers: a proof or a counterexample
# make docs           the lesson, how-tos and reference as a site: docs/_build/html/index.html
# make experiments    every claim about batch norm, measured: writes EXPERIMENTS.md (half an hour)
# make bench          tinybn beside PyTorch, JAX and others, and beside plain NumPy
# make test-browser   the site and the microscope in a real browser, chromium
# make test-mpi       the tests on several processes; demo-mpi trains on two, compare-mpi compares on three
# make test-cupy      the tests on CuPy, with a GPU or without; test-gpu needs a GPU
# make bench-gpu      checks and times everything on a GPU, in ten minutes: writes runs/gpu/gpu.json
# make nvrtc          CuPy's kernels through NVIDIA's compiler, without a GPU
PYTHON ?= python3
BACKEND ?= numpy
CHROMIUM ?= chromium
VENV := .venv
CUPY_VENV := .venv-cupy
NVRTC_VENV := .venv-nvrtc
BIN := $(VENV)/bin
APT := [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq
PROBLEM := __import__('tinybn.backend').backend.problems()['cupy']
HAS_GPU := $(BIN)/python -c "assert not $(PROBLEM)" 2>/dev/null
CUPY_PYTHON = $$($(HAS_GPU) && echo $(BIN) || echo $(CUPY_VENV)/bin)/python
CHECK_PYTHON := $(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("tinybn needs \
Python 3.11 or newer, this is " + sys.version.split()[0] + ": run make PYTHON=/path/to/another")'

.PHONY: demo test fuzz compare prove docs experiments experiments-quick bench lint test-browser test-peers test-cupy test-mpi demo-mpi compare-mpi test-gpu bench-gpu on-cupy nvrtc clean

ifeq ($(BACKEND),cupy)
demo: on-cupy
	@$(CUPY_PYTHON) tools/cupy-on-cpu/run.py examples/demo.py --backend cupy
else
demo: $(VENV)/ready
	$(BIN)/python examples/demo.py --backend $(BACKEND)
endif

test: $(VENV)/ready
	$(BIN)/python -m pytest

# New examples every time, 50 times as many as in the tests. Passes options on, as in
# FUZZ="-k aliases --hypothesis-seed 3".
fuzz: $(VENV)/ready
	$(BIN)/python -m pytest tests/fuzz --hypothesis-profile long $(FUZZ)

compare: $(VENV)/ready
	$(BIN)/python examples/compare_gradients.py

# Passes options on, as in PROVE="--op batch_norm --n 3 4".
prove: $(VENV)/ready
	$(BIN)/python examples/prove.py $(PROVE)

# Passes options on, as in EXPERIMENTS="--only epsilon --seeds 10".
experiments: $(VENV)/ready
	$(BIN)/python examples/experiments.py $(EXPERIMENTS)

experiments-quick: $(VENV)/ready
	$(BIN)/python examples/experiments.py --quick --check $(EXPERIMENTS)

# Runs the chapters, and ends with an error at any warning, such as a dead link.
docs: $(VENV)/docs
	rm -rf docs/_build
	$(BIN)/python -m sphinx --builder html --quiet --fail-on-warning docs docs/_build/html
	@echo "Open docs/_build/html/index.html"

lint: $(VENV)/lint
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

# Every test on CuPy: on a GPU if the CuPy in .venv has one, otherwise on the CPU.
# Passes options on, as in PYTEST="--thread-order reverse".
test-cupy: on-cupy
	@$(CUPY_PYTHON) tools/cupy-on-cpu/run.py -m pytest --backend cupy $(PYTEST)

# MPI comes from PyPI, with mpiexec. One thread per process, so that they don't fight for cores.
MPIEXEC := OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 $(BIN)/mpiexec

test-mpi: $(VENV)/mpi
	$(BIN)/python -m pytest tests/mpi $(PYTEST)

demo-mpi: $(VENV)/mpi
	$(MPIEXEC) -n 2 $(BIN)/python examples/train_mlp.py --distributed

compare-mpi: $(VENV)/mpi
	$(MPIEXEC) -n 3 $(BIN)/python examples/compare_across_ranks.py

# A large download.
nvrtc: $(NVRTC_VENV)/ready
	$(NVRTC_VENV)/bin/python tools/compile_kernels.py

# For a bug report, on a GPU: `make .venv/cupy-cuda13x` (or cupy-cuda12x, cupy-rocm) installs CuPy.
test-gpu: $(VENV)/ready
	@$(BIN)/python -c "import sys; p = $(PROBLEM); p and sys.exit('test-gpu needs a GPU: ' + p)"
	$(BIN)/python -m pytest --backend cupy

# Ten minutes on a GPU; without one, everything in it runs once on the CPU, on tiny inputs.
# Passes options on, as in GPU="--minutes 5 --parts steps".
bench-gpu: on-cupy
	@$(CUPY_PYTHON) tools/cupy-on-cpu/run.py -m benchmarks.gpu $$($(HAS_GPU) || echo --small) $(GPU)

# CuPy runs in .venv if it finds a GPU there, and otherwise on the CPU in an environment of its own.
on-cupy:
	@if ! $(HAS_GPU); then \
	echo "CuPy in $(VENV) has no GPU, so CuPy runs on the CPU: correct, but not fast."; \
	$(MAKE) --no-print-directory --silent $(CUPY_VENV)/ready; fi

# The site and the microscope in a real browser: Debian's chromium (or CHROMIUM), driven by Playwright.
test-browser: $(VENV)/browser docs
	@command -v $(CHROMIUM) >/dev/null || ($(APT) chromium) || { \
	echo "test-browser needs a browser: sudo apt-get install chromium, or CHROMIUM=/path/to/one"; exit 1; }
	CHROMIUM=$$(command -v $(CHROMIUM)) $(BIN)/python -m pytest tests/browser

# PyTorch and JAX as references; large downloads.
test-peers: $(VENV)/peers
	$(BIN)/python -m pytest tests/peers

# Speed and memory, compiled and eager, beside PyTorch, JAX, PyTensor, HIPS autograd, MyGrad and plain
# NumPy; large downloads. Passes options on, as in BENCH="--quick --nets 2".
bench: $(VENV)/bench
	$(BIN)/python -m benchmarks $(BENCH)

# Installs $(2) into the environment $(1). A relative path to this folder survives a move.
INSTALL = $(1)/bin/python -m pip install --quiet --disable-pip-version-check 'pip>=25.1' && \
$(1)/bin/python -m pip install --quiet $(2) && \
echo ../../../.. | tee $(1)/lib/python*/site-packages/*tinybn.pth >/dev/null

# Is the environment $(1) complete, does its Python run, and is it PYTHON if somebody set that?
FITS = [ -e $(1)/bin/pip ] && version=$$($(1)/bin/python -VV) && \
[ "$$version" = "$$($(if $(filter file,$(origin PYTHON)),$(1)/bin/python,$(PYTHON)) -VV)" ]
ENVIRONMENTS := $(VENV) $(CUPY_VENV) $(NVRTC_VENV)
UNFIT := $(foreach venv,$(wildcard $(ENVIRONMENTS)),\
$(shell ($(call FITS,$(venv))) 2>/dev/null || echo $(venv)/ready))
.PHONY: $(UNFIT)

$(VENV)/ready: PACKAGES := --editable '.[examples]' --group test
$(CUPY_VENV)/ready: PACKAGES := --editable '.[examples]' --group test --group cupy-on-cpu
$(CUPY_VENV)/ready: CHECK_MACHINE := $(PYTHON) tools/cupy-on-cpu/run.py
$(NVRTC_VENV)/ready: PACKAGES := --editable . --group nvrtc
$(ENVIRONMENTS:=/ready): %/ready: pyproject.toml
	@$(CHECK_PYTHON)
	@$(CHECK_MACHINE)
	@echo "Setting up $*, which takes about a minute"
	@($(call FITS,$*)) 2>/dev/null || $(PYTHON) -m venv --clear $*
	@$(call INSTALL,$*,$(PACKAGES))
	@touch $@

$(VENV)/browser $(VENV)/docs $(VENV)/lint $(VENV)/peers $(VENV)/bench: $(VENV)/%: $(VENV)/ready
	@echo "Installing the packages for $@"
	@$(call INSTALL,$(VENV),--group $*)
	@touch $@

$(VENV)/mpi $(VENV)/cupy-cuda12x $(VENV)/cupy-cuda13x $(VENV)/cupy-rocm: $(VENV)/%: $(VENV)/ready
	@echo "Installing $*"
	@$(call INSTALL,$(VENV),--editable '.[$*]')
	@touch $@

clean:
	rm -rf $(VENV) $(CUPY_VENV) $(NVRTC_VENV) runs docs/_build .mypy_cache .pytest_cache .ruff_cache
