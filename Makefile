# make app: install what is missing and open the workbench on the packaged demo.
# make results: write the tables and figures of the experiments from their raw measurements.
# make test: install what is missing, check style and types, and run all tests.
# make test-unit: the tests that start no process, which take a minute or two.
# make test-nightly: what other versions of transformers read in folders written here; needs a package index.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CHROMIUM_STAMP := $(VENV)/.browser-looked-for
SLURM_STAMP := $(VENV)/.slurm-looked-for
PYTEST := HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist worksteal
export CLP_WORKSPACE ?= $(CURDIR)/workspace

.PHONY: install app demo test test-unit test-nightly lint format browser slurm results gpu-kit clean

install: $(STAMP)

$(STAMP): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed; name one: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep -o '^torch==[0-9.]*' requirements.txt)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[test]"
	@touch $@

demo: install
	$(BIN)/clp demo

app: demo
	$(BIN)/clp app $(APP_ARGS)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The browser tests need Chromium; Debian's is installed where root and apt are there.
browser: $(CHROMIUM_STAMP)

$(CHROMIUM_STAMP): $(STAMP)
	@if ! command -v chromium chromium-browser google-chrome >/dev/null 2>&1; then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null; \
	  else echo "NO BROWSER FOUND: the browser tests will be skipped. Install chromium to run them."; fi; fi
	@touch $@

# Some tests start a Slurm of their own; Debian's is installed where root and apt are there.
slurm: $(SLURM_STAMP)

$(SLURM_STAMP): $(STAMP)
	@if ! PATH="$$PATH:/usr/sbin" command -v slurmctld >/dev/null 2>&1; then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
	      slurmctld slurmd slurm-client munge >/dev/null; \
	  else echo "NO SLURM FOUND: the tests on a real Slurm will be skipped. Install slurm-wlm and munge to run them."; fi; fi
	@touch $@

test: install browser slurm lint
	$(PYTEST) --durations 20 $(PYTEST_ARGS)

test-unit: install
	$(PYTEST) -m unit --durations 5 $(PYTEST_ARGS)

test-nightly: install
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n 0 -m nightly --durations 5 $(PYTEST_ARGS)

# Tables, numbers and figures in the documents, made again from the raw measurements in notebooks/experiments.
results: install browser
	$(BIN)/python -m scripts.publish_results

# What a GPU machine without network lacks, in parts that fit one transfer each; docs/gpu.md says how it is used.
# SOURCE=DIR and CORPORA=DIR add the experiment's source model and texts, FAISS=no leaves out FAISS for GPUs (360 MB).
gpu-kit: install
	$(BIN)/python benchmarks/gpu.py --pack .gpu-kit $(if $(SOURCE),--source "$(SOURCE)") \
	  $(if $(CORPORA),--corpora "$(CORPORA)") $(if $(filter no,$(FAISS)),--no-faiss)

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
