# Every target sets up what it needs: a virtual environment in .venv, the packages, the example models, the server.
# `make` alone lists the targets.

PYTHON ?= python3
VENV ?= .venv
SPEC ?= models.yaml
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
PYTEST := $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help install install-dev models runtime repo repo-gpu repo-check serve serve-ngc test test-client-million test-long \
	test-gpu lint type format bench bench-perf agreement conformance trt-api fuzz schema constraints clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## (.*)/  \1\t\2/' | expand -t 16

$(BIN)/python:
	@echo "creating $(VENV)"
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 10) and f"tritonrepo needs Python 3.10 or later; $(PYTHON) is {v[0]}.{v[1]}: make PYTHON=python3.11 ...")'
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml client/pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing tritonrepo into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	@$(INSTALL) --editable . --editable client
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "installing the development tools"
	@$(INSTALL) --group dev
	@touch $@

install: $(VENV)/.installed  ## install tritonrepo into .venv
install-dev: $(VENV)/.installed-dev  ## install the development tools too

models: $(VENV)/.installed  ## fetch and write the example models
	@$(BIN)/python examples/fetch.py
	@$(BIN)/python examples/make_models.py

runtime: $(VENV)/.installed  ## install the embedded Triton server
	@$(BIN)/tritonrepo serve --install-only

repo: models  ## build model_repository/ from models.yaml
	@$(BIN)/tritonrepo build $(SPEC)

repo-gpu: models  ## build it with TensorRT plans, in the image that will serve (Docker, GPU)
	@$(BIN)/tritonrepo build $(SPEC) --in docker

repo-check: $(VENV)/.installed  ## check model_repository/ without a server
	@$(BIN)/tritonrepo check

serve: runtime  ## serve model_repository/ on 127.0.0.1 with the embedded server
	@$(BIN)/tritonrepo serve

serve-ngc: $(VENV)/.installed  ## serve model_repository/ with the NGC container (Docker, GPU)
	@$(BIN)/tritonrepo serve --with docker

test: install-dev models runtime  ## run the tests, real server included
	$(PYTEST) -n 2 --dist loadgroup -m "not slow and not gpu"

test-client-million: install-dev runtime  ## a million checked requests by 64 callers, four times
	$(BIN)/python benchmarks/client_million.py

test-long: install-dev models runtime  ## run all tests, the slow ones too: 300 kills, over 2 GiB
	TRITONREPO_KILLS=300 $(PYTEST)

test-gpu: install-dev  ## run the tests that need a GPU, TensorRT or both; they say what they skip
	$(PYTEST) -m gpu -rs tests/gpu

lint: install-dev  ## check style
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

format: install-dev  ## mend style
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

type: install-dev  ## check types
	@$(BIN)/mypy

bench: install-dev models runtime  ## measure what docs/benchmarks.md states
	@$(BIN)/python benchmarks/run.py

bench-perf: install-dev runtime  ## measure tritonrepo perf beside perf_analyzer, wrk and h2load
	@$(BIN)/python benchmarks/perf.py

agreement: install-dev runtime  ## compare `tritonrepo check` with the real server: every case and 20,000 mutants
	$(BIN)/python -m tests.agreement.run --count 20000

trt-api: install-dev  ## hold _tensorrt.py against the real bindings of TensorRT 10.8 to 11.4 (needs a C compiler)
	$(BIN)/python -m tests.tensorrt_api.check

fuzz: install-dev  ## give 10,000 mutants of ONNX files to the product; goes on where it was interrupted
	@PYTHONPATH=tests $(BIN)/python -m tests.fuzz.run --log .tritonrepo-fuzz.jsonl

conformance: install-dev models runtime  ## serve ONNX's own test cases and real networks, compare the answers
	$(BIN)/python -m tests.conformance.run
	$(BIN)/python -m tests.conformance.networks

schema: $(VENV)/.installed  ## write docs/models.schema.json
	@$(BIN)/tritonrepo schema > docs/models.schema.json

constraints:  ## resolve constraints.txt anew (needs uv)
	@{ sed -n 1p constraints.txt; uv pip compile --quiet --universal --python-version 3.10 --no-annotate --no-header \
		--no-emit-package tritonrepo-client pyproject.toml client/pyproject.toml --group dev | grep -v '^-'; \
	} > constraints.new && mv constraints.new constraints.txt

clean:  ## remove what builds leave behind; model_repository/ and .venv stay
	@rm -rf .tritonrepo .model_repository.tritonrepo .pytest_cache .mypy_cache .ruff_cache .hypothesis .tritonrepo-fuzz.jsonl dist
