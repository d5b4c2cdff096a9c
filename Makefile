# `make demo` and `make test` set up a local environment in .venv and need nothing but Python >= 3.11 and a package index.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
WORKERS ?= 2

FAST := architecture docstrings readme documents tables trees reference sharing encoders formats token_rules cli_usage

.PHONY: help setup demo test test-fast test-all test-portable lint check docs bench fuzz clean

help:
	@echo "make demo    train SPINN, SPINN-PI, LSTM and bag of words on a generated corpus, parse and classify a pair (3 minutes)"
	@echo "make test    run the tests (5 minutes on two quiet cores)"
	@echo "make test-fast  the tests that break first (a minute)"
	@echo "make test-all   the slow tests, too"
	@echo "make test-portable   the numerical tests under other arithmetic: SETTINGS=oldest is the gate's (2 minutes; all: 15)"
	@echo "make check   formatter, linter, type checker, then the tests"
	@echo "make docs    these documents as a site, in build/site"
	@echo "make bench   measure the encoders against their baselines (about 10 minutes, best on a quiet machine)"
	@echo "make fuzz    every reader on 100,000 damaged inputs or for five minutes (more than an hour)"
	@echo "make setup   only the environment, in .venv"

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $(READY)

demo: $(READY)
	$(BIN)/spinn demo --output runs/demo --overwrite

test: $(READY)
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

test-fast: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder $(FAST:%=tests/test_%.py)

test-all: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder -m "not gpu and not network" \
		--hypothesis-profile many

test-portable: $(READY)
	$(BIN)/python -m tests.portable --workers $(WORKERS) $(SETTINGS)

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

check: lint test

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 PYTHONPATH=. $(BIN)/python -m mkdocs build --strict

bench: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.encoders --dim 300 100

fuzz: $(READY)
	SPINN_FUZZ_EXAMPLES=100000 SPINN_FUZZ_SECONDS=300 $(BIN)/python -m pytest -q -s tests/test_fuzz_readers.py \
		tests/test_fuzz_vectors.py tests/test_fuzz_tokenizer.py

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
