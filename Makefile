# make demo · make demo-gor · make demo-real · make test · make test-long · make bench: each does its own set-up in .venv
# make test-latest · make test-oldest: the contracts with other libraries, in environments of their own
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

CORES := $(shell env -u OMP_NUM_THREADS nproc)
export OMP_NUM_THREADS ?= $(CORES)
export TOKENIZERS_PARALLELISM ?= false
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: install demo demo-gor demo-real test test-long test-latest test-oldest bench clean

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

# Fetches a model and ratings, so it wants a network the first time; more than an hour on two cores.
demo-real: install
	bash recipes/demo_real.sh

# A worker a core, with one thread each: threads of several workers would spin against each other.
test test-long test-latest test-oldest: export OMP_NUM_THREADS := 1
PYTEST := $(BIN)/python -m pytest -q -n $(CORES) --dist worksteal

test: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(PYTEST) -m 'not long'

test-long: install
	$(PYTEST)

# What other libraries have to keep to: private methods that are overridden, imports, rewards in TRL's trainer.
CONTRACTS := tests/rarl/trainer/test_trl_contract.py tests/test_architecture.py tests/test_packaging.py \
	tests/gor_head/vlm/test_repairs.py tests/gor_head/test_vocabulary.py tests/rarl/rewards
NEWEST := accelerate datasets huggingface_hub peft torch torchvision transformers trl

# The newest versions that there are, whatever pyproject.toml says.
test-latest: VENV := .venv-latest
test-latest:
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --editable '.[test]'
	$(VENV)/bin/python -m pip install --quiet --upgrade $(NEWEST)
	$(VENV)/bin/python -m pip list | grep -E '^($(subst $() ,|,$(strip $(NEWEST)))) '
	RARL_UNSUPPORTED_VERSIONS=allow $(VENV)/bin/python -m pytest -q $(CONTRACTS)

# The oldest versions that pyproject.toml allows for all of it together.
test-oldest: VENV := .venv-oldest
test-oldest:
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(PYTHON) tests/oldest.py > $(VENV)/constraints.txt
	$(VENV)/bin/python -m pip install --quiet --constraint $(VENV)/constraints.txt --editable '.[test]'
	cat $(VENV)/constraints.txt
	$(VENV)/bin/python -m pytest -q $(CONTRACTS)

bench: install
	$(BIN)/python -m benchmarks.rewards
	$(BIN)/python -m benchmarks.rollout
	$(BIN)/python -m benchmarks.learner_step
	$(BIN)/python -m benchmarks.estimate
	$(BIN)/python -m benchmarks.credit
	$(BIN)/python -m benchmarks.train_step
	$(BIN)/python -m benchmarks.vocabulary
	$(BIN)/python -m benchmarks.gor_decode
	$(BIN)/python -m benchmarks.gor_train
	$(BIN)/python -m benchmarks.gor_vlm

clean:
	rm -rf $(VENV) .venv-latest .venv-oldest build *.egg-info
