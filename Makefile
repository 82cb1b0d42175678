# make demo: the embedded dataset, a sweep of every method on it, and the report.   make test: the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: venv demo test slow lint clean

venv: $(VENV)/.installed

demo: $(VENV)/.installed
	$(BIN)/harness sweep mini
	$(BIN)/harness report mini

test: $(VENV)/.test-installed
	$(BIN)/pytest

slow: $(VENV)/.test-installed
	$(BIN)/pytest -m slow

lint: $(VENV)/.dev-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/.test-installed: $(VENV)/.installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

$(VENV)/.dev-installed: $(VENV)/.installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) runs report
