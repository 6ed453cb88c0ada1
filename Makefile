SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help install quickstart test test-all test-faults test-slurm test-gpu bench lint

# What a step runs finds the environment's commands first.
with_venv := PATH="$(CURDIR)/.venv/bin:$$PATH"
# What takes longest comes first, so that no process is left with it alone.
quick_tests := $(wildcard tests/faults tests/scripts tests/distributed tests/unit)
# One after the other, tests wait more than they work; a file's tests stay together.
in_parallel := -n 2 --dist loadfile --no-loadscope-reorder

help: ## print this list
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

install: ## build .venv, or do nothing if it is up to date
	@bash tools/install.sh

quickstart: install ## prepare, train, translate and score a small corpus
	@$(with_venv) bash train_scripts/quickstart.sh

test: install ## the tests that take minutes (ARGS="-k name" goes to pytest)
	@$(with_venv) pytest -q $(in_parallel) -m "not slow" $(quick_tests) $(ARGS)

test-all: install ## every test
	@$(with_venv) pytest -q tests $(ARGS)

test-faults: install ## what may go wrong: damaged files, wrong input, killed runs; the slow ones too
	@$(with_venv) pytest -q tests/faults $(ARGS)

slurm_packages := slurmctld slurmd slurm-client munge slurm-wlm-basic-plugins
test-slurm: install ## the tests on a real Slurm, installed with apt-get where it is missing
	@{ command -v slurmctld && command -v slurmd && command -v munged; } >/dev/null || \
	  apt-get install -y --no-install-recommends $(slurm_packages)
	@$(with_venv) pytest -q tests/slurm $(ARGS)

bench: install ## what this machine can measure, in about half an hour
	@$(with_venv) bash benchmarks/cpu.sh $(ARGS)

test-gpu: install ## the tests on one GPU
	@$(with_venv) pytest -q tests/gpu $(ARGS)

lint: install ## ruff, mypy, shellcheck
	@$(with_venv) bash tools/lint.sh
