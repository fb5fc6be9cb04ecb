# Every target is a few commands that could be typed. `make run` and `make test` need Python >= 3.11, nothing else.
#
#   make run ARGS="method=conversion seed=1"     make test ARGS="tests/chip -x"     make run PYTHON=python3.12

# The first of these that is new enough makes .venv; PYTHON=... chooses another.
PYTHONS ?= python3 python3.14 python3.13 python3.12 python3.11 python
BIN := .venv/bin
PORT ?= 5000
STORE := $(if $(MLFLOW_TRACKING_URI),$(MLFLOW_TRACKING_URI),sqlite:///$(CURDIR)/mlflow.db)
INSTALLED := .venv/installed

.DEFAULT_GOAL := help
.PHONY: help run table ui test test-all lint format mutants fuzz bench bench-training bench-start table1 clean distclean

help: ## what there is
	@sed -n 's/^\([a-z0-9-]*\):[^#]*## /  make \1\t/p' Makefile | expand -t 20

run: $(INSTALLED) ## set up, then the main job on the embedded data
	$(BIN)/cilspl run $(ARGS)

table: $(INSTALLED) ## results of the tracked runs
	$(BIN)/cilspl table $(ARGS)

ui: $(INSTALLED) ## MLflow's page on the tracked runs; PORT=5000
	@echo "the runs: http://127.0.0.1:$(PORT)/#/experiments?workflowType=machine_learning"
	$(BIN)/mlflow ui --workers 1 --port $(PORT) --backend-store-uri $(STORE)

test: $(INSTALLED) ## the tests; ARGS="tests/chip" for some of them
	$(BIN)/python -m pytest -n 2 $(ARGS)

test-all: $(INSTALLED) ## the tests, the slow ones too
	$(BIN)/python -m pytest -n 2 -m "slow or not slow" $(ARGS)

lint: $(INSTALLED) ## formatting, linting, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(INSTALLED) ## format, and repair what can be repaired
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

mutants: $(INSTALLED) ## seeded defects: each must turn a test red
	$(BIN)/python tests/mutants.py $(ARGS)

fuzz: $(INSTALLED) ## malformed input to every reader; ARGS="--minutes 10 --seed 1 --only nir"
	$(BIN)/python -m tests.fuzz $(ARGS)

bench: $(INSTALLED) ## speed against other simulators
	$(BIN)/python benchmarks/chip/bench.py $(ARGS)

bench-training: $(INSTALLED) ## speed of training, against other libraries where they are installed
	$(BIN)/python benchmarks/training/bench.py $(ARGS)

bench-start: $(INSTALLED) ## seconds to a run's first step, and to a table of 500 runs
	$(BIN)/python benchmarks/start/bench.py $(ARGS)

table1: $(INSTALLED) ## the paper's first table
	$(BIN)/python experiments/table1/run.py $(ARGS)

clean: ## remove what tools leave behind; runs, mlflow.db and .venv stay
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find cil_spl cli conf tests -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## remove .venv as well
	rm -rf .venv

# Installs once, and again when one of the two files has changed.
$(INSTALLED): pyproject.toml constraints.txt
	@[ -x $(BIN)/python ] || { $(MAKE_VENV); }
	$(BIN)/python -m pip install --quiet --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

# Without ensurepip (some systems package it apart) the pip of the system fills the new environment.
define MAKE_VENV
found=; for python in $(or $(PYTHON),$(PYTHONS)); do \
  $$python -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { found=$$python; break; }; done; \
[ -n "$$found" ] || { echo "cilspl needs Python 3.11 or newer with its venv module; none among: $(or $(PYTHON),$(PYTHONS))." \
  "Choose one with: make PYTHON=/path/to/python3" >&2; exit 1; }; \
echo "making .venv with $$found ($$($$found --version)), then installing: about two minutes and 2 GB, once"; \
$$found -m venv .venv >/dev/null 2>&1 \
  || { rm -rf .venv; $$found -m venv --without-pip .venv && $$found -m pip --python .venv/bin/python install --quiet pip; } \
  || { rm -rf .venv; echo "$$found can make no environment with pip: install its ensurepip or pip" \
       "(Debian and Ubuntu: python3-venv), or choose another with: make PYTHON=/path/to/python3" >&2; exit 1; }
endef
