# Everything runs from one virtual environment, .venv, which is brought up to date only when its inputs change.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.up-to-date
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all check bench docs

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP)  ## Make or update the environment (the only step that uses the network)

demo: $(STAMP)  ## Train the tiny CM3Leon on this machine and write a report
	$(BIN)/plait train cm3leon/tiny/pretrain --out runs/demo

test: $(STAMP)  ## Run the fast tests
	$(PYTEST) -m "not slow"

test-all: $(STAMP)  ## Run every test, also the slow ones
	$(PYTEST)

check: $(STAMP)  ## Format, lint, types, import directions, and what the documents say
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q tests/test_repository.py

bench: $(STAMP)  ## Run the benchmarks that need no data; each writes benchmarks/results/*.json
	$(BIN)/python benchmarks/workers.py
	$(BIN)/python benchmarks/ranks.py
	$(BIN)/python benchmarks/kills.py
	$(BIN)/python benchmarks/memory_search.py
	$(BIN)/python benchmarks/shapes.py
	$(BIN)/python benchmarks/step.py
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[bench]"
	$(BIN)/python benchmarks/decoding.py
	$(BIN)/python benchmarks/reading.py
	$(BIN)/python benchmarks/tokenising.py
	$(BIN)/python benchmarks/demo.py

docs: $(STAMP)  ## Write the generated tables of the documents again
	@set -e; for script in $(wildcard tools/docs_*.py); do echo "$$script"; $(BIN)/python "$$script"; done

# uv reads no pip configuration, so what pip would search, and pip's way to search it, are handed on to it.
$(STAMP): pyproject.toml constraints.txt
	@set -e; if command -v uv >/dev/null; then \
	    echo "Installing into $(VENV) with uv"; \
	    pip_setting() { $(PYTHON) -m pip config get ":env:.$$1" 2>/dev/null || $(PYTHON) -m pip config get "global.$$1" 2>/dev/null || true; }; \
	    test -x $(BIN)/python || uv venv --quiet --python "$(PYTHON)" $(VENV); \
	    UV_FIND_LINKS="$${UV_FIND_LINKS:-$$(pip_setting find-links | xargs | tr ' ' ',')}" \
	    UV_EXTRA_INDEX_URL="$${UV_EXTRA_INDEX_URL:-$$(pip_setting extra-index-url | xargs)}" \
	    UV_INDEX_STRATEGY="$${UV_INDEX_STRATEGY:-unsafe-best-match}" \
	    uv pip install --quiet --python $(BIN)/python -c constraints.txt -e ".[dev]"; \
	else \
	    echo "Installing into $(VENV) with pip: some minutes the first time"; \
	    test -x $(BIN)/python || $(PYTHON) -m venv $(VENV); \
	    $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"; \
	fi
	@touch $@
	@echo "$(VENV) is up to date"
