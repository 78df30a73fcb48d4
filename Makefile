# `make help` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
.DEFAULT_GOAL := help
.PHONY: help quickstart install test lint suite mutants race swaps kills simulate bench clean

# Quoted below, where the shell does not expand it.
folder = $(patsubst ~,$(HOME),$(patsubst ~/%,$(HOME)/%,$(PROJECT)))

help: ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 20

$(BIN)/python:
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "AtlasEngine needs Python 3.11 or newer: make PYTHON=python3.12 …"'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	@echo "Installing AtlasEngine and the libraries that it needs into $(CURDIR)/$(VENV):"
	@echo "PostgreSQL is among them: 25 MB to download, 75 MB on the disk. Nothing outside of that folder changes."
	$(BIN)/python -m pip install --disable-pip-version-check --editable .
	@touch $@

# pip compiles one module after the other, compileall on all processors. A few modules are meant for other versions.
$(VENV)/.installed-test: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --editable '.[test,auth]'
	@$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-bench: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,bench]'
	@touch $@ $(VENV)/.installed

quickstart: $(VENV)/.installed ## install into .venv and run the demo; PROJECT=~/code/app protects that project instead
ifdef PROJECT
	$(BIN)/atlasctl init "$(folder)"
	$(BIN)/atlasctl --project "$(folder)" snapshot
else
	$(BIN)/atlasctl demo
endif
	@echo
	@echo 'atlasctl is $(CURDIR)/$(BIN)/atlasctl; to call it by name in this shell:'
	@echo '  export PATH="$(CURDIR)/$(BIN):$$PATH"'
	@echo 'README.md says where your data is, and how to remove everything.'

install: $(VENV)/.installed-test ## install into .venv what the tests need, and do nothing else

test: $(VENV)/.installed-test lint suite ## lint, types, import contracts and the whole suite

lint: $(VENV)/.installed-test ## ruff, mypy --strict, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

suite: $(VENV)/.installed-test ## the tests alone
	$(BIN)/pytest -n 3 --dist worksteal

mutants: $(VENV)/.installed-test ## break the quota functions in many ways: each is noticed (minutes)
	$(BIN)/pytest -n 4 -m mutants

race: $(VENV)/.installed-test ## quotas against 64 processes, kill -9 and server crashes, for ten minutes
	$(BIN)/python -m benchmarks.race_quotas --minutes 10 --processes 64

swaps: $(VENV)/.installed-test ## as root: another user swaps folders for symlinks, 200 races; nothing outside is touched
	$(BIN)/python -m benchmarks.race_folders --races 200 --seed 1

kills: $(VENV)/.installed-test ## a watcher is killed 1,000 times while files change; nothing that it acknowledged is lost
	$(BIN)/python -m benchmarks.race_kills --kills 1000 --seed 1

simulate: $(VENV)/.installed-test ## the watcher in 5,000 simulated orders of events, kills and faults (minutes); ATLAS_SIM_SEEDS=… for more
	ATLAS_SIM_SEEDS=$${ATLAS_SIM_SEEDS:-5000} $(BIN)/pytest -q tests/watcher/test_simulation.py

bench: $(VENV)/.installed-bench ## us and our peers side by side in one run
	$(BIN)/python -m benchmarks

clean: ## remove the virtual environment and the caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build
