# Two commands do everything on a fresh machine: `make demo` and `make test`.
SHELL := /bin/sh
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# One process a core, at most eight.
PARALLEL := -n logical --maxprocesses 8 --dist worksteal

.PHONY: help setup demo test test-slow fuzz check format lint types layers bench lock schema clean

help:  ## Say what can be made.
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## Make .venv with `fleet` and `edgefleet-agent` in it, exactly as locked.

$(READY): requirements.lock requirements-no-deps.lock pyproject.toml tools/venv.sh
	@echo "setting up $(VENV) (once)"
	@sh tools/venv.sh $(VENV)
	@$(BIN)/python -m pip install --quiet --require-hashes --only-binary :all: -r requirements.lock
	@$(BIN)/python -m pip install --quiet --require-hashes --only-binary :all: --no-deps --ignore-requires-python \
		-r requirements-no-deps.lock
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

demo: setup  ## Bring two real models to this machine and prove them there.
	FLEET_HOME=.fleet $(BIN)/fleet apply manifests/examples/quickstart.yaml
	@echo
	@echo "Next, from this folder:  $(BIN)/fleet status   $(BIN)/fleet evidence   $(BIN)/fleet health"

test: setup  ## Run the whole test suite, but for the large corpora.
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow"

test-slow: setup  ## Run the large corpora: every ONNX node test, a thousand kills.
	$(BIN)/python -m pytest -m slow

fuzz: setup  ## Search for new failing examples of the property tests.
	$(BIN)/python -m pytest $(PARALLEL) --hypothesis-profile=search -m "not e2e and not faults and not slow"

# CI runs `make test check` in one call, so the tests run once.
check: lint types layers test  ## Run format and lint checks, types, layers and tests.

format: setup  ## Rewrite the code in the project's format.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/python tools/sizes.py

types: setup
	$(BIN)/mypy

layers: setup
	$(BIN)/lint-imports

bench: setup  ## Measure; each benchmark prints its figures with n, spread and conditions.
	$(BIN)/python -m bench

lock: setup  ## Choose new versions of all dependencies.
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile pyproject.toml --extra hil --extra compress --extra trt-rtx --group dev --universal --python-version 3.11 --upgrade \
		--generate-hashes --no-emit-index-url --no-annotate --no-header --no-emit-package edgefleet -q -o requirements.lock

schema: setup  ## Write manifests/schema/manifest.schema.json anew.
	$(BIN)/python -m edgefleet_contract.schema > manifests/schema/manifest.schema.json

clean:  ## Remove what was made here.
	rm -rf $(VENV) .fleet .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
