# Every target builds what it needs; `make setup` is implied.
PYTHON ?= python3.11
PYTHON_FOUND := $(shell command -v $(PYTHON) 2>/dev/null || command -v python3)
BIN := .venv/bin
STAMP := .venv/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export TOKENIZERS_PARALLELISM := false
# Two tests at a time with one thread each: most wait for start-up or for one another, few for arithmetic.
TWO_AT_A_TIME := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

.PHONY: setup quickstart test test-all lint check bench showcase docs clean model chromium
.DEFAULT_GOAL := help

help:  ## show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(STAMP)  ## build .venv with exact pins
$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON_FOUND)" || { echo "Python 3.11 or later is needed (apt install python3 python3-venv)"; exit 2; }
	@$(PYTHON_FOUND) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON_FOUND) is older than Python 3.11"; exit 2; }
	test -x $(BIN)/python || $(PYTHON_FOUND) -m venv .venv
	sh scripts/install-torch.sh $(BIN)/python
	$(PIP) install --quiet --editable '.[dev,llamacpp]'
	touch $(STAMP)

model: $(STAMP)
	@$(BIN)/trivet models pull smollm2-135m-instruct

quickstart: model  ## a real model, five systems, three legs: quickstart/report.html
	$(BIN)/trivet study run examples/quickstart.yaml --store quickstart --minutes 10

lint: $(STAMP)  ## format, lint, types, import contract
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --verbose

check: lint  ## lint, types, imports, quick tests (under 3 minutes)
	$(TWO_AT_A_TIME) -q -m "not model and not slow and not full"

test: model  ## the tests that need the embedded model too (under 20 minutes)
	$(TWO_AT_A_TIME) -m "not full"

chromium:
	@command -v chromium >/dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium chromium-driver; }

test-all: model chromium  ## parity with peers, load, kills, browser (under 60 minutes)
	$(TWO_AT_A_TIME) -m full

bench: model  ## speed and memory against peers; prints one JSON line each
	$(BIN)/python -m benchmarks

showcase: model  ## every method that exists, compared (long)
	$(BIN)/trivet study run examples/showcase.yaml --store showcase --minutes 60

docs: $(STAMP)  ## build the documentation into site/
	$(PIP) install --quiet --editable '.[docs]'
	$(BIN)/python scripts/method_pages.py
	$(BIN)/python -m mkdocs build --strict

clean:  ## remove what the targets made, not the model cache
	rm -rf .venv site dist build quickstart showcase .pytest_cache .mypy_cache .ruff_cache
