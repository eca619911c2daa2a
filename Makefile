# `make help` lists the targets. Every target makes its own environment first; nothing needs to be installed by hand
# beyond Python 3.11 or 3.12, git and make.

SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?= $(shell for p in python3.11 python3.12 python3; do command -v $$p >/dev/null && $$p -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && { echo $$p; break; }; done)
# onnxruntime and onnxruntime-gpu break each other, so the machine picks one.
RUNTIME := $(shell nvidia-smi -L >/dev/null 2>&1 && echo gpu || echo cpu)
EXTRAS ?= $(RUNTIME),hf,cluster,render,test,dev
HASH := $(shell { cat requirements/lock.txt; sed -n "/^dependencies/,/^.project.scripts/p" pyproject.toml; } | sha256sum | cut -c1-12)-$(RUNTIME)
TRITON_HASH := $(shell sha256sum requirements/triton.txt | cut -c1-12)
ENV := .venv/ready-$(HASH)
TRITON_ENV := .venv-triton/ready-$(TRITON_HASH)
BIN := .venv/bin
WORKERS ?= 2

.PHONY: help
help: ## Show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F'\t' '{printf "  make %-16s %s\n", $$1, $$2}'

.PHONY: env
env: $(ENV) $(TRITON_ENV) ## Make the two environments (.venv, .venv-triton), or reuse them

$(ENV): requirements/lock.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or 3.12 with venv was found. On Debian: apt-get install python3 python3-venv. Or name one: make PYTHON=/path/to/python3.12" >&2; exit 2; }
	@test -e $(ENV) && touch $(ENV) || { \
	  echo "Installing the locked dependencies into .venv (about 8 GB, 2 to 5 minutes) …" >&2; \
	  rm -rf .venv && $(PYTHON) -m venv .venv && \
	  $(BIN)/python -m pip install -qq --disable-pip-version-check -c requirements/lock.txt -e '.[$(EXTRAS)]' && \
	  $(BIN)/python -m pip check && touch $(ENV); }

.PHONY: triton-env
triton-env: $(TRITON_ENV) ## Make the small environment of the embedded Triton server

$(TRITON_ENV): requirements/triton.txt $(ENV)
	@test -e $(TRITON_ENV) && touch $(TRITON_ENV) || { \
	  if [ "$$(uname -sm)" = "Linux x86_64" ]; then \
	    rm -rf .venv-triton && $(BIN)/python -m venv .venv-triton && \
	    .venv-triton/bin/python -m pip install -qq --disable-pip-version-check --no-deps -r requirements/triton.txt; \
	  else echo "The embedded Triton runs on Linux x86_64 only; the in-process engine serves here." >&2; mkdir -p .venv-triton; fi && touch $(TRITON_ENV); }

.PHONY: system
system: ## Install the Debian packages that tests use (Chromium, EGL, sample videos), when allowed to
	@bash requirements/system.sh

.PHONY: quickstart
quickstart: $(ENV) $(TRITON_ENV) ## From nothing to a served, evaluated model: simulate, adapt, export, serve, evaluate
	$(BIN)/surg quickstart
	@echo "To use surg in this shell, first: source .venv/bin/activate"

.PHONY: test
test: $(ENV) $(TRITON_ENV) system ## Run the tests (parallel; slow, GPU and container ones apart)
	$(BIN)/python -m pytest -n $(WORKERS)

.PHONY: test-slow
test-slow: $(ENV) $(TRITON_ENV) system ## Run the tests that take minutes
	$(BIN)/python -m pytest -m "slow and not gpu and not container"

.PHONY: test-gpu
test-gpu: $(ENV) ## Run the tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu

.PHONY: model
model: $(ENV) $(TRITON_ENV) ## Train the shipped model again (about three hours on two CPU cores)
	$(BIN)/python making/model.py

MODEL ?= surg-tiny
PROTOCOL ?= small
# The shipped model is held against its own numbers; another one against none, unless BASELINE names a file.
BASELINE ?= $(if $(filter surg-tiny,$(MODEL)),$(wildcard surg/eval/baselines/surg-tiny.json))
.PHONY: eval
eval: $(ENV) $(TRITON_ENV) ## Evaluate MODEL through the embedded server (or SERVER=host:8001); fails when a number is worse than BASELINE's
	$(BIN)/surg eval all --checkpoint $(MODEL) --protocol $(PROTOCOL) $(if $(SERVER),--server $(SERVER)) $(if $(BASELINE),--baseline $(BASELINE)) --out runs/eval --overwrite

.PHONY: demo
demo: $(ENV) $(TRITON_ENV) ## Open the page that shows what the model sees
	$(BIN)/surg demo

.PHONY: serve
serve: $(ENV) $(TRITON_ENV) ## Start Triton on REPO (default: the shipped model)
	$(BIN)/surg serve start $(REPO)

.PHONY: bench
bench: $(ENV) $(TRITON_ENV) ## Measure model, export and decoding against their yardsticks (about half an hour on a quiet machine)
	$(BIN)/python benchmarks/model_speed.py
	$(BIN)/python benchmarks/onnx_speed.py --write
	$(BIN)/python benchmarks/decode.py --write

.PHONY: ablation
ablation: $(ENV) ## Train and judge every arm on the simulators (hours; ABLATION=--medium about two hours of two cores, ABLATION=--small minutes)
	$(BIN)/python benchmarks/ablation.py $(ABLATION)

.PHONY: docker-test
docker-test: $(ENV) $(TRITON_ENV) ## Build and run the images and the compose file (root and Debian's docker.io)
	$(BIN)/python -m pytest -m container

.PHONY: check
check: $(ENV) ## Lint, types (of tests and benchmarks: what they name and call), layers, Dockerfile, compose schema
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/mypy
	if [ -f Dockerfile ]; then $(BIN)/hadolint Dockerfile; fi
	if [ -f deploy/compose.yaml ]; then $(BIN)/check-jsonschema --builtin-schema vendor.compose-spec deploy/compose.yaml; fi

.PHONY: format
format: $(ENV) ## Format the code and mend what ruff can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: lock
lock: ## Resolve the newest dependencies and write requirements/lock.txt
	bash requirements/lock.sh "$(PYTHON)"

.PHONY: clean
clean: ## Remove environments, caches and builds (runs and data stay)
	rm -rf .venv .venv-triton .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
