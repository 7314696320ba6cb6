# `make demo` and `make test` need only Python >= 3.11 and make: they create .venv, install once, and run.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT ?= runs/demo
PYTEST_ARGS ?=
PIP_ARGS ?=

.PHONY: help demo test check format model clean

help:
	@echo "make demo    install, then run the main job into $(OUT)"
	@echo "make test    install, then run the tests"
	@echo "make check   formatting, lint, types"
	@echo "make format  format the code and mend what the linter can"
	@echo "make model   build the embedded model anew (about 20 minutes)"

demo: $(VENV)/.installed
	$(BIN)/steer demo --out $(OUT) --overwrite

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 --dist loadfile $(PYTEST_ARGS)

check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

model: $(VENV)/.installed
	$(BIN)/python -m experiments.embedded_model.build

# torch first, in the tested version: what follows then has no reason to bring another
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) --constraint constraints.txt --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache
