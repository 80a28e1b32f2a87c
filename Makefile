# The two commands that matter are `make dev` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TEST_STAMP := $(VENV)/.installed-test
PIP := $(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --no-input

.PHONY: dev test lint lock lab lab-down clean help

help:
	@echo 'make dev    set up, build a release, deploy it on this machine, and prove that it works'
	@echo 'make test   everything that can be tested (the smoke test against real faults included)'
	@echo 'make lint   formatting, lint and types only'
	@echo 'make lab    boot throwaway hosts to deploy to (as root); make lab-down removes them'
	@echo 'make lock   pin the newest versions that pyproject.toml allows, with hashes'

dev: $(STAMP)
	@$(BIN)/opskit deploy dev

test: $(TEST_STAMP)
	@tests/install
	tests/run

lint: $(TEST_STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

lab: $(STAMP)
	@tests/install
	@$(BIN)/python -m tests.hosts.lab_for_people up .opskit/lab

lab-down:
	@$(BIN)/python -m tests.hosts.lab_for_people down .opskit/lab

# What the environment was made for. A checkout that was moved, and one whose Python was
# upgraded under it, gets a new one; so does one that was left half-made.
MADE := $(VENV)/.made
HERE := $(CURDIR) $(shell $(BIN)/python --version 2>/dev/null)
ifneq ($(shell cat $(MADE) 2>/dev/null),$(HERE))
.PHONY: $(MADE)
endif

$(MADE):
	@opskit/make-venv $(PYTHON) $(VENV)
	@echo "$(CURDIR) $$($(BIN)/python --version)" > $@

$(STAMP): $(MADE) pyproject.toml opskit/requirements.txt
	@echo 'installing opskit and what it needs, pinned, into $(VENV)'
	@$(PIP) --require-hashes -r opskit/requirements.txt
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

$(TEST_STAMP): $(STAMP) tests/requirements.txt
	@echo 'installing what the tests need, pinned, into $(VENV)'
	@$(PIP) --require-hashes -r tests/requirements.txt
	@touch $@

# Universal resolution: one file for every Python and platform, hashes and no addresses.
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-header --no-annotate --no-emit-index-url --no-emit-find-links --upgrade
lock: $(STAMP)
	$(COMPILE) pyproject.toml --group chatservice --group test --group build -o tests/requirements.txt
	$(COMPILE) pyproject.toml --group chatservice --group build -c tests/requirements.txt -o opskit/requirements.txt
	$(COMPILE) --group chatservice -c tests/requirements.txt -o chatservice/requirements.txt

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
