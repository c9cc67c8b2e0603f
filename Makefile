# `make bench` on a bare machine needs python3 and make; all it makes is in .venv and results.
PYTHON ?= python3
ARGS ?=
WORKERS ?= 2
PATHS = bench models kernels tests requirements

.DEFAULT_GOAL := help
.PHONY: help bench test campaign peers micro micro-compare kernels profile lint types wheel pins setup setup-dev setup-peers python clean-env

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile
	@echo 'variables:  ARGS="..." for the command, WORKERS=2 test processes, PYTHON=/path/to/python3 for the set-up'

bench: setup ## measure the digits suite and write its report; again: go on where it stopped
	@.venv/bin/noisebench run digits $(ARGS)

test: setup-dev ## run the tests
	@.venv/bin/python -m pytest -n $(WORKERS) --dist loadfile $(ARGS)

campaign: setup-dev ## run the long forms of the tests
	@.venv/bin/python -m pytest -m campaign $(ARGS)

kernels: setup-dev ## check the machine code of every kernel; with a GPU also their times and errors
	@.venv/bin/python -m pytest -n $(WORKERS) -m 'campaign or not campaign' tests/kernels
	@if [ -e /dev/nvidiactl ]; then .venv/bin/noisebench kernels reference $(ARGS); fi

profile: setup ## examine the kernels; ARGS="'prepare d64' --card h100"
	@.venv/bin/noisebench kernels profile $(ARGS)

peers: setup-peers ## compare with other people's packages: agreement and speed, side by side
	@for kind in samplers frechet likelihood flows pipelines; do .venv/bin/noisebench peers $$kind $(ARGS) || exit 1; done

micro: setup-dev ## time the processor's hot paths and keep the result under the commit's name
	@.venv/bin/python -m pytest tests/benchmarks -m campaign --benchmark-only --benchmark-storage=.benchmarks \
	  --benchmark-save=$$(git describe --always --dirty) $(ARGS)

micro-compare: setup-dev ## the two latest of these side by side
	@.venv/bin/python tests/benchmarks/compare.py $(ARGS)

lint: setup-dev ## check style and format
	@.venv/bin/ruff check $(PATHS)
	@.venv/bin/ruff format --check $(PATHS)

types: setup-dev ## check types
	@.venv/bin/mypy $(ARGS)

wheel: setup-dev ## build dist/*.whl
	@rm -rf build dist/*.whl
	@.venv/bin/python -m build --wheel --no-isolation $(ARGS)

pins: ## resolve requirements/pins.txt again (needs uv; ARGS=--upgrade for the newest)
	@command -v uv >/dev/null || { echo 'make pins needs uv on PATH: python3 -m pip install uv'; exit 1; }
	@uv pip compile --quiet --universal --python-version 3.11 --all-extras --no-emit-index-url --no-header \
	  --no-annotate $(ARGS) --output-file requirements/pins.txt pyproject.toml

clean-env: ## remove .venv
	@rm -rf .venv

# Done in a moment when .venv is already what is wanted.
setup: python
	@$(PYTHON) requirements/install.py

setup-dev: python
	@$(PYTHON) requirements/install.py --extra dev

setup-peers: python
	@$(PYTHON) requirements/install.py --extra peers

python:
	@command -v $(PYTHON) >/dev/null || { \
	  echo 'noisebench needs Python 3.11 or newer and there is no $(PYTHON): run make PYTHON=/path/to/python3.11'; \
	  exit 1; }
