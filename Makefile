# Four commands: demo, test, lint, bench. Each makes its own environment first; nothing else is needed.
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
# Amazon's deferrable operators need aiobotocore, which wants an older botocore than everything else here.
PEER := .venv-peer
# Uncompiled, Airflow takes seconds longer to import, in each of its processes.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test lint bench clean

demo: $(VENV)/.ready
	@$(BIN)/python -m demo

test: $(VENV)/.ready
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.ready $(PEER)/.ready
	@GLUERAY_BENCH_PYTHON=$(PEER)/bin/python $(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) $(PEER)

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
