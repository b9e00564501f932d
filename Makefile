# Two commands are enough: `make demo` and `make test`. Each sets up what it needs in .venv and says so.
# A set-up is done again only when pyproject.toml is newer than its stamp.

.DEFAULT_GOAL := help
.PHONY: help demo test lint verify outside simulate faults clean
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

PYTHON ?= python3
# By exact version: a plain `torch` takes the build for graphics cards, gigabytes that nothing here needs.
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
PYTEST_ARGS ?=
# Most tests wait for processes: two at a time take half as long. A file's tests stay together, for what they share.
WORKERS ?= 2
# Of every fault; on two cores a hundred take three quarters of an hour.
ROUNDS ?= 100
INSTALL = $(BIN)/python -m pip install --disable-pip-version-check --progress-bar off
# Of pip's many lines, those that show that it moves.
SHOW = { grep -E --line-buffered '^ *(Downloading|Building|Installing|Successfully)' || true; } | cut -c -140 | sed -u 's/^ */    /'

help:  ## This list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | while IFS=$$'\t' read -r name text; do printf 'make %-8s %s\n' "$$name" "$$text"; done

demo: $(VENV)/.demo  ## The whole story on real images, in under two minutes (KEEP=1 leaves it running)
	@$(BIN)/snowgate demo $(if $(KEEP),--keep)

test: $(VENV)/.test  ## All tests (PYTEST_ARGS="-k deploy" for some)
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(PYTEST_ARGS)

lint: $(VENV)/.lint  ## ruff (rules and format) and mypy, strict
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

verify: lint $(VENV)/.kserve test outside simulate faults  ## Everything: lint, tests, simulations, faults (an hour and more)

outside: $(VENV)/.test  ## Bundles with environments of their own: downloads a gigabyte, needs Python 3.10
	@$(BIN)/python -m pytest -m outside $(PYTEST_ARGS)

faults: $(VENV)/.test  ## The log under real faults, ROUNDS=100 of each (PYTEST_ARGS="-k power" for some)
	@ROUNDS=$(ROUNDS) $(BIN)/python -m pytest tests/faults --timeout 3600 $(PYTEST_ARGS)

simulate: $(VENV)/.demo  ## How often and how soon the monitors page: simulated shifts, and snow on real images
	@$(BIN)/python load_tests/drift.py
	@home=$$(mktemp -d) && $(BIN)/snowgate demo --home $$home/demo && \
	  $(BIN)/python load_tests/snow.py --home $$home/demo; status=$$?; rm -rf $$home; exit $$status

clean:  ## Remove the virtual environment and the tools' caches
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Snowgate needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "==> making a virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "Python could not make a virtual environment. On Debian and Ubuntu: apt-get install python3-venv"; exit 1; }

$(VENV)/.torch: pyproject.toml | $(BIN)/python
	@echo "==> installing $(TORCH) (about 200 MB, the largest part)"
	@$(INSTALL) "$(TORCH)" | $(SHOW)
	@touch $@

$(VENV)/.demo: $(VENV)/.torch
	@echo "==> installing snowgate with what the demo needs"
	@$(INSTALL) -e '.[demo]' | $(SHOW)
	@touch $@

$(VENV)/.test: $(VENV)/.torch
	@echo "==> installing snowgate with what the tests need"
	@$(INSTALL) -e '.[demo,test]' | $(SHOW)
	@touch $@ $(VENV)/.demo

# KServe's client pins much of what we use too. Where it can't be installed its test says that it was not run.
$(VENV)/.kserve: pyproject.toml | $(BIN)/python
	@echo "==> installing kserve's client in an environment of its own"
	@$(PYTHON) -m venv $(VENV)/kserve && $(VENV)/kserve/bin/python -m pip install --disable-pip-version-check \
	  --progress-bar off kserve | $(SHOW) || { rm -rf $(VENV)/kserve; echo "kserve can't be installed: its test is not run"; }
	@touch $@

$(VENV)/.lint: $(VENV)/.torch
	@echo "==> installing snowgate with what the linters need"
	@$(INSTALL) -e '.[demo,test,dev]' | $(SHOW)
	@touch $@ $(VENV)/.test $(VENV)/.demo
