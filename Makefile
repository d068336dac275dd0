# The environment is installed once, and again only when pyproject.toml or constraints.txt changes.

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# The pins are tested with 3.11, so it is preferred to any later Python.
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
# See lmms-light in pyproject.toml: their requirements would install torchvision and another torch.
WITHOUT_REQUIREMENTS := \
	lmms-eval pytablewriter chardet dataproperty mbstrdecoder pathvalidate tabledata tcolorpy typepy
PARALLEL := --numprocesses auto --maxprocesses 4
# The tests of a file share results, so one process runs them.
BY_FILE := $(PARALLEL) --dist loadfile --no-loadscope-reorder
STUDY ?= ablate_layers
TORCH ?=
ARGS ?=
NOTEBOOKS ?= notebooks/*.ipynb
# Tables that the notebooks read, each written by the experiment of that name. STUDY_ARGS are the options of experiments that
# must be run first, SPEED_ARGS those of the speed measurement, which has other options. With FOVEATE_RUNS nothing is run.
STUDY_ARGS ?=
SPEED_ARGS ?=
READ := $(if $(FOVEATE_RUNS),,$(patsubst %,runs/%/table.csv,measure_bias ablate_layers compare_methods measure_speed))

.DEFAULT_GOAL := help
.PHONY: help ablate compare search recommend bias speed notebooks test test-all test-newest properties faults bench bench-gpu audit lint docs train dashboard wheel clean

help: ## show this list; ARGS passes options to a script: make ablate ARGS="--keep 36 16", make ablate ARGS=--help
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

# Two processes answer the questions faster than one with two threads; ARGS="--workers 1" is for a large model on one
# device. A search has one, because its order depends on their number.
ablate: $(INSTALLED) ## evaluate vision layers, single and summed, at several budgets: runs/ablate_layers
	$(BIN)/python experiments/ablate_layers.py --workers 2 $(ARGS)

compare: $(INSTALLED) ## compare all methods and controls at the same number of tokens: runs/compare_methods
	$(BIN)/python experiments/compare_methods.py --workers 2 $(ARGS)

search: $(INSTALLED) ## search weights of the vision layers, and report on unseen questions: runs/search_weights
	$(BIN)/python experiments/search_weights.py $(ARGS)

recommend: $(INSTALLED) ## find the cheapest setting that surely loses at most so many points: ARGS="--max-loss 5"
	$(BIN)/python experiments/recommend.py --workers 2 $(ARGS)

bias: $(INSTALLED) ## measure what prompts, answers and [CLS] attend to, and what the answer depends on: runs/measure_bias
	$(BIN)/python experiments/measure_bias.py --workers 2 $(ARGS)

speed: $(INSTALLED) ## measure the time of an answer by part, with and without compression: runs/measure_speed
	$(BIN)/python experiments/measure_speed.py $(ARGS)

# Existing results are read, whatever options they were made with. A notebook that lacks results names the command that
# makes them, and the other notebooks still run.
notebooks: $(INSTALLED) $(READ) ## run the notebooks, as web pages in runs/notebooks, after bias, ablate, compare and speed if results are missing
	@status=0; for notebook in $(NOTEBOOKS); do \
		$(BIN)/jupyter nbconvert --execute --to html --output-dir runs/notebooks $(ARGS) $$notebook || status=1; \
	done; exit $$status

runs/measure_speed/table.csv: | $(INSTALLED)
	$(BIN)/python experiments/measure_speed.py $(SPEED_ARGS)

runs/%/table.csv: | $(INSTALLED)
	$(BIN)/python experiments/$*.py $(STUDY_ARGS)

test: $(INSTALLED) ## run the fast tests: some minutes
	$(BIN)/pytest $(BY_FILE) -m "not extended" $(ARGS)

test-all: $(INSTALLED) ## run all tests, with shape checks in the whole package
	$(BIN)/pytest $(BY_FILE) --jaxtyping-packages=foveate,tests.checked $(ARGS)

# Uses an environment of its own, which is kept; TORCH="torch==2.13.0" avoids a CUDA build of several GB.
test-newest: ## run the fast tests with the newest versions that the ranges allow
	test -x .venv-newest/bin/python || $(PYTHON) -m venv .venv-newest
	.venv-newest/bin/python -m pip install --disable-pip-version-check --upgrade --upgrade-strategy eager $(TORCH) -e '.[dev]'
	.venv-newest/bin/python -m pip install --disable-pip-version-check --upgrade --no-deps $(WITHOUT_REQUIREMENTS)
	$(MAKE) test BIN=.venv-newest/bin INSTALLED=

bench: $(INSTALLED) ## measure speed and memory against the promises in benchmarks/README.md: a quarter of an hour
	$(BIN)/pytest benchmarks $(ARGS)

# Needs `pip install foveate` (or `pip install -e .`) alone, in the environment of the driver's torch: no pins, no extras.
BENCH_PYTHON ?= $(or $(wildcard $(BIN)/python),$(PYTHON))
bench-gpu: ## time answers on models of published sizes, ten minutes a run, the rest with the next: docs/results/gpu.md
	PYTHONPATH=src:. $(BENCH_PYTHON) -m benchmarks.gpu $(ARGS)

faults: $(INSTALLED) ## inject over 200 faults (kills, full disks, damaged files) into the real commands
	$(BIN)/python -m tests.faults $(ARGS)

properties: $(INSTALLED) ## run the property tests on new examples, up to a thousand each
	FOVEATE_HYPOTHESIS=deep $(BIN)/pytest $(PARALLEL) --dist worksteal tests/properties tests/oracle $(ARGS)

# Uses an environment of its own, which is removed afterwards.
audit: ## look for known vulnerabilities of the pins
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && $(PYTHON) -m venv $$folder \
		&& $$folder/bin/pip install --quiet --disable-pip-version-check pip-audit \
		&& $$folder/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip --strict $(ARGS)

lint: $(INSTALLED) ## check style, format, types and import layers
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/lint-imports

docs: $(INSTALLED) ## build the docs as a site, without network, and check its links: site/index.html
	NO_MKDOCS_2_WARNING=1 OMP_NUM_THREADS=1 PYTHONPATH=src $(BIN)/mkdocs build --strict --quiet $(ARGS)

train: $(INSTALLED) ## train the reference model from random initialisation
	$(BIN)/python experiments/train_reference.py $(ARGS)

dashboard: $(INSTALLED) ## show a study in the browser: make dashboard STUDY=ablate_budgets
	$(BIN)/foveate dashboard $(STUDY) $(ARGS)

# Python 3.13 as well: make wheel ARGS="python3.11 python3.13"
wheel: $(INSTALLED) ## build the wheel, check it, and run it in an empty environment: some minutes
	rm -rf dist
	$(BIN)/hatchling build
	$(BIN)/twine check --strict dist/*
	$(BIN)/python -m tests.wheel $(ARGS)

clean: ## remove environments and caches; results in runs/ stay
	rm -rf $(VENV) .venv-newest dist site .pytest_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): pyproject.toml constraints.txt
	$(if $(PYTHON),,$(error foveate needs Python 3.11 or later, and none was found: name one with PYTHON=/path/to/python))
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt --no-deps $(WITHOUT_REQUIREMENTS)
	touch $@
