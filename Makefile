# What people run; .ci/run calls the same targets.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# Containers often forbid Python to keep what it compiles: each of the processes here would compile PyTorch again, 4 s
unexport PYTHONDONTWRITEBYTECODE
# Python compiles what it imports when it does so; compiling all of PyTorch beforehand doubles the set-up
PIP    := $(BIN)/python -m pip install --no-compile --quiet --disable-pip-version-check -c constraints.txt
# two more than there are cores: many tests wait for processes
WORKERS := $(shell $(PYTHON) -c "import os; print(2 + (os.cpu_count() or 1))")
TORCH  := $(shell grep '^torch==' constraints.txt)

.PHONY: setup demo test lint format typecheck clean fuzz chaos
.DELETE_ON_ERROR:

setup: $(VENV)/.everything      ## everything that development and tests need

$(VENV)/.base: pyproject.toml constraints.txt
	@echo "Setting up $(VENV) (PyTorch and a dozen packages, about a minute) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) $(TORCH)            # first and pinned: any other way of asking for torch pulls in CUDA
	@$(PIP) -e .
	@touch $@

$(VENV)/.everything: $(VENV)/.base
	@echo "Adding what tests and linters need ..."
	@$(PIP) -e '.[hub,postgres,test,dev]'
	@touch $@

demo: $(VENV)/.base             ## the quickstart round, from submit to summary
	@FSQ_HOME=$(CURDIR)/demo $(BIN)/fsq run examples/quickstart.yaml
	@echo "to look at it again: FSQ_HOME=demo $(BIN)/fsq status quickstart, or its pages: FSQ_HOME=demo $(BIN)/fsq serve"

test: setup                     ## the test suite
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadscope --no-loadscope-reorder

chaos: setup                    ## hundreds of kills on both databases, from a seed that is printed; about half an hour
	@$(BIN)/python -m pytest -m chaos -s tests/faults tests/chaos

lint: setup                     ## style, formatting and the import layers
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports

format: setup
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

typecheck: setup                ## mypy --strict; of the benchmarks, that they call what there is
	@$(BIN)/mypy
	@MYPYPATH=benchmarks $(BIN)/mypy --config-file= --ignore-missing-imports --follow-imports=silent \
	    --disable-error-code=misc --cache-dir=.mypy_cache/benchmarks benchmarks/*.py

# atheris keeps to itself: it is no part of the environment that everything else runs in
$(VENV)/fuzz: | setup
	@$(PIP) --no-deps --target $@ 'atheris==3.0.0'

SECONDS ?= 60
FUZZ_TARGETS ?= $(shell $(BIN)/python -m tests.fuzz.targets)
fuzz: $(VENV)/fuzz              ## every way in under a coverage-guided fuzzer, SECONDS (60) each
	@for target in $(FUZZ_TARGETS); do \
	    echo "$$target ..."; \
	    PYTHONPATH=$(VENV)/fuzz $(BIN)/python -m tests.fuzz.coverage_guided $$target $(SECONDS) || exit 1; \
	done

clean:                          ## removes the environment, caches and the demo's output
	rm -rf $(VENV) demo .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
