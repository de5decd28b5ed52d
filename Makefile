# `make demo` and `make test` set everything up on a fresh machine; nothing else is needed.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEV := $(VENV)/.ready-dev
PLAN := .venv-plan
CGDDI = PYTHONPATH=$(CURDIR)/workflow $(BIN)/python -m cgddi.cli
DEMO := --profile profiles/local-cpu --configfile config/toy/config.yaml

.PHONY: demo demo-fedd dry-run claim test test-all lint bench pictures profiles toy-model env dev clean-demo

# Byte code is made by what imports it, which is a fraction of what is installed.
define install
	@echo "Making the environment in $(VENV) (a few minutes the first time)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(if $(TORCH_INDEX),$(BIN)/python -m pip install --index-url $(TORCH_INDEX) $(shell grep -E '^torch(vision)?==' requirements.txt))
	$(BIN)/python -m pip install --no-compile --requirement $(1) --constraint requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --editable .
endef

## What a run needs (docs/install.md: its size, and TORCH_INDEX=URL for a torch from another index, as one without CUDA).
env: $(READY)

$(READY): requirements.txt requirements.lock pyproject.toml
	$(call install,requirements.txt)
	touch $@

## That, and what tests, linters and benchmarks need beside it.
dev: $(DEV)

$(DEV): requirements-dev.txt requirements.txt requirements.lock pyproject.toml
	$(call install,requirements-dev.txt)
	touch $(READY) $@

## The toy world from photos to the fairness table, on CPU; ends with a report.
demo: $(READY) data/toy/images.csv
	$(BIN)/snakemake $(DEMO)
	@echo "Report: results/toy/report/index.html"

## The same with automatic masks, and the FEDD study they come from.
demo-fedd: $(READY) data/toy/images.csv
	$(BIN)/snakemake $(DEMO) config/toy/fedd.yaml
	@echo "Report: results/toy-fedd/report/index.html"

## How many jobs the plans of the toy world, of the shipped config and of the paper hold; from an empty machine in a minute.
dry-run: $(PLAN)/.ready
	@$(MAKE) --no-print-directory data/toy/images.csv VENV=$(PLAN) READY=$(PLAN)/pyvenv.cfg
	PYTHONPATH=$(CURDIR)/workflow $(PLAN)/bin/python -m tests.workflow.job_counts

$(PLAN)/.ready: requirements-plan.txt
	$(PYTHON) -m venv $(PLAN)
	$(PLAN)/bin/python -m pip install --quiet --no-compile --requirement requirements-plan.txt
	touch $@

data/toy/images.csv: | $(READY)
	rm -f $@.part
	$(CGDDI) toy-world --output data/toy --preset demo
	$(CGDDI) ingest ddi --metadata data/toy/ddi/ddi_metadata.csv --images data/toy/ddi/images \
	    --masks data/toy/ddi/masks --diseases config/toy/diseases.csv --cohort toy --output $@.part
	$(CGDDI) ingest ddi --metadata data/toy/test/ddi_metadata.csv --images data/toy/test/images \
	    --masks data/toy/test/masks --diseases config/toy/diseases.csv --cohort toy-test --prefix test- --append --output $@.part
	mv $@.part $@

## Real, synthetic and synthetic then real beside controls on five toy worlds, each with its own generators (an hour or two on 2 cores).
claim: $(READY)
	$(BIN)/cgddi toy-claim
	@echo "Tables: results/claim/claim.md"

## Three workers of one thread each, on two cores: the cluster's tests mostly wait.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 3 --dist loadscope --no-loadscope-reorder

test: $(DEV) lint
	$(PYTEST) -m "not slow" --durations=15

test-all: $(DEV) lint
	$(PYTEST) --durations=30

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PATH=$(CURDIR)/$(BIN):$$PATH $(BIN)/snakefmt --check Snakefile rules

bench: $(DEV)
	$(BIN)/python -m benchmarks all

## `snakemake --profile slurm` looks in the working directory: put a link to each profile there.
profiles:
	@for name in slurm local-gpu local-cpu; do ln -sfn profiles/$$name $$name; done
	@echo "snakemake --profile slurm | local-gpu | local-cpu"

## The README's pictures, from the demo's results.
pictures: $(DEV)
	$(BIN)/python -m tests.readme_pictures results/toy

toy-model: $(READY)
	$(BIN)/cgddi toy-model --output config/toy/model

clean-demo:
	rm -rf data/toy results/toy results/toy-fedd
