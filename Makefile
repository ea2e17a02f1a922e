# make demo    set up, and train an MLP on real digits with and without batch norm
# make test    set up, and run the tests
# make test-cupy    the same on CuPy, with a GPU or without
PYTHON ?= python3
BACKEND ?= numpy
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable
CUPY_VENV := .venv-cupy
CHECK_PYTHON := $(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("tinybn needs \
Python 3.11 or newer, this is " + sys.version.split()[0] + ": run make PYTHON=/path/to/another")'

.PHONY: demo test test-cupy lint test-peers clean

demo: $(VENV)/ready
	$(BIN)/python examples/demo.py --backend $(BACKEND)

test: $(VENV)/ready
	$(BIN)/python -m pytest

lint: $(VENV)/lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Every test on CuPy: on the GPU that the CuPy in .venv has, if there is one, otherwise on the CPU, in
# an environment of its own (tools/cupy-on-cpu).
test-cupy:
	@if $(BIN)/python -c "from tinybn import backend; backend.module('cupy')" 2>/dev/null; \
	then set -x; $(BIN)/python -m pytest --backend cupy; \
	else $(MAKE) --no-print-directory $(CUPY_VENV)/ready && set -x && \
	$(CUPY_VENV)/bin/python -m pytest --backend cupy; fi

# PyTorch and JAX as oracles; large downloads.
test-peers: $(VENV)/peers
	$(BIN)/python -m pytest tests/peers

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

$(VENV)/lint $(VENV)/peers: $(VENV)/%: $(VENV)/ready
	$(PIP) '.[$*]'
	touch $@

clean:
	rm -rf $(VENV) $(CUPY_VENV) runs .mypy_cache .pytest_cache .ruff_cache
