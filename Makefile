# `make help` lists what there is to make.
# The virtual environment is made when it is missing, with the versions that constraints.txt pins.

PYTHON ?= python3
PYTHONS ?= $(PYTHON)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO := demo
# One process a core, one thread each: two threads on so small tensors are slower than one.
TEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help demo test check format docs notebooks package clean

help: ## lists this
	@sed -n 's/^\([a-z]*\):.*## /\1|/p' Makefile | while IFS='|' read -r name about; do printf 'make %-9s %s\n' "$$name" "$$about"; done

demo: $(READY) ## learns handwritten digits and draws new ones, in a few minutes
	$(BIN)/unblot train digits --out $(DEMO) --overwrite
	$(BIN)/unblot sample $(DEMO) -n 100 --label all --out $(DEMO)/samples/sample --overwrite
	$(BIN)/unblot film $(DEMO) --label 3,5,7,8 --out $(DEMO)/samples/film --overwrite
	@echo
	@echo "new digits:         $(DEMO)/samples/sample/grid.png"
	@echo "out of noise:       $(DEMO)/samples/film/strip.png and film.gif"
	@echo "while it learned:   $(DEMO)/samples/step_*.png"
	@echo
	@echo "with your own pictures:"
	@echo "  $(BIN)/unblot train PICTURES/ --budget 30m --out runs/mine"
	@echo "  $(BIN)/unblot sample runs/mine"

test: $(READY) ## runs the tests
	$(TEST)

check: $(READY) ## format, lint, types, tests: what a change must pass
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(TEST)

format: $(READY) ## formats the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(READY) ## builds the documentation into site/; a dead link or a missing name fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --clean
	@echo "look at   site/index.html"

notebooks: $(READY) ## runs the notebooks of the documentation, and keeps in them what they show
	$(BIN)/python docs/run_notebooks.py

package: $(READY) ## builds wheel and sdist into dist/, and tries them with PYTHONS (python3)
	rm -rf dist
	$(BIN)/python -m build --no-isolation
	$(BIN)/twine check --strict dist/*
	.ci/install $(PYTHONS)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev,docs]'
	touch $@

clean: ## removes everything that was made
	rm -rf $(VENV) $(DEMO) build dist site .pytest_cache .mypy_cache .ruff_cache
