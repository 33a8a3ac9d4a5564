# Two commands for a machine with Python 3.11 to 3.13 and a package registry: make reproduce, make test.
# Everything afterwards is plain snakemake, in the environment that they create: . .venv/bin/activate

PYTHON   ?= python3  ## interpreter that the environment is made of
PIP_ARGS ?=          ## more options for pip, e.g. an index to take torch's CPU build from
PRESET   ?=          ## overlay on config.yaml: a name from workflow/presets
CORES    ?= all      ## cores for snakemake
ARGS     ?=          ## more options for snakemake (make reproduce), pytest (make test) or the benchmark

# The comments above must not leave blanks at the ends of the values.
override PYTHON := $(strip $(PYTHON))
override PRESET := $(strip $(PRESET))
override CORES  := $(strip $(CORES))

BIN       := .venv/bin
SNAKEMAKE := $(BIN)/python -m snakemake
PYTEST    := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest
PRESETS   := $(sort $(basename $(notdir $(wildcard workflow/presets/*.yaml))))
OVERLAY   := $(if $(PRESET),workflow/presets/$(PRESET).yaml)
RESULTS    = $(shell sed -n 's/^results: *\([^ ]*\).*/\1/p' $(OVERLAY) config.yaml | head -n 1)

ifneq ($(PRESET),$(filter $(PRESET),$(PRESETS)))
$(error There is no preset '$(PRESET)'. There are: $(PRESETS))
endif

export PYTHON PIP_ARGS

.DEFAULT_GOAL := help
.PHONY: help environment reproduce estimate watch fit-costs report bench test test-fast lint format lock clean

help:  ## this list
	@echo "Targets:"
	@sed -n 's/^\([a-z-]*\):.*##  *\(.*\)/  \1|\2/p' Makefile | awk -F'|' '{printf "%-14s %s\n", $$1, $$2}'
	@echo "Variables (make reproduce PRESET=smoke):"
	@sed -n 's/^\([A-Z_]*\) *?=.*##  *\(.*\)/  \1|\2/p' Makefile | awk -F'|' '{printf "%-14s %s\n", $$1, $$2}'
	@echo "Presets: $(PRESETS)"

environment:  ## create .venv from the lock, unless it is there
	@sh envs/create.sh

reproduce: environment  ## run the pipeline: tables and figures
	$(SNAKEMAKE) --cores $(CORES) $(if $(OVERLAY),--configfile $(OVERLAY)) $(ARGS)
	@echo
	@echo "Tables:  $(RESULTS)/tables/"
	@echo "Figures: $(RESULTS)/figures/"

estimate: environment  ## what a run will cost, by rule, before anything runs (ARGS=--help lists options)
	@PYTHONPATH=workflow $(BIN)/python -m undue.run.estimate $(if $(OVERLAY),--configfile $(OVERLAY)) $(ARGS)

watch: environment  ## what the run that goes on in this folder does, and how long it will take
	@PYTHONPATH=workflow $(BIN)/python -m undue.run.watch $(ARGS)

fit-costs: environment  ## let the estimate learn from a run that has ended in this folder
	@PYTHONPATH=workflow $(BIN)/python -m undue.run.estimate --fit . $(if $(OVERLAY),--configfile $(OVERLAY)) $(ARGS)

report: environment  ## one HTML file with all figures, tables and how they were made
	$(SNAKEMAKE) $(if $(OVERLAY),--configfile $(OVERLAY)) --report report$(PRESET:%=-%).html

bench: environment  ## measure speed and memory on an idle machine (ARGS=--help lists options)
	PYTHONPATH=tests $(BIN)/python -m bench $(ARGS)

test: lint  ## everything: style, types, workflow lint, all tests
	$(PYTEST) -n auto --dist loadfile --no-loadscope-reorder --durations 25 $(ARGS)

test-fast: environment  ## the unit tests that need neither network nor time
	$(PYTEST) -m "not slow and not network and not mirror" tests/unit $(ARGS)

lint: environment  ## style, formatting, types, and snakemake's own lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile workflow/rules
	$(SNAKEMAKE) --lint

format: environment  ## put everything into the standard format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile workflow/rules

# What torch pins for its CUDA build is left to torch, so that one lock serves CPU and CUDA; and nothing runs
# on Windows. The lock's header stays; a lock that could not be made leaves the old one as it is.
lock: environment  ## resolve envs/requirements.in anew (then run make test)
	@rm -f .venv/resolved.txt
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest \
	    --no-header --no-annotate envs/requirements.in --output-file .venv/resolved.txt
	@{ grep '^#' envs/requirements.txt; \
	   grep -vE "^(nvidia-|cuda-|triton==)|sys_platform == 'win32'" .venv/resolved.txt; } > .venv/requirements.txt
	@mv .venv/requirements.txt envs/requirements.txt
	@sh envs/conda.sh > .venv/conda.yaml
	@mv .venv/conda.yaml envs/conda.yaml

clean:  ## remove the environment and caches; data and results stay
	rm -rf .venv .venv.lock .venv-peers .mypy_cache .ruff_cache .pytest_cache build workflow/*.egg-info
	find workflow tests -name __pycache__ -type d -prune -exec rm -rf {} +
