# Every target makes what it needs: an environment in .venv, installed from pyproject.toml and constraints.txt.
#   make demo [BACKBONE=smollm2|minilm] [PORT=8000] [SOFTMUX_CACHE=DIR]     make test     make help

VENV     := .venv
BIN      := $(VENV)/bin
BACKBONE ?= smollm2
DEVICE   ?= cpu
PORT     ?= 8000
URL      ?= http://127.0.0.1:$(PORT)
PIP      := $(BIN)/python -m pip --disable-pip-version-check
OLDEST   := 5.17.0
GATES    := build/transformers-$(OLDEST)
GPU_PYTHON ?= $(BIN)/python
SOURCES  := prompt_store server tests bench examples docker

.DEFAULT_GOAL := help
.PHONY: help demo demo-eval install format lint type test test-slow test-all test-gpu gates fidelity bench image image-proof lock clean

help: ## Show the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

demo: $(VENV)/.runtime ## Serve the demo prompts on 127.0.0.1:8000 (BACKBONE=smollm2|minilm)
	@$(BIN)/softmux demo --backbone $(BACKBONE) --port $(PORT)

demo-eval: $(VENV)/.runtime ## Measure the demo prompts through the API of the server that `make demo` started
	$(BIN)/python -m server.demo.evaluation --url $(URL)

install: $(VENV)/.dev ## Make .venv with everything that development needs

format: $(VENV)/.dev ## Format the code and mend what the linter can mend
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

lint: $(VENV)/.dev ## Check format, lint and the directions of import
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/lint-imports

type: $(VENV)/.dev ## Check types, strictly
	$(BIN)/mypy

test: $(VENV)/.dev ## Run the tests (minutes)
	$(BIN)/pytest --numprocesses 2 --dist worksteal

test-slow: $(VENV)/.dev ## Run only the slow tests
	$(BIN)/pytest -m slow

test-all: test test-slow ## Run every test, the slow ones too

test-gpu: $(if $(filter $(BIN)/python,$(GPU_PYTHON)),$(VENV)/.dev) ## Run the tests that need a GPU (GPU_PYTHON=python3: as installed there)
	$(GPU_PYTHON) -m pytest -m cuda --confcutdir=tests/cuda tests/cuda

gates: $(GATES)/.ready ## Run the gates and the parity with PEFT on the oldest transformers; `make test` has the newest
	$(GATES)/bin/python -m pytest \
	  tests/golden/test_probe.py tests/golden/test_peft_parity.py tests/golden/test_adapters.py \
	  tests/golden/test_seq2seq_parity.py

fidelity: $(VENV)/.dev ## Compare every family, architecture and head with its training code (GOLDEN=DIR, BFLOAT16=1)
	PYTHONPATH=tests $(BIN)/python -m fidelity $(if $(GOLDEN),--golden '$(GOLDEN)') $(if $(BFLOAT16),--bfloat16)

bench: $(VENV)/.dev ## Run the benchmarks, each against its peers
	$(BIN)/python -m bench all

image: ## Build the container image (DEVICE=cpu|cu130)
	docker build -t softmux$(if $(filter-out cpu,$(DEVICE)),:$(DEVICE)) \
	  --build-arg TORCH_INDEX=https://download.pytorch.org/whl/$(DEVICE) \
	  --build-arg VERSION="$$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)" \
	  --build-arg REVISION="$$(git rev-parse HEAD)" .

image-proof: ## Build and run the image on Debian without a container engine (as root; docker/prove.sh)
	docker/prove.sh

lock: ## Write constraints.txt anew from what a fresh environment resolves to
	rm -rf build/lock && python3 -m venv build/lock
	build/lock/bin/python -m pip install -q -e '.[dev,demo]' 'torch==2.13.0'
	build/lock/bin/python -m pip freeze --exclude-editable | sed 's/+cpu$$//' > build/lock.txt
	{ sed -n '/^#/p' constraints.txt; cat build/lock.txt; } > build/constraints.txt
	mv build/constraints.txt constraints.txt

clean: ## Remove the environment and everything that was built
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find $(SOURCES) -name __pycache__ -prune -exec rm -rf {} +

# The stamps say what is installed; pip runs again only when the metadata or the pins change.
$(VENV)/.runtime: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install -c constraints.txt -e '.[demo]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install -c constraints.txt -e '.[dev,demo]'
	@touch $(VENV)/.runtime $@

# All but transformers comes from the other environment, which stands behind this one's own packages.
$(GATES)/.ready: $(VENV)/.dev
	rm -rf $(GATES) && $(BIN)/python -m venv --without-pip $(GATES)
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
	  > "$$($(GATES)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/newest.pth"
	$(PIP) --python $(GATES)/bin/python install 'transformers==$(OLDEST)'
	@touch $@

$(BIN)/python:
	@for python in $(PYTHON) python3 python3.13 python3.12 python3.11; do \
	  if $$python -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; \
	  then echo "making $(VENV) with $$($$python --version)"; exec $$python -m venv $(VENV); fi; \
	done; \
	echo "softmux needs Python 3.11, 3.12 or 3.13 with its venv module; none was found on PATH." >&2; \
	echo "Install one (Debian: apt install python3.11-venv) or name it: make $(or $(MAKECMDGOALS),install) PYTHON=/path/to/python3.12" >&2; \
	exit 1
