# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Fitting and its BLAS calls get the two cores they are tuned for; more threads than cores is many times slower.
export OMP_NUM_THREADS ?= 2
export GRAPHS_JOBS ?= 2

.PHONY: demo test lint types imports unit benchmark models clean
.DEFAULT_GOAL := test

# The extras in use are part of the stamp, so that `make demo` does not pay for the test tools.
$(VENV)/.demo: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[all]"
	touch $@

$(VENV)/.test: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

demo: $(VENV)/.demo
	$(BIN)/graphs train --hardware h100-sxm --out build/demo/models/h100-sxm
	$(BIN)/graphs estimate torchvision:resnet18 --hardware h100-sxm --batch 64 --dtype bf16 --calibration build/demo/models/h100-sxm
	$(BIN)/graphs estimate torchvision:resnet18 --hardware h100-sxm --batch 64 --dtype fp32 --calibration build/demo/models/h100-sxm
	$(BIN)/graphs validate --hardware h100-sxm --calibration build/demo/models/h100-sxm --json build/demo/accuracy.json --markdown build/demo/accuracy.md --html build/demo/accuracy.html
	@echo "The accuracy report is build/demo/accuracy.html (and .md, .json)."

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.test
	$(BIN)/mypy

imports: $(VENV)/.test
	$(BIN)/lint-imports

# One thread for each of the two workers: threads of one that wait for those of the other stall both.
unit: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2

test: lint types imports unit

benchmark: $(VENV)/.test
	$(BIN)/pytest tests/benchmarks --benchmark-only

# Refit what is committed under models/ from the tables in data/; models of public measurements need those
# (python -m training.external --fit), subgraph models theirs (python -m training.subgraphs).
models: $(VENV)/.demo
	for id in h100-sxm h200-sxm epyc-2c xeon-16c i7-12700k; do $(BIN)/graphs train --hardware $$id || exit 1; done

clean:
	rm -rf build $(VENV)
