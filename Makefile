SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help install quickstart test test-all lint

# What a step runs finds the environment's commands first.
with_venv := PATH="$(CURDIR)/.venv/bin:$$PATH"
quick_tests := $(wildcard tests/unit tests/distributed tests/scripts)

help: ## print this list
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

install: ## build .venv, or do nothing if it is up to date
	@bash tools/install.sh

quickstart: install ## prepare, train, translate and score a small corpus
	@$(with_venv) bash train_scripts/quickstart.sh

test: install ## the tests that take minutes (ARGS="-k name" goes to pytest)
	@$(with_venv) pytest -q -m "not slow" $(quick_tests) $(ARGS)

test-all: install ## every test
	@$(with_venv) pytest -q tests $(ARGS)

lint: install ## ruff, mypy, shellcheck
	@$(with_venv) bash tools/lint.sh
