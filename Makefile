# `make venv` once; then `make demo`, `make test`, `make lint`. Nothing but Python, git and make is needed.
PYTHON ?= python3
BIN := .venv/bin
DEMO := demo
# The tested pins are for Python 3.11. Elsewhere pip chooses from the ranges in pyproject.toml; ruff and pyright stay.
TESTED := requirements-tested.txt
LINTERS = $(shell grep -E '^(pyright|ruff)==' $(TESTED))

.PHONY: venv demo test test-fast test-large test-lowest lint format clean

venv: .venv/.installed

.venv/.installed: $(TESTED) pyproject.toml
	$(PYTHON) -m venv .venv
	if $(BIN)/python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))'; then \
		$(BIN)/pip install --quiet --requirement $(TESTED) && $(BIN)/pip install --quiet --no-deps --editable .; \
	else \
		$(BIN)/pip install --quiet --editable '.[dev,vgg,onnx,heif]' $(LINTERS); \
	fi
	touch $@

# Rendered scenes, so that nothing has to be downloaded: build, train, evaluate, draw.
demo: venv
	$(BIN)/python data/build.py --dataset=synthetic --teacher=scene --train_scenes=400 --data_dir=$(DEMO)/data
	$(BIN)/python train.py --config=configs/demo.py --config.data_dir=$(DEMO)/data --workdir=$(DEMO)/run
	$(BIN)/python -m jaxdbd evaluate --weights=$(DEMO)/run --dataset=dbd/synthetic --data_dir=$(DEMO)/data --out=$(DEMO)/evaluation
	@echo "panel: $(DEMO)/evaluation/panel.png   report: $(DEMO)/evaluation/report.md"

# A worker takes whole files, in the order of tests/conftest.py: the tests of a file share what they compile and build.
WORKERS := --numprocesses=2 --dist=loadfile --no-loadscope-reorder

test: venv
	$(BIN)/python -m pytest $(WORKERS) -m "not large"

test-fast: venv
	$(BIN)/python -m pytest $(WORKERS) -m "not slow"

test-large: venv
	$(BIN)/python -m pytest -m large

# What needs seconds, and training, with the lowest versions that requirements.txt and the extras allow.
LOWEST := .venv-lowest/bin

test-lowest:
	$(PYTHON) -m venv .venv-lowest
	$(LOWEST)/pip install --quiet uv
	$(LOWEST)/uv pip install --quiet --resolution lowest-direct --editable '.[dev,vgg,onnx,heif,app,gcs]'
	$(LOWEST)/python -m pytest $(WORKERS) -m "not slow"
	$(LOWEST)/python -m pytest tests/training/test_loop.py -k "promises or killed"

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: venv
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .venv-lowest .cache $(DEMO) build dist *.egg-info
