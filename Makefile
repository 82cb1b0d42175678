# make demo: the embedded dataset, a sweep of seven methods and controls on it, and the report.   make test: the tests.
# make docs: the documentation in site/.   make docs-serve: the same at http://127.0.0.1:8000, rebuilt on every change.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL = $(BIN)/pip install --quiet --constraint constraints.txt

.PHONY: venv demo test slow lint docs docs-serve mmdet clean

demo: $(VENV)/.installed
	$(BIN)/harness sweep mini
	$(BIN)/harness report mini

test: $(VENV)/.test-installed
	$(BIN)/pytest --numprocesses=auto --durations=25

# Swin-L, long training, a SLURM cluster under chaos: minutes each.
slow: $(VENV)/.test-installed
	$(BIN)/pytest -m slow

lint: $(VENV)/.dev-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The variable silences an advertisement of mkdocs-material.
docs docs-serve: export NO_MKDOCS_2_WARNING = 1

docs: $(VENV)/.docs-installed
	$(BIN)/mkdocs build --strict

docs-serve: $(VENV)/.docs-installed
	$(BIN)/mkdocs serve

venv: $(VENV)/.installed

mmdet: $(VENV)/.mmdet-installed

# lvis and mmcv bring opencv-python, which needs a display's libraries; the headless build takes its place.
define install_headless
	$(INSTALL) --editable '$(1)'
	$(BIN)/pip uninstall --quiet --yes opencv-python
	$(INSTALL) --force-reinstall --no-deps opencv-python-headless
	touch $@
endef

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --editable .
	touch $@

$(VENV)/.test-installed: $(VENV)/.installed
	$(call install_headless,.[test])

$(VENV)/.dev-installed: $(VENV)/.installed
	$(call install_headless,.[dev])

$(VENV)/.docs-installed: $(VENV)/.installed
	$(INSTALL) --editable '.[docs]'
	touch $@

$(VENV)/.mmdet-installed: $(VENV)/.installed
	$(call install_headless,.[mmdet])
	@# mmdet's yapf writes its grammar to the user's cache when it is first imported; tests would do so all at once.
	$(BIN)/python -c 'import yapf'

clean:
	rm -rf $(VENV) runs report site
