# `make` explains itself. Works with GNU make 3.81, as macOS has it.
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help run test smoke lint format typecheck compile serve chat down clean check-pins setup
.PHONY: tools lock pin images sbom images-test
.PHONY: pre-commit workflows-test pin-actions job-settings runner-room submit-setup retrain-check retrain preview
.PHONY: release-export release-smoke release-scan release-push release-sign release-submit
.PHONY: preview-push preview-deploy preview-wait preview-destroy preview-sweep
.PHONY: infrastructure-plan infrastructure-comment infrastructure-apply
.PHONY: terraform-tools terraform-lock graph rights settings
.PHONY: manifests-test platform platform-plan
.PHONY: monitoring-test terraform-test terraform-test-full cluster cluster-images cluster-down test-cluster test-cluster-full

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
	@SLIPWAY_CLUSTER=off SLIPWAY_TERRAFORM=off SLIPWAY_WORKFLOWS=off SLIPWAY_IMAGES=off $(BIN)/python -m pytest $(if $(ARGS),$(ARGS),-n 2 --dist loadfile --cov --cov-report=xml)
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
	@find components pipelines serving ci images manifests terraform tests -name __pycache__ -type d -prune -exec rm -rf {} +

cluster: $(VENV)/.ready-test ## A real Kubernetes with KServe and a gateway on this machine (docs/cluster.md)
	@$(BIN)/python -m tests.cluster up && $(BIN)/python -m tests.cluster images serving

cluster-images: $(VENV)/.ready-test ## The steps' image too (6 GB, once for each constraints.txt), for tests of the steps as pods
	@$(BIN)/python -m tests.cluster images

cluster-down: ## Stop that cluster; its programs and images stay in ~/.cache/slipway
	@if [ -e .slipway/cluster/processes.json ]; then $(BIN)/python -m tests.cluster down; else echo "no cluster is up"; fi

test-cluster: $(VENV)/.ready-test ## Tests on that cluster, without those marked `full`
	@SLIPWAY_CLUSTER=required $(BIN)/python -m pytest tests/cluster -m "not full" $(ARGS)

test-cluster-full: $(VENV)/.ready-test ## All tests on that cluster: every fault, every kill, the load
	@SLIPWAY_CLUSTER=required SLIPWAY_LOAD=$${SLIPWAY_LOAD:-10000} $(BIN)/python -m pytest tests/cluster $(ARGS)

terraform-tools: $(VENV)/.ready-test ## Build tflint with Google's rules (Go, minutes, once) and install checkov, for terraform-test
	@cd tests/terraform/modules && CGO_ENABLED=0 go build -mod=readonly -buildvcs=false -trimpath -ldflags='-s -w' -o ../../../.tools/terraform/ tool
	@$(BIN)/python -m images.tools checkov

monitoring-test: $(VENV)/.ready-test ## Check metrics, rules, alerts and dashboards; builds promtool the first time (Go)
	@$(BIN)/python -m tests.monitoring.promtool && $(BIN)/python -m tests.manifests.schemas
	@SLIPWAY_MONITORING=required $(BIN)/python -m pytest tests/monitoring $(ARGS)

terraform-test: $(VENV)/.ready-test ## Format, validate and test terraform/ with a mock provider; skipped with the reason without terraform
	@$(BIN)/python -m pytest tests/terraform -m "not slow" $(ARGS)

terraform-test-full: $(VENV)/.ready-test ## The same, and each validation switched off in turn
	@$(BIN)/python -m pytest tests/terraform $(ARGS)

tools: ## Install programs that checks use (.ci/tools.txt) into .tools/; TOOLS="syft uv" names some
	@$(or $(wildcard $(BIN)/python),$(PYTHON),python3) -m images.tools $(TOOLS)

lock: $(VENV)/.ready-test ## Write what images and tools install, each file by its hash, after a change of versions
	@$(BIN)/python -m images.tools uv && $(BIN)/python -m images lock

pin: $(VENV)/.ready-test ## Look up the digests of images.lock and manifests/upstream.lock, where the registries can be reached
	@$(BIN)/python -m images pin; images=$$?; $(BIN)/python -m manifests.installer pin && exit $$images

images: $(VENV)/.ready-test ## Build and look into the images: IMAGES="serving components", PINNED=1; IMAGES=release RELEASE=DIRECTORY
	@$(BIN)/python -m images build $(IMAGES) $(if $(PINNED),--pinned) $(if $(RELEASE),--release $(RELEASE))

sbom: $(VENV)/.ready-test ## Say what is in the images that were built, as CycloneDX in build/sbom/
	@$(BIN)/python -m images sbom $(IMAGES)

images-test: $(VENV)/.ready-test ## Test Dockerfiles, locks and what was built; what is missing is skipped with the reason
	@$(BIN)/python -m pytest tests/images tests/test_dockerfiles.py $(ARGS)

platform-plan: $(VENV)/.ready-test ## ENV=dev: what `make platform` would do, and what would change in the cluster; PART=kserve
	@$(BIN)/python -m manifests.installer plan --environment "$(ENV)" $(if $(PART),--part $(PART)) $(ARGS)

platform: $(VENV)/.ready-test ## ENV=dev: apply manifests/upstream.yaml in its order, and wait for each part; PART=kserve
	@$(BIN)/python -m manifests.installer apply --environment "$(ENV)" $(if $(PART),--part $(PART)) $(ARGS)

