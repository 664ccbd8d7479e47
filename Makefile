# Everything a developer or a newcomer runs. `make demo` and `make test` need nothing but Python 3.11–3.13.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# A process for each core.
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo test check docs bench clean

help:  ## show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(STAMP)  ## create .venv with the versions in constraints.txt

# torch first and alone: a machine with a CPU build at hand then keeps it.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,docs,timm,postgres]'
	@touch $(STAMP)

demo: install  ## the whole loop on simulated galaxies: volunteers vote, the network asks; report in ./demo
	$(BIN)/greenpea demo

test: install  ## every test
	$(PYTEST)

check: install  ## what must be green before a commit: style, types, layers, tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(PYTEST)

docs: install  ## the documentation as a site, in build/docs; whatever is amiss stops it
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: install  ## every benchmark; each prints one JSON object last
	@for file in $(filter-out $(addprefix benchmarks/,common.py crowd.py label_sets.py learning_curves.py),$(wildcard benchmarks/*.py)); do echo "== $$file"; $(BIN)/python $$file || exit 1; done

clean:  ## remove the environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
