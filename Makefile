# `make demo` learns handwritten digits and draws new ones; `make test` and `make check` are for working on unblot.
# The virtual environment is made when it is missing, with the versions that constraints.txt pins.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO := demo
# One process a core, one thread each: two threads on so small tensors are slower than one.
TEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist loadfile

.PHONY: demo test check format clean

demo: $(READY)
	$(BIN)/unblot train digits --out $(DEMO) --overwrite
	$(BIN)/unblot sample $(DEMO) -n 100 --label all --out $(DEMO)/samples/sample --overwrite
	$(BIN)/unblot film $(DEMO) --label 3,5,7,8 --out $(DEMO)/samples/film --overwrite
	@echo
	@echo "new digits:         $(DEMO)/samples/sample/grid.png"
	@echo "out of noise:       $(DEMO)/samples/film/strip.png and film.gif"
	@echo "while it learned:   $(DEMO)/samples/step_*.png"
	@echo
	@echo "with your own pictures:"
	@echo "  $(BIN)/unblot train PICTURES/ --out runs/mine"
	@echo "  $(BIN)/unblot sample runs/mine"

test: $(READY)
	$(TEST)

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(TEST)

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) $(DEMO) build .pytest_cache .mypy_cache .ruff_cache
