# Four commands: demo, test, lint, bench. Each makes its own environment first; nothing else is needed.
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
# Amazon's deferrable operators need aiobotocore, which wants an older botocore than everything else here.
PEER := .venv-peer
# AWS's own Jupyter kernel, the last that knows Ray, for a test: what it imports, not all the servers it asks for.
KERNEL := .venv-kernel
KERNEL_PACKAGES := aws-glue-sessions==1.0.5 hdijupyterutils==0.23.0
KERNEL_NEEDS := boto3 importlib-metadata ipykernel requests tabulate
# The oldest Ray that the hook for Ray clusters speaks to, for its tests.
RAY29 := .venv-ray29
RAY29_PACKAGES := 'ray[default]==2.9.3' 'setuptools<80' 'click<8.2'
# Uncompiled, Airflow takes seconds longer to import, in each of its processes.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test lint bench clean

demo: $(VENV)/.ready
	@$(BIN)/python -m demo

test: $(VENV)/.ready $(KERNEL)/.ready $(RAY29)/.ready
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.ready $(PEER)/.ready
	@GLUERAY_BENCH_PYTHON=$(PEER)/bin/python $(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) $(PEER) $(KERNEL) $(RAY29)

$(VENV)/.ready: pyproject.toml constraints.txt
	@echo "Making $(VENV) (a few minutes the first time)"
	@if command -v uv >/dev/null 2>&1; then \
	  uv venv --quiet --clear --python '>=3.11' $(VENV) && \
	  uv pip install --quiet --compile-bytecode --python $(BIN)/python -c constraints.txt -e '.[local]' --group dev; \
	else \
	  python3 -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")' && \
	  python3 -m venv --clear $(VENV) && \
	  $(BIN)/python -m pip install --quiet --upgrade pip && \
	  $(BIN)/python -m pip install --quiet -c constraints.txt -e '.[local]' --group dev; \
	fi
	@touch $@

$(PEER)/.ready: $(VENV)/.ready
	@echo "Making $(PEER), to measure a peer in"
	@$(BIN)/python -m venv --clear $(PEER)
	@if command -v uv >/dev/null 2>&1; then \
	  uv pip install --quiet --compile-bytecode --python $(PEER)/bin/python $$($(BIN)/python -m benchmarks.peer); \
	else \
	  $(PEER)/bin/python -m pip install --quiet $$($(BIN)/python -m benchmarks.peer); \
	fi
	@touch $@

$(KERNEL)/.ready: $(VENV)/.ready
	@echo "Making $(KERNEL), to test with AWS's own Jupyter kernel"
	@if command -v uv >/dev/null 2>&1; then \
	  uv venv --quiet --clear --python $(BIN)/python $(KERNEL) && \
	  uv pip install --quiet --compile-bytecode --python $(KERNEL)/bin/python -c constraints.txt $(KERNEL_NEEDS) && \
	  uv pip install --quiet --compile-bytecode --python $(KERNEL)/bin/python --no-deps $(KERNEL_PACKAGES); \
	else \
	  $(BIN)/python -m venv --clear $(KERNEL) && \
	  $(KERNEL)/bin/python -m pip install --quiet -c constraints.txt $(KERNEL_NEEDS) && \
	  $(KERNEL)/bin/python -m pip install --quiet --no-deps $(KERNEL_PACKAGES); \
	fi
	@touch $@

$(RAY29)/.ready: $(VENV)/.ready
	@echo "Making $(RAY29), to test with an old Ray"
	@if command -v uv >/dev/null 2>&1; then \
	  uv venv --quiet --clear --python $(BIN)/python $(RAY29) && \
	  uv pip install --quiet --compile-bytecode --python $(RAY29)/bin/python $(RAY29_PACKAGES); \
	else \
	  $(BIN)/python -m venv --clear $(RAY29) && $(RAY29)/bin/python -m pip install --quiet $(RAY29_PACKAGES); \
	fi
	@touch $@
