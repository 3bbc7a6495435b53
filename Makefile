# `make` explains itself. Works with GNU make 3.81, as macOS has it.
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help run test smoke lint format typecheck compile serve chat down clean check-pins setup
.PHONY: terraform-test terraform-test-full cluster cluster-images cluster-down test-cluster test-cluster-full

VENV ?= .venv
PYTHON ?=
export VENV PYTHON
BIN := $(VENV)/bin

# What must not break unseen: the verdict, the switch to a new release, and what a run file may say.
GUARDED := components/quality_gate/*,components/rollout/*,components/*/config.py,components/step_config.py,pipelines/run_config.py,serving/release.py
FLOOR := 85

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-19s %s\n", $$1, $$2 }' Makefile
	@echo "  PYTHON=/path/to/python3.11 chooses the interpreter, ARGS='-k gate' passes arguments to pytest"

run: $(VENV)/.ready-run ## Train, judge and serve the laptop model; ends with its address
	@$(BIN)/slipway run laptop

test: $(VENV)/.ready-test ## Run all tests, with coverage.xml and a floor for gate, rollout and schemas
	@SLIPWAY_CLUSTER=off SLIPWAY_TERRAFORM=off $(BIN)/python -m pytest $(if $(ARGS),$(ARGS),-n 2 --dist loadfile --cov --cov-report=xml)
	@$(if $(ARGS),,$(BIN)/coverage report --include='$(GUARDED)' --skip-covered --fail-under=$(FLOOR))

smoke: $(VENV)/.ready-run ## The whole path with a tiny model, in about a minute
	@$(BIN)/slipway run smoke

lint: $(VENV)/.ready-test ## Check style and formatting
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

format: $(VENV)/.ready-test ## Mend style and formatting
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format .

typecheck: $(VENV)/.ready-test ## Check types; strict for schemas, gate and rollout
	@$(BIN)/pyright

compile: $(VENV)/.ready-run ## Compile the pipeline to build/train_and_release.yaml
	@mkdir -p build && $(BIN)/slipway compile laptop --output build/train_and_release.yaml

serve: $(VENV)/.ready-run ## Serve the live release again, after `make down`
	@$(BIN)/slipway serve

chat: $(VENV)/.ready-run ## Talk to the live model in the terminal
	@$(BIN)/slipway chat

down: ## Stop the server
	@if [ -x $(BIN)/slipway ]; then $(BIN)/slipway down; else echo "nothing is installed, so nothing runs"; fi

clean: down cluster-down ## Stop server and cluster, then delete results, releases and build files (.venv stays)
	rm -rf .slipway build coverage.xml .coverage .pytest_cache .ruff_cache *.egg-info
	@find components pipelines serving tests -name __pycache__ -type d -prune -exec rm -rf {} +

cluster: $(VENV)/.ready-test ## A real Kubernetes with KServe and a gateway on this machine (docs/cluster.md)
	@$(BIN)/python -m tests.cluster up && $(BIN)/python -m tests.cluster images serving

cluster-images: $(VENV)/.ready-test ## The steps' image too (6 GB, once for each constraints.txt), for tests of the steps as pods
	@$(BIN)/python -m tests.cluster images

cluster-down: ## Stop that cluster; its programs and images stay in ~/.cache/slipway
	@if [ -e .slipway/cluster/processes.json ]; then $(BIN)/python -m tests.cluster down; else echo "no cluster is up"; fi

test-cluster: $(VENV)/.ready-test ## Tests on that cluster, without those marked `full`
	@SLIPWAY_CLUSTER=required $(BIN)/python -m pytest tests/cluster -m "not full" $(ARGS)

test-cluster-full: $(VENV)/.ready-test ## All tests on that cluster: every fault, every kill, the load
	@SLIPWAY_CLUSTER=required $(BIN)/python -m pytest tests/cluster $(ARGS)

terraform-test: $(VENV)/.ready-test ## Format, validate and test terraform/ with a mock provider; skipped with the reason without terraform
	@$(BIN)/python -m pytest tests/terraform -m "not slow" $(ARGS)

terraform-test-full: $(VENV)/.ready-test ## The same, and each validation switched off in turn
	@$(BIN)/python -m pytest tests/terraform $(ARGS)

check-pins: $(VENV)/.ready-test ## Ask the package index whether every pin has wheels for each platform and Python
	@$(BIN)/python tests/check_pins.py

setup: $(VENV)/.ready-test ## Install everything, developers' tools too

$(VENV)/.ready-run $(VENV)/.ready-test: $(VENV)/.ready-%: pyproject.toml constraints.txt
	@./setup.sh $*
