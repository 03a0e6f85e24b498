# `make serve` and `make test` are all a fresh machine needs; the rest is for working on it.
PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: help serve test test-all check format bench-models clean

help:  ## what each target does
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test,bench]'
	touch $@

serve: $(STAMP)  ## start the service on http://127.0.0.1:8000
	$(BIN)/serve run deploy/config.yaml

test: $(STAMP)  ## the everyday suite
	$(BIN)/python -m pytest

test-all: $(STAMP)  ## the everyday suite and the slow one
	$(BIN)/python -m pytest -m 'not gpu'

check: $(STAMP)  ## formatting, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(STAMP)  ## put the code into shape
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench-models: $(STAMP)  ## train the models that the benchmarks measure on (90 minutes, resumes)
	$(BIN)/python -m benchmarks.models all

clean:  ## remove the environment and caches
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis build *.egg-info
