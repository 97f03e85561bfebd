# make run: set up and show it all. make test: set up and test. Everything lives in .venv.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
# Of `make warm-start`: tiny-clip or tiny-vit-bert.
BACKBONE ?= tiny-clip
# Of `make gpu-check`: a GPU machine may have its own packages, without Ray and MLflow.
GPU_PYTHON ?= $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON))

.PHONY: setup run test test-slow lint types bench gpu-check docs docs-site warm-start clean

setup: .venv/.complete

.venv/.complete: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing the pinned packages into .venv (about 3 minutes and 6 GB the first time) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[cpu,export,test,docs]'
	@touch $@

run: setup
	$(BIN)/python runner/lifelong.py run --preset demo

# Two processes; all that uses Ray is in one of them (tests/conftest.py).
test: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-slow: setup
	$(BIN)/python -m pytest -m "slow and not gpu"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: setup
	$(BIN)/basedpyright

bench: setup
	$(BIN)/python -m runner.bench

gpu-check:
	$(GPU_PYTHON) -m runner.tools.gpu_check

docs: setup
	$(BIN)/python -m runner.tools.generate_docs

docs-site: setup
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs build/site
	@echo "Open build/site/index.html"

warm-start: setup
	$(BIN)/python -m runner.tools.train_tiny_backbones --backbone $(BACKBONE)

clean:
	rm -rf .venv build *.egg-info
