# `make demo` and `make test` do all of their own set-up; nothing else is needed on a fresh clone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help demo demo-selection test check style format test-mosaic test-mosaic-suite test-trainers bench bench-text soak clean

help:  ## say what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

# pip would compile 17,000 modules one after the other. Those that may be imported are compiled here, on all cores; and
# ours, which each of the tests' processes would compile where PYTHONDONTWRITEBYTECODE is set.
SELDOM := /tests?/|/transformers/models/(?!auto|bert|gpt2)|/sympy/(?!core)|/pip/
$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m compileall -qq -j 0 -x '$(SELDOM)' $(VENV)/lib mixstream tools examples || true  # a file for a later Python does not compile
	touch $@

demo: $(READY)  ## convert text that is on this machine, train on the mix, kill, resume, prove it equal
	$(BIN)/mixstream demo

demo-selection: $(READY)  ## prune text with planted faults, show what was dropped, stream the rest
	$(BIN)/mixstream demo selection

test: style  ## the whole gate: format, lint, types, layers, tests
	@# pyright needs one core: it runs beside the tests, and what it says is shown after what they say
	@$(BIN)/pyright > $(VENV)/types.txt 2>&1 & types=$$!; \
	$(BIN)/python -m pytest -n auto --dist worksteal; tests=$$?; \
	wait $$types; types=$$?; cat $(VENV)/types.txt; exit $$((tests || types))

check: style  ## everything of the gate but the tests
	$(BIN)/pyright

style: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-logo

format: $(READY)  ## reformat, and fix what ruff can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test-mosaic:  ## compare live with mosaicml-streaming, in an environment of its own
	PYTHON=$(PYTHON) tests/mosaic/run.sh

test-trainers:  ## train with torchtitan, Composer, LLM Foundry and TRL, in an environment of its own
	PYTHON=$(PYTHON) tests/trainers/run.sh

test-mosaic-suite:  ## run that package's own tests through mixstream.compat; SUITE names its checkout
	PYTHON=$(PYTHON) tests/mosaic/suite.sh $(SUITE) --list

bench: $(READY)  ## run the benchmarks that docs/benchmarks.md quotes
	$(BIN)/python bench/loader.py
	$(BIN)/python bench/startup.py
	$(BIN)/python bench/losses.py
	$(BIN)/python bench/mixing.py
	$(BIN)/python bench/mixing_cost.py
	$(BIN)/python bench/storage.py
	for part in reading lookups embedding kmeans keep scoring; do $(BIN)/python bench/selection.py $$part || exit; done

bench-text: $(READY)  ## train small models on real text under every mixer (half an hour)
	$(BIN)/python bench/mixing_text.py

soak: $(READY)  ## read through a failing store, a tight cache and kill -9 for some minutes; compare every batch
	$(BIN)/python bench/soak.py

clean:  ## remove environments and caches
	rm -rf $(VENV) .venv-mosaic .venv-mosaic-suite .venv-trainers .pytest_cache .ruff_cache .hypothesis build dist *.egg-info runs \
	  bench/data
