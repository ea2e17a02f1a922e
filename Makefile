# make demo           set up, and train an MLP on real digits with and without batch norm
# make test           set up, and run the tests
# make compare        every fused op against its composition, in higher precision, number by number
# make experiments    every claim about batch norm, measured: writes EXPERIMENTS.md (half an hour)
# make bench          tinybn beside PyTorch, JAX and others, and beside a step by hand in NumPy
PYTHON ?= python3
BACKEND ?= numpy
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable

.PHONY: demo test compare experiments experiments-quick bench lint test-peers clean

demo: $(VENV)/ready
	$(BIN)/python examples/demo.py --backend $(BACKEND)

test: $(VENV)/ready
	$(BIN)/python -m pytest

compare: $(VENV)/ready
	$(BIN)/python examples/compare_gradients.py

# EXPERIMENTS="--only epsilon --seeds 10" and the like are passed on.
experiments: $(VENV)/ready
	$(BIN)/python examples/experiments.py $(EXPERIMENTS)

experiments-quick: $(VENV)/ready
	$(BIN)/python examples/experiments.py --quick --check $(EXPERIMENTS)

lint: $(VENV)/lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# PyTorch and JAX as oracles; large downloads.
test-peers: $(VENV)/peers
	$(BIN)/python -m pytest tests/peers

# Speed and memory beside PyTorch, JAX, HIPS autograd, MyGrad and NumPy by hand; large downloads.
bench: $(VENV)/bench
	$(BIN)/python -m benchmarks $(BENCH)

$(VENV)/ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("tinybn needs Python 3.11 \
	or newer, this is " + sys.version.split()[0] + ": run make PYTHON=/path/to/another")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) '.[examples,test]'
	touch $@

$(VENV)/lint $(VENV)/peers $(VENV)/bench: $(VENV)/%: $(VENV)/ready
	$(PIP) '.[$*]'
	touch $@

clean:
	rm -rf $(VENV) runs .mypy_cache .pytest_cache .ruff_cache
