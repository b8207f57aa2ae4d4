# One command each; every one does its own set-up in the checkout and none calls sudo.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help demo test test-slow lint bench clean
.DELETE_ON_ERROR:

KEEP ?=
BROKER ?=
TESTS ?= tests
BENCH ?=

# The official onnxruntime builds report their use to their maker unless told not to.
export ORT_DISABLE_TELEMETRY := 1

PY := .venv/bin/python
PINS := pyproject.toml requirements/constraints.txt scripts/setup-env

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "  make demo KEEP=1            leave the demo running afterwards, with commands to try"
	@echo "  make demo BROKER=mqtt://…   use this broker and start no own"
	@echo "  make test TESTS=tests/unit  run a part of the tests; test-slow takes it too"

demo: .venv/.ready-demo ## from a model file to a fleet that compares versions, in under two minutes
	@scripts/fetch-models
	@$(PY) -m examples.demo $(if $(filter-out 0 no,$(KEEP)),--keep) $(if $(BROKER),--broker $(BROKER))

test: .venv/.ready-test ## the tests, with a real broker, real processes and real models
	@scripts/fetch-mosquitto
	@scripts/fetch-test-files
	@scripts/run-tests fast $(TESTS)

test-slow: .venv/.ready-test ## the tests that take longer: every framework, fine-tuning, faults
	@scripts/fetch-mosquitto
	@scripts/fetch-test-files
	@scripts/fetch-perf-analyzer
	@scripts/run-tests slow $(TESTS)

lint: .venv/.ready-test ## formatting, lints, types, import contracts, schemas, systemd units
	@scripts/lint

bench: .venv/.ready-test ## measure latency, memory, start and update times against their targets
	@$(PY) -m benchmarks $(BENCH)

clean: ## remove everything that make made here
	@if [ -e .demo/pids ] && [ -x $(PY) ]; then $(PY) -m examples.demo --stop; fi
	rm -rf .venv .cache .demo build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache \
		.import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.ready-%: requirements/%.txt $(PINS)
	@scripts/setup-env $*
