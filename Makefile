# make demo [MODEL=smollm2-135m]    set up, then two rounds of a tiny model, by default gemma-3-270m
# make test    set up, then the tests
# make check   format, lint, types, directions                        make fix     format and mend what can be mended
# make docs    the command reference and what shells complete, from the code         make coverage    how much of the code the tests run
# make test-all    the slow tests too
# make bench   minisheep and its peers, as JSON lines     make house   files, lines, circles, repeated names
# make mutants     breaks promises, one at a time, and sees whether the tests notice
# make gpu-check [WHEELS=FOLDER] [ARGS="--resume --only train"]    what needs an NVIDIA GPU, into docs/gpu-check.json, .md
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO_READY := $(VENV)/.demo-ready
TORCH_CPU := torch==2.13.0
# Where pip finds no wheel, llama.cpp is built here; half of its build is for tools that minisheep does not use.
export CMAKE_ARGS ?= -DLLAVA_BUILD=OFF

# With a folder of wheels and sdists, every pip below takes from it and uses no network.
ifdef WHEELS
export PIP_NO_INDEX := 1
export PIP_FIND_LINKS := $(abspath $(WHEELS))
endif

.PHONY: all setup demo test test-all test-fast test-model test-slow check fix coverage house mutants docs bench gpu-check clean

all: check test

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# Without an NVIDIA GPU, a CPU build of torch goes first: plain torch would bring gigabytes of CUDA packages. With one,
# a prebuilt llama.cpp goes first, and a torch whose CUDA the driver runs, with the libraries that llama.cpp needs;
# where there is none, llama.cpp is built with CUDA if its compiler is here, and else `minisheep doctor` says what to do.
$(DEMO_READY): pyproject.toml | $(BIN)/python
	@set -e; if ! nvidia-smi >/dev/null 2>&1; then \
	  echo "Installing torch for the processor (200 MB), quietly: a few minutes."; \
	  $(BIN)/python -m pip install --quiet "$(TORCH_CPU)"; \
	  echo "Installing the rest; llama.cpp is built from source where there is no wheel, which takes minutes the first time."; \
	  $(BIN)/python -m pip install --quiet --editable ".[plots]"; \
	else \
	  first="$$($(BIN)/python -m minisheep.machine.cuda_setup)"; \
	  if [ -n "$$first" ] && eval "$(BIN)/python -m pip install --quiet $$first"; then \
	    echo "llama.cpp with CUDA is installed, prebuilt."; \
	  elif command -v nvcc >/dev/null 2>&1; then \
	    echo "No prebuilt llama.cpp suits this machine: it is built with CUDA, which takes 10 to 30 minutes, once."; \
	    export CMAKE_ARGS="$(CMAKE_ARGS) -DGGML_CUDA=on -DGGML_NATIVE=on"; \
	  else \
	    echo "WARNING: no prebuilt llama.cpp suits this machine and there is no nvcc to build one with CUDA: this one is for the processor. See \`minisheep doctor\`."; \
	  fi; \
	  $(BIN)/python -m pip install --quiet --editable ".[gpu,plots]"; \
	fi
	touch $@

$(READY): $(DEMO_READY)
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

setup: $(READY)

# The terms of the model are shown before its files are fetched.
demo: $(DEMO_READY)
	$(BIN)/minisheep align --preset demo $(if $(MODEL),--model $(MODEL))

test: test-fast test-model

test-all: test test-slow

test-fast: $(READY)
	$(BIN)/python -m pytest -n 2

test-model: $(READY)
	$(BIN)/python -m pytest -m "model and not slow" -vv --durations=25

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow -vv --durations=10

coverage: $(READY)
	$(BIN)/python -m pytest --cov=minisheep --cov-report=term-missing:skip-covered

house: $(READY)
	$(BIN)/python -m tools.house

mutants: $(READY)
	$(BIN)/python -m tools.mutants

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tools.house --check

fix: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(READY)
	$(BIN)/python -m tools.reference > docs/commands.md
	$(BIN)/python -m tools.reference --completion > minisheep/data/completion.json

# Its output is the figures alone.
bench: $(READY)
	@$(BIN)/python -m benchmarks loop --json

# llama.cpp with CUDA and Unsloth are installed by the check itself, where there is a GPU.
gpu-check: $(DEMO_READY)
	$(BIN)/python -m benchmarks.gpucheck $(if $(WHEELS),--wheels "$(abspath $(WHEELS))") $(ARGS)

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage dist
