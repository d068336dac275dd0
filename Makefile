# The environment is installed once, and again only when pyproject.toml or constraints.txt changes.

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# The pins are tested with 3.11; any later Python is the second choice.
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
# See lmms-light in pyproject.toml: with their requirements they would bring torchvision and another torch.
WITHOUT_REQUIREMENTS := \
	lmms-eval pytablewriter chardet dataproperty mbstrdecoder pathvalidate tabledata tcolorpy typepy
PARALLEL := --numprocesses auto --maxprocesses 4
# Results that the tests of a file share are made once.
BY_FILE := $(PARALLEL) --dist loadfile --no-loadscope-reorder
STUDY ?= ablate_layers
TORCH ?=
ARGS ?=
NOTEBOOKS ?= notebooks/*.ipynb
# What notebooks read, each written by the experiment of that name; STUDY_ARGS are options of those that must be run for it.
# The measurement of speed asks no study's questions and has options of its own. Whoever names results of another folder
# has made them.
STUDY_ARGS ?=
SPEED_ARGS ?=
READ := $(if $(FOVEATE_RUNS),,$(patsubst %,runs/%/table.csv,measure_bias ablate_layers compare_methods measure_speed))

.DEFAULT_GOAL := help
.PHONY: help ablate compare search bias speed notebooks test test-all test-newest properties faults bench audit lint train dashboard clean

help: ## this list; options of a script go into ARGS: make ablate ARGS="--keep 36 16", make ablate ARGS=--help
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

ablate: $(INSTALLED) ## which vision layers tell what the language model needs: table and figures in runs/ablate_layers
	$(BIN)/python experiments/ablate_layers.py $(ARGS)

compare: $(INSTALLED) ## all published methods and controls at the same cost: table and figures in runs/compare_methods
	$(BIN)/python experiments/compare_methods.py $(ARGS)

search: $(INSTALLED) ## weights of the vision layers, searched and confirmed: tables and figures in runs/search_weights
	$(BIN)/python experiments/search_weights.py $(ARGS)

bias: $(INSTALLED) ## what prompts, answers and [CLS] look at, and what the answer hangs on: runs/measure_bias
	$(BIN)/python experiments/measure_bias.py $(ARGS)

speed: $(INSTALLED) ## where the time of an answer goes, and whether compression pays: table and figure in runs/measure_speed
	$(BIN)/python experiments/measure_speed.py $(ARGS)

# Results that are there are read as they are, whatever options they were made with. A notebook that still misses
# something names the command, and the others go on.
notebooks: $(INSTALLED) $(READ) ## executed, as web pages in runs/notebooks, after bias, ablate, compare and speed where results are missing
	@status=0; for notebook in $(NOTEBOOKS); do \
		$(BIN)/jupyter nbconvert --execute --to html --output-dir runs/notebooks $(ARGS) $$notebook || status=1; \
	done; exit $$status

runs/measure_speed/table.csv: | $(INSTALLED)
	$(BIN)/python experiments/measure_speed.py $(SPEED_ARGS)

runs/%/table.csv: | $(INSTALLED)
	$(BIN)/python experiments/$*.py $(STUDY_ARGS)

test: $(INSTALLED) ## the fast tests, some minutes: every kind of thing once
	$(BIN)/pytest $(BY_FILE) -m "not extended" $(ARGS)

test-all: $(INSTALLED) ## all tests, with the checks of shapes in all of the package
	$(BIN)/pytest $(BY_FILE) --jaxtyping-packages=foveate,beartype.beartype $(ARGS)

# Without the pins, in an environment of its own that stays; TORCH="torch==2.13.0" keeps a CUDA build of several GB away.
test-newest: ## the fast tests with the newest versions that the ranges allow
	test -x .venv-newest/bin/python || $(PYTHON) -m venv .venv-newest
	.venv-newest/bin/python -m pip install --disable-pip-version-check --upgrade --upgrade-strategy eager $(TORCH) -e '.[dev]'
	.venv-newest/bin/python -m pip install --disable-pip-version-check --upgrade --no-deps $(WITHOUT_REQUIREMENTS)
	$(MAKE) test BIN=.venv-newest/bin INSTALLED=

bench: $(INSTALLED) ## speed and memory against what is promised: table in benchmarks/README.md, a quarter of an hour
	$(BIN)/pytest benchmarks $(ARGS)

faults: $(INSTALLED) ## over 200 faults for the real commands: killed, disk full, files damaged; fails when something is lost
	$(BIN)/python -m tests.faults $(ARGS)

properties: $(INSTALLED) ## new examples for the tests that hold of any input, up to a thousand for each
	FOVEATE_HYPOTHESIS=deep $(BIN)/pytest $(PARALLEL) --dist worksteal tests/properties tests/oracle $(ARGS)

# In an environment of its own, which is gone afterwards.
audit: ## known vulnerabilities of the pins
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && $(PYTHON) -m venv $$folder \
		&& $$folder/bin/pip install --quiet --disable-pip-version-check pip-audit \
		&& $$folder/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip --strict $(ARGS)

lint: $(INSTALLED) ## style, format, types and the order of imports
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/lint-imports

train: $(INSTALLED) ## the reference model, from nothing
	$(BIN)/python experiments/train_reference.py $(ARGS)

dashboard: $(INSTALLED) ## a study in the browser: make dashboard STUDY=ablate_budgets
	$(BIN)/optuna-dashboard --host 127.0.0.1 --artifact-dir runs/$(STUDY)/artifacts sqlite:///runs/$(STUDY)/study.db

clean: ## removes environment and caches; results in runs/ stay
	rm -rf $(VENV) .venv-newest dist .pytest_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): pyproject.toml constraints.txt
	$(if $(PYTHON),,$(error foveate needs Python 3.11 or later, and none was found: name one with PYTHON=/path/to/python))
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt --no-deps $(WITHOUT_REQUIREMENTS)
	touch $@
