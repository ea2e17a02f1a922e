# make demo           set up, and train an MLP on real digits with and without batch norm
# make test           set up, and run the tests
# make compare        every fused op against its composition, in higher precision, number by number
# make prove          the same with symbols in place of numbers: a proof, or a counterexample
# make experiments    every claim about batch norm, measured: writes EXPERIMENTS.md (a quarter of an hour)
# make bench          tinybn beside PyTorch, JAX and others, and beside a step by hand in NumPy
# make test-cupy      the tests on CuPy, with a GPU or without; test-gpu and bench-gpu want a GPU
# make nvrtc          CuPy's kernels through NVIDIA's compiler, without a GPU
PYTHON ?= python3
BACKEND ?= numpy
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable
CUPY_VENV := .venv-cupy
NVRTC_VENV := .venv-nvrtc
PROBLEM := __import__('tinybn.backend').backend.problems()['cupy']
HAS_GPU := $(BIN)/python -c "assert not $(PROBLEM)" 2>/dev/null
CUPY_PYTHON = $$($(HAS_GPU) && echo $(BIN) || echo $(CUPY_VENV)/bin)/python
CHECK_PYTHON := $(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("tinybn needs \
Python 3.11 or newer, this is " + sys.version.split()[0] + ": run make PYTHON=/path/to/another")'

.PHONY: demo test compare prove experiments experiments-quick bench lint test-peers test-cupy test-gpu bench-gpu on-cupy nvrtc clean

ifeq ($(BACKEND),cupy)
demo: on-cupy
	@$(CUPY_PYTHON) tools/cupy-on-cpu/run.py examples/demo.py --backend cupy
else
demo: $(VENV)/ready
	$(BIN)/python examples/demo.py --backend $(BACKEND)
endif

test: $(VENV)/ready
	$(BIN)/python -m pytest

compare: $(VENV)/ready
	$(BIN)/python examples/compare_gradients.py

# PROVE="--op batch_norm --n 3 4" and the like are passed on.
prove: $(VENV)/ready
	$(BIN)/python examples/prove.py $(PROVE)

# EXPERIMENTS="--only epsilon --seeds 10" and the like are passed on.
experiments: $(VENV)/ready
	$(BIN)/python examples/experiments.py $(EXPERIMENTS)

experiments-quick: $(VENV)/ready
	$(BIN)/python examples/experiments.py --quick --check $(EXPERIMENTS)

lint: $(VENV)/lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Every test on CuPy: on a GPU if the CuPy in .venv has one, otherwise on the CPU.
# PYTEST="--thread-order reverse" and the like are passed on.
test-cupy: on-cupy
	@$(CUPY_PYTHON) tools/cupy-on-cpu/run.py -m pytest --backend cupy $(PYTEST)

# A large download, too.
nvrtc: $(NVRTC_VENV)/ready
	$(NVRTC_VENV)/bin/python tools/compile_kernels.py

# For a bug report, on a GPU: `make .venv/cupy-cuda13x` (or cupy-cuda12x, cupy-rocm) installs CuPy.
test-gpu: $(VENV)/ready
	@$(BIN)/python -c "import sys; p = $(PROBLEM); p and sys.exit('test-gpu needs a GPU: ' + p)"
	$(BIN)/python -m pytest --backend cupy

bench-gpu: $(VENV)/ready
	@$(BIN)/python -m benchmarks.gpu

# Where CuPy runs: in .venv, if it can there, or else on the CPU, in an environment of its own.
on-cupy:
	@if ! $(HAS_GPU); then \
	echo "There is no CuPy in $(VENV) that has a GPU, so it runs on the CPU: to be right, not fast."; \
	$(MAKE) --no-print-directory --silent $(CUPY_VENV)/ready; fi

# PyTorch and JAX as oracles; large downloads.
test-peers: $(VENV)/peers
	$(BIN)/python -m pytest tests/peers

# Speed and memory, compiled and eager, beside PyTorch, JAX, PyTensor, HIPS autograd, MyGrad and NumPy
# by hand; large downloads. BENCH="--quick --nets 2" and the like are passed on.
bench: $(VENV)/bench
	$(BIN)/python -m benchmarks $(BENCH)

$(VENV)/ready: pyproject.toml
	@$(CHECK_PYTHON)
	$(PYTHON) -m venv $(VENV)
	$(PIP) '.[examples,test]'
	touch $@

$(CUPY_VENV)/ready: pyproject.toml
	@$(CHECK_PYTHON)
	@$(PYTHON) tools/cupy-on-cpu/run.py
	$(PYTHON) -m venv $(CUPY_VENV)
	$(subst $(BIN),$(CUPY_VENV)/bin,$(PIP)) '.[examples,test,cupy-on-cpu]'
	touch $@

$(NVRTC_VENV)/ready: pyproject.toml
	@$(CHECK_PYTHON)
	$(PYTHON) -m venv $(NVRTC_VENV)
	$(subst $(BIN),$(NVRTC_VENV)/bin,$(PIP)) '.[nvrtc]'
	touch $@

$(VENV)/lint $(VENV)/peers $(VENV)/bench $(VENV)/cupy-cuda12x $(VENV)/cupy-cuda13x $(VENV)/cupy-rocm: $(VENV)/%: $(VENV)/ready
	$(PIP) '.[$*]'
	touch $@

clean:
	rm -rf $(VENV) $(CUPY_VENV) $(NVRTC_VENV) runs .mypy_cache .pytest_cache .ruff_cache
