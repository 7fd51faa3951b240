# make demo · make demo-gor · make test · make test-long · make bench: each does its own set-up in .venv
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

CORES := $(shell env -u OMP_NUM_THREADS nproc)
export OMP_NUM_THREADS ?= $(CORES)
export TOKENIZERS_PARALLELISM ?= false
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: install demo demo-gor test test-long bench clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(f"Python 3.11 or newer is wanted, {sys.version.split()[0]} seen; give PYTHON=...") if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[deepspeed,test]'
	touch $(STAMP)

demo: install
	bash recipes/demo.sh

demo-gor: install
	bash recipes/demo_gor.sh

# A worker a core, with one thread each: threads of several workers would spin against each other.
test test-long: export OMP_NUM_THREADS := 1
PYTEST := $(BIN)/python -m pytest -q -n $(CORES) --dist worksteal

test: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(PYTEST) -m 'not long'

test-long: install
	$(PYTEST)

bench: install
	$(BIN)/python -m benchmarks.rewards
	$(BIN)/python -m benchmarks.rollout
	$(BIN)/python -m benchmarks.learner_step
	$(BIN)/python -m benchmarks.estimate
	$(BIN)/python -m benchmarks.train_step
	$(BIN)/python -m benchmarks.vocabulary
	$(BIN)/python -m benchmarks.gor_decode
	$(BIN)/python -m benchmarks.gor_train
	$(BIN)/python -m benchmarks.gor_vlm

clean:
	rm -rf $(VENV) build *.egg-info
