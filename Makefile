# Everything runs from a virtual environment in .venv, made on first use and brought up to
# date when pyproject.toml changes. Needs make and Python 3.10 or newer; nothing else.

PORT ?= 8000
ENGINE ?= posix
WORKERS ?= 2
JOBS ?= 4

VENV := .venv
READY := $(VENV)/.ready
BIN := $(VENV)/bin

# The first Python that works: there, new enough, able to make virtual environments.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.10 python3; do \
	$$p -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 10))' \
	2>/dev/null && echo $$p && break; done)

# A checkout that was moved needs its environment made anew.
ifneq ($(shell cat $(READY) 2>/dev/null),$(CURDIR))
$(shell rm -f $(READY))
endif

.PHONY: help run test lint format setup clean

help:
	@echo "make run     the chat example on http://127.0.0.1:$(PORT) (PORT, ENGINE, WORKERS)"
	@echo "make test    lint, types and all tests (JOBS processes)"
	@echo "make lint    lint and types only"
	@echo "make format  put the code into the one format"
	@echo "make clean   remove everything that was made"

run: $(READY)
	@PORT='$(PORT)' ENGINE='$(ENGINE)' WORKERS='$(WORKERS)' exec $(BIN)/python examples/chat/run.py

test: lint
	@$(BIN)/python -m pytest -n $(JOBS) -q $(ARGS)

lint: $(READY)
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet . || { echo "Not in the one format: make format"; exit 1; }
	@$(BIN)/mypy --strict

format: $(READY)
	@$(BIN)/ruff check --quiet --fix . || true
	@$(BIN)/ruff format --quiet .

setup: $(READY)

$(READY): pyproject.toml Makefile
	@test -n "$(PYTHON)" || { echo "No usable Python 3.10 or newer with venv was found." \
		"On Debian and Ubuntu: apt install python3 python3-venv. Or name one:" \
		"make PYTHON=/path/to/python3.11"; exit 1; }
	@echo "Setting up $(VENV) with $(PYTHON) (about half a minute) ..."
	@test -x $(BIN)/python && $(BIN)/python -c '' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@echo "$(CURDIR)" > $@

clean:
	@rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
