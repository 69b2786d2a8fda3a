# Everything a fresh machine with Python 3.11 or newer needs: `make demo` and `make test` set themselves up.
PYTHON ?= python3
BIN := .venv/bin
SOURCES := stillhouse tests benchmarks examples tools

.PHONY: help demo test faults lint format check mutants teachers docs clean
.DELETE_ON_ERROR:

help:
	@echo "make demo      distil a real model in five minutes, then open runs/demo/report.html (TEACHER=path for your own)"
	@echo "make test      lint, types, import contracts and all tests"
	@echo "make faults    every fault of docs/reliability.md tried, hours; the table there is written anew"
	@echo "make lint      the first three alone;  make format  mends the layout"
	@echo "make check     every system's claim in its world, and its ablations"
	@echo "make mutants   small slips in the code, one at a time: do the tests notice?"
	@echo "make docs      the documentation as a site: build/site/index.html"
	@echo "make teachers  train the shipped teachers, feature networks and the caption reader anew"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Stillhouse needs Python 3.11 or newer; try: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv

# the stamps tell what is installed; either one is made anew when the requirements change
.venv/.demo: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[demo]'
	@touch $@

.venv/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[demo,dev]'
	@touch $@ .venv/.demo

demo: .venv/.demo
	$(BIN)/stillhouse demo --out runs/demo $(if $(TEACHER),--teacher '$(TEACHER)')

lint: .venv/.installed
	$(BIN)/ruff check $(wildcard $(SOURCES))
	$(BIN)/ruff format --check $(wildcard $(SOURCES))
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/.installed
	$(BIN)/python -m tools.tables
	$(BIN)/ruff check --fix $(wildcard $(SOURCES))
	$(BIN)/ruff format $(wildcard $(SOURCES))

# two tests at a time, one thread each: a network this small gains nothing from more
test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -q

# one process: it counts what was tried
faults: .venv/.installed
	OMP_NUM_THREADS=1 $(BIN)/pytest tests/faults --long --figures -q

check: .venv/.installed
	$(BIN)/stillhouse check --all
	$(BIN)/stillhouse check --all --ablate

# some hours; the tests' lines are recorded once, in build/mutants
mutants: .venv/.installed
	$(BIN)/python -m tools.mutants --seed 0 --count 300
	$(BIN)/python -m tools.mutants --seed 1 --count 300

teachers: .venv/.installed
	$(BIN)/python -m tools.features
	$(BIN)/python -m tools.reader
	$(BIN)/python -m tools.teachers
	$(BIN)/python -m tools.shapes_pipeline

.venv/.docs: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@touch $@

docs: .venv/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "build/site/index.html"

clean:
	rm -rf .venv runs build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis .import_linter_cache
