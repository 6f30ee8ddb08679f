# `make venv` once; then `make demo`, `make test`, `make lint`. Nothing but Python 3.11, git and make is needed.
PYTHON ?= python3
BIN := .venv/bin
DEMO := demo

.PHONY: venv demo test test-fast lint format clean

venv: .venv/.installed

.venv/.installed: requirements-tested.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --requirement requirements-tested.txt
	$(BIN)/pip install --quiet --no-deps --editable .
	touch $@

# Rendered scenes, so that nothing has to be downloaded: build, train, evaluate, draw.
demo: venv
	$(BIN)/python data/build.py --dataset=synthetic --teacher=scene --data_dir=$(DEMO)/data
	$(BIN)/python train.py --config=configs/demo.py --config.data_dir=$(DEMO)/data --workdir=$(DEMO)/run
	$(BIN)/python -m jaxdbd evaluate --weights=$(DEMO)/run --dataset=dbd/synthetic --data_dir=$(DEMO)/data --out=$(DEMO)/evaluation
	@echo "panel: $(DEMO)/evaluation/panel.png   report: $(DEMO)/evaluation/report.md"

test: venv
	$(BIN)/python -m pytest --numprocesses=2

test-fast: venv
	$(BIN)/python -m pytest -m "not slow"

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: venv
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .cache $(DEMO) build dist *.egg-info
