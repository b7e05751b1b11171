# The door to Voxplane. Every target sets up what it needs.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
CONTRACT := .build/contract.binpb
# Tests that build programs, measure calls or time real nodes; most others wait
# a good deal, and run two at a time.
ALONE := tests/edge_clients tests/e2e tests/voice

.DEFAULT_GOAL := help
.PHONY: help run demo test lint generate bench soak e2e vendors robustness clean

help: ## Explain the targets
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Voxplane needs Python 3.11 or newer"'
	@echo "making the virtual environment $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.run: $(BIN)/python pyproject.toml constraints.txt hatch_build.py $(wildcard proto/voxplane/*/*.proto proto/voxplane/*/*/*.proto)
	@echo "installing voxplane and what it needs (a minute, once)"
	@$(PIP) -e '.[server,node]'
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	@echo "installing what tests and lint need"
	@$(PIP) -e '.[server,node,dev]'
	@touch $@

run: $(VENV)/.run ## Play the tour on embedded defaults, then stay up
	@$(BIN)/voxplane dev --tour

demo: $(VENV)/.run ## Play the tour and exit; non-zero if a step did not happen
	@$(BIN)/voxplane dev --tour --exit

test: $(VENV)/.dev ## Run every test
	@$(BIN)/python -m pytest -n 2 --dist worksteal $(ALONE:%=--ignore=%); first=$$?; \
	$(BIN)/python -m pytest $(ALONE) && exit $$first

e2e: $(VENV)/.dev ## Run the tests that start real processes, and voice calls (needs livekit-server)
	@$(BIN)/python -m pytest tests/e2e tests/voice

vendors: $(VENV)/.dev ## Be OpenAI, Deepgram and Langfuse on this machine; ARGS="--port N"
	@$(BIN)/python -m tests.vendors $(ARGS)

robustness: $(VENV)/.dev ## Check every promise under faults, for long; ARGS="--seed N --minutes N"
	@$(BIN)/python -m pytest tests/robustness --long
	@$(BIN)/python -m tests.robustness.run $(ARGS)

lint: $(VENV)/.dev ## Check style, types, the contract and the imports
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyright --pythonpath $(BIN)/python
	@$(BIN)/python hatch_build.py --descriptors $(CONTRACT)
	@$(BIN)/buf lint $(CONTRACT) --config proto/buf.yaml
	@cd proto && ../$(BIN)/buf format --diff --exit-code .
	@$(BIN)/lint-imports

generate: $(VENV)/.dev ## Make the Python stubs of the contract again
	@$(BIN)/python hatch_build.py

bench: $(VENV)/.dev ## Measure commit to applied, live calls, and the watch beside etcd (needs Go)
	@$(BIN)/python -m bench.applied
	@$(BIN)/python -m bench.voice
	@$(BIN)/python -m bench.watch

soak: $(VENV)/.dev ## Watch the server for 20 minutes of load (needs Go)
	@$(BIN)/python -m bench.soak

clean: ## Remove what the other targets made
	@rm -rf $(VENV) .build .voxplane .pytest_cache .ruff_cache .hypothesis .import_linter_cache buf
	@find voxplane -name '*_pb2*' -delete
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
