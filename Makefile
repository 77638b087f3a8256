# `make demo` and `make test` do all of their own set-up; nothing else is needed on a fresh clone.
PYTHON ?= python3
MINUTES ?= 3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help demo demo-selection test check style format test-mosaic test-mosaic-suite test-trainers bench soak fuzz mutants coverage audit lock clean

help:  ## say what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

# pip would compile 17,000 modules one after the other. Those that may be imported are compiled here, on all cores; and
# ours, which each of the tests' processes would compile where PYTHONDONTWRITEBYTECODE is set.
SELDOM := /tests?/|/transformers/models/(?!auto|bert|gpt2)|/sympy/(?!core)|/pip/
#
# pip compares what it fetches with the hashes in requirements.lock. The second time it installs this checkout, and torch
# with what its build for this machine wants, of the version in constraints.txt.
$(READY): pyproject.toml constraints.txt requirements.lock
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --require-hashes --no-deps --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-compile --no-build-isolation --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m compileall -qq -j 0 -x '$(SELDOM)' $(VENV)/lib mixstream tools examples || true  # a file for a later Python does not compile
	touch $@

demo: $(READY)  ## convert text that is on this machine, train on the mix, kill, resume, prove it equal
	$(BIN)/mixstream demo

demo-selection: $(READY)  ## prune text with planted faults, show what was dropped, stream the rest
	$(BIN)/mixstream demo selection

test: style  ## the whole gate: format, lint, types, layers, tests
	@# pyright needs one core: it runs beside the tests, and what it says is shown after what they say
	@# with huge pages, where glibc has them, what tests fork copies half as much: tables of 300 MB; and each of the tests'
	@# processes has one thread for numpy's and torch's products, since threads without a core wait by spinning
	@$(BIN)/pyright > $(VENV)/types.txt 2>&1 & types=$$!; \
	GLIBC_TUNABLES=glibc.malloc.hugetlb=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal; tests=$$?; \
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

bench: $(READY)  ## run all that README and docs quote; PARTS="peers loader" some of it, QUICK=1 small forms; draw the charts
	$(BIN)/python bench/suite.py $(PARTS) $(if $(QUICK),--quick)
	$(BIN)/python bench/charts.py $(if $(QUICK),--images runs/bench)

SEED ?= 0
soak: $(READY)  ## read through a failing store, tight caches and kill -9 for MINUTES=3; compare every batch
	$(BIN)/python bench/soak.py --minutes $(MINUTES) --seed $(SEED)

fuzz: $(READY)  ## read damaged files, states and logs at random for MINUTES=3; what is neither refused by name nor read right is shown
	$(BIN)/python tests/fuzz --minutes $(MINUTES)

coverage: $(READY)  ## run the gate's tests with coverage of lines and branches; least covered first, pages in runs/coverage
	$(BIN)/python -m pytest -n auto --dist worksteal --timeout 900 --cov --cov-report= || true  # slow: timed tests may fail
	$(BIN)/coverage html --quiet --directory runs/coverage
	$(BIN)/coverage report --sort=cover --skip-covered

audit: $(READY)  ## compare what is installed with what was locked; look for known vulnerabilities
	$(BIN)/python tests/supply_chain/audit.py

lock:  ## write requirements.lock anew, after a change of constraints.txt or of the requirements
	$(PYTHON) tests/supply_chain/lock.py

mutants: $(READY)  ## put known mistakes into the code, one at a time: do the tests notice? ONLY names some
	$(BIN)/python tests/mutants --only '$(ONLY)'

clean:  ## remove environments and caches
	rm -rf $(VENV) .venv-mosaic .venv-mosaic-suite .venv-trainers .venv-convert .venv-bench-* .pytest_cache .ruff_cache .hypothesis build dist *.egg-info runs \
	  bench/data