manifests-test: $(VENV)/.ready-test ## Render manifests/ for every cluster; check each object by its schema (Go fetches them) and the rules
	@$(BIN)/python -m tests.manifests.schemas
	@$(BIN)/python -m manifests.installer helm && $(BIN)/python -m manifests.installer fetch --modules
	@SLIPWAY_MANIFESTS=required SLIPWAY_PLATFORM=required $(BIN)/python -m pytest tests/manifests tests/platform $(ARGS)

rights: $(VENV)/.ready-test ## Write docs/rights.md from manifests and Terraform (needs terraform), after a change of who may do what
	@$(BIN)/python manifests/rights.py && $(BIN)/python -m terraform.rights

settings: $(VENV)/.ready-test ## Write docs/run-file.md from the schemas, after a change of what a run file may say
	@$(BIN)/python -m pipelines.run_file_reference

graph: $(VENV)/.ready-test ## Draw the pictures of terraform/README.md from the code (needs terraform)
	@$(BIN)/python -m terraform.pictures

terraform-lock: ## Write each root's .terraform.lock.hcl, where the Terraform registry can be reached
	@for root in github gke cloudrun; do terraform -chdir=terraform/environments/$$root get && \
	  terraform -chdir=terraform/environments/$$root providers lock -platform=linux_amd64 -platform=linux_arm64 -platform=darwin_arm64 -platform=darwin_amd64 || exit; done

check-pins: $(VENV)/.ready-test ## Ask the package index whether every pin has wheels for each platform and Python
	@$(BIN)/python tests/check_pins.py

# What .github/workflows call (its README.md says which variables each one reads). JOB_PYTHON needs no package; what
# submits has a small environment of its own, without torch.
JOB_PYTHON = $(if $(PYTHON),$(PYTHON),python3)
SUBMIT_VENV := .venv-submit

pre-commit: $(VENV)/.ready-test ## Run the hooks of .pre-commit-config.yaml over every file
	@$(BIN)/pre-commit run --all-files

workflows-test: $(VENV)/.ready-test ## Test the workflows and what they call; actionlint and zizmor where they are
	@$(BIN)/python -m pytest tests/workflows $(ARGS)

pin-actions: ## Look up the commits of the workflows' actions; ARGS=--newest moves on, ARGS=--offline compares
	@$(JOB_PYTHON) -m ci.pins $(ARGS)

job-settings: ## In a workflow: who the job signs in as
	@$(JOB_PYTHON) -m ci.job settings

runner-room: ## In a workflow: delete what a runner of GitHub's brings along and nobody here uses
	@$(JOB_PYTHON) -m ci.room

release-export: ## Write the built images to build/layout, each with its digest; IMAGES=serving chooses
	@$(JOB_PYTHON) -m ci.release export $(IMAGES)

release-smoke: ## Train, evaluate, gate and serve a tiny model inside the image just built
release-scan: ## Look through the images before any registry has them
release-push: ## Push what was tried and scanned, under its commit
release-sign: ## Sign the pushed images without a key, attach their SBOMs, verify both
release-smoke release-scan release-push release-sign:
	@$(JOB_PYTHON) -m ci.release $(@:release-%=%)

submit-setup: $(SUBMIT_VENV)/.ready ## Install what submits pipelines, without what trains

release-submit: $(SUBMIT_VENV)/.ready ## Compile with the pushed images, then start the run or set the schedule
	@$(SUBMIT_VENV)/bin/python -m ci.submit release

retrain-check: $(SUBMIT_VENV)/.ready ## Check a wish for a retraining by the run file's schema
	@$(SUBMIT_VENV)/bin/python -m ci.payload

retrain: $(SUBMIT_VENV)/.ready ## Start it, with images and code of the cluster's release
	@$(SUBMIT_VENV)/bin/python -m ci.submit retrain

preview: ## Make, try and announce a preview, wait ten minutes, destroy it
	@$(JOB_PYTHON) -m ci.preview run

preview-push: ## Push the server's image to the repository of previews
preview-deploy: ## Make the preview and try it; it is destroyed again when it does not answer
preview-wait: ## Wait ten minutes, or for the label that ends it
preview-destroy: ## Destroy the preview, and look whether it is gone
preview-sweep: ## Destroy previews that outlived their job
# on GKE it brings a model along, which is trained here
preview preview-deploy: $(if $(filter gke,$(TARGET)),$(VENV)/.ready-run)
preview-push preview-deploy preview-wait preview-destroy preview-sweep:
	@$(JOB_PYTHON) -m ci.preview $(@:preview-%=%)

infrastructure-plan: ## Plan the environment ENV, as Markdown too
infrastructure-comment: ## Write the plan to the pull request
infrastructure-apply: ## Apply that very plan
infrastructure-plan infrastructure-comment infrastructure-apply:
	@$(JOB_PYTHON) -m ci.infrastructure $(@:infrastructure-%=%)

$(SUBMIT_VENV)/.ready: pyproject.toml constraints.txt
	@$(JOB_PYTHON) -m venv $(SUBMIT_VENV)
	@$(SUBMIT_VENV)/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[pipelines]"
	@touch $@

setup: $(VENV)/.ready-test ## Install everything, developers' tools too

$(VENV)/.ready-run $(VENV)/.ready-test: $(VENV)/.ready-%: pyproject.toml constraints.txt
	@./setup.sh $*
