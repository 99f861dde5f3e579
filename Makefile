# Every target sets up what it needs in .venv/; the only requirements are make and Python 3.11 or later.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/sh
MAKEFLAGS += --no-print-directory

BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_ROOT_USER_ACTION := ignore
# The tests start hundreds of processes, each of which would compile all of the checkout.
unexport PYTHONDONTWRITEBYTECODE

# What mypy reads. Scripts in config/ are named one by one: the folder is data, not a package.
TYPED := $(wildcard orchestrator workers tests benchmarks config/*.py)

UV := uv==0.13.9

.PHONY: help setup demo test lint format bench chaos lock clean

help:  ## show this list
	@echo "usage: make TARGET"
	@sed -n 's/^\([a-z]*\):.*  ## \(.*\)/  \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 12

setup: .venv/.ready  ## make .venv/ with everything in it (the targets below do this themselves)

demo: .venv/.ready  ## run the reference flow on text found on this machine, with live progress
	@$(BIN)/celeriac demo

test: .venv/.ready  ## run the unit and integration tests
	@echo "==> pytest: unit and integration tests, four at a time: they wait more than they compute"
	@$(BIN)/pytest -n 4 --dist loadgroup -m "not chaos"

lint: .venv/.ready  ## check rules, formatting and types
	@echo "==> ruff check"
	@$(BIN)/ruff check .
	@echo "==> ruff format --check"
	@$(BIN)/ruff format --check .
	@echo "==> mypy, strict by pyproject.toml"
	@$(BIN)/mypy $(TYPED)

format: .venv/.ready  ## format the code and mend what ruff can mend
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

bench: .venv/.ready  ## measure CPU and latency beside plain Celery
	@$(BIN)/python -m benchmarks
	@$(BIN)/python -m benchmarks waiting
	@$(BIN)/python -m benchmarks guards
	@$(BIN)/python -m benchmarks provider
	@$(BIN)/python -m benchmarks review
	@$(BIN)/python -m benchmarks boards
	@$(BIN)/python -m benchmarks rota
	@$(BIN)/python -m benchmarks talks

chaos: .venv/.ready  ## kill workers and servers on purpose and check that every run ends right
	@echo "==> pytest: chaos tests, and long runs of the state machines"
	@$(BIN)/pytest -m chaos tests/chaos tests/state

lock: .venv/.python  ## resolve requirements.lock again; delete the file first to move every version up
	@set -e; dir=$$(mktemp -d); trap 'rm -rf "$$dir"' EXIT; \
	echo "==> Fetching $(UV) for this one command"; \
	$(BIN)/python -m venv "$$dir"; \
	"$$dir/bin/pip" install -qq "$(UV)"; \
	echo "==> Resolving requirements.lock"; \
	"$$dir/bin/uv" pip compile pyproject.toml --quiet \
	    --universal --python-version 3.11 --generate-hashes --custom-compile-command "make lock" \
	    --extra embedded --extra moderation --extra review --extra rota --extra research --group dev --output-file requirements.lock; \
	echo "    $$(grep -c '^[a-z0-9]' requirements.lock) packages locked"

clean:  ## remove .venv/, caches and build products; run data in .celeriac/ stays
	@rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage htmlcov
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Three stamps, so that a change in one place repeats only what depends on it.
.venv/.python:
	@for name in python3.11 python3 python3.12 python3.13 python3.14 python; do \
	    if "$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then python=$$name; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
	    echo "error: no Python 3.11 or later on PATH; install one (Debian: apt install python3 python3-venv)" >&2; exit 1; \
	fi; \
	if ! "$$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then \
	    echo "error: $$python has no venv module; install it (Debian: apt install python3-venv)" >&2; exit 1; \
	fi; \
	echo "==> Creating .venv with $$("$$python" --version)"; \
	"$$python" -m venv .venv
	@touch $@

.venv/.locked: requirements.lock .venv/.python
	@echo "==> Installing $$(grep -c '^[a-z0-9]' requirements.lock) locked packages into .venv (a minute or so the first time)"
	@$(BIN)/pip install -qq --require-hashes --requirement requirements.lock
	@touch $@

.venv/.ready: pyproject.toml .venv/.locked
	@echo "==> Installing this checkout into .venv"
	@$(BIN)/pip install -qq --no-deps --no-build-isolation --editable .
	@touch $@
