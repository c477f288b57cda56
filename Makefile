# Three sizes of the suite: `make check` takes a minute, `make test` ten, `make test-full` is for CI. Each target makes
# its own environment first; nothing but git, make and Python 3.11 or newer is needed.
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv
# Amazon's deferrable operators need aiobotocore, which wants an older botocore than everything else here.
PEER := .venv-peer
# AWS's own Jupyter kernel, the last that knows Ray, for a test: what it imports, not all the servers it asks for.
KERNEL := .venv-kernel
KERNEL_PACKAGES := aws-glue-sessions==1.0.5 hdijupyterutils==0.23.0
KERNEL_NEEDS := boto3 importlib-metadata ipykernel requests tabulate
# The oldest Ray that the hook for Ray clusters speaks to, for its tests.
RAY29 := .venv-ray29
RAY29_PACKAGES := 'ray[default]==2.9.3' 'setuptools<80' 'click<8.2'
# For tests: the pip of Python 3.11.0, the oldest uv that obeys no-index in its uv.toml, and the newest of both.
TOOLS := .venv-tools
TOOLS_PACKAGES := pip==22.3 pip uv==0.2.12 uv
# Uncompiled, Airflow takes seconds longer to import, in each of its processes.
unexport PYTHONDONTWRITEBYTECODE
# What runs on the cluster is Python 3.9, which ruff checks; this is the oldest that mypy knows.
STEP_PYTHON := 3.10
# Two workers for two cores; the tests of a file stay together, since they share what they set up.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: demo check test test-full kubernetes kubernetes-newest test-kuberay test-kuberay-quick matrix matrix-ends release-check lint bench clean python39

demo: $(VENV)/.ready
	@$(BIN)/python -m demo

check: lint
	$(PYTEST) -m 'not service and not full and not kubernetes'

test: $(VENV)/.ready
	$(PYTEST) -m 'not full and not kubernetes'

test-full: $(VENV)/.ready $(KERNEL)/.ready $(RAY29)/.ready $(TOOLS)/.ready python39
	$(PYTEST) -m 'not kubernetes' --cov --cov-report=term:skip-covered

# A real Kubernetes with KubeRay in each release that is tested, from Go modules: minutes once, which needs Go.
kubernetes: $(VENV)/.ready
	@$(BIN)/python -m tests.kubernetes.build

# The same with the newest release only, for CI.
kubernetes-newest: $(VENV)/.ready
	@$(BIN)/python -m tests.kubernetes.build newest

# The contract, the scenes and KubeRay itself on it; with GLUERAY_TEST_KUBERAY, on a cluster of yours.
test-kuberay: $(VENV)/.ready
	@$(BIN)/python -m tests.kubernetes.suite $(OPTIONS)

# The newest release without what takes long, for CI.
test-kuberay-quick: $(VENV)/.ready
	@$(BIN)/python -m tests.kubernetes.suite --quick $(OPTIONS)

# The built wheel under other releases of Airflow and Python; CELLS names some, OPTIONS is for --help.
matrix: $(VENV)/.ready
	$(BIN)/python -m tests.matrix $(OPTIONS) $(CELLS)

# The lowest that the package allows, and the newest, for CI.
matrix-ends: $(VENV)/.ready
	$(BIN)/python -m tests.matrix --quick lowest-py3.10 3.3.2-py3.13

release-check: $(VENV)/.ready
	@GLUERAY_REPOSITORY=$(REPOSITORY) $(BIN)/python -m tests.release

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --python-version $(STEP_PYTHON) -p airflow_provider_glueray.glueray_step
	$(BIN)/lint-imports --no-logo --no-cache
	$(BIN)/python -m tests.lint

bench: $(VENV)/.ready $(PEER)/.ready
	@GLUERAY_BENCH_PYTHON=$(PEER)/bin/python $(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) $(PEER) $(KERNEL) $(RAY29) $(TOOLS) .kubernetes

# uv is a package like any other: pip brings it, and it brings the rest in seconds.
$(VENV)/.ready: pyproject.toml constraints.txt
	@echo "Making $(VENV) (a minute or two the first time)"
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	@python3 -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv
	@$(UV) pip install --quiet --compile-bytecode --python $(BIN)/python -c constraints.txt -e '.[local]' --group dev
	@touch $@

# AWS's runtime is on this Python; uv brings one where there is none.
python39: $(VENV)/.ready
	@$(BIN)/python -c 'from airflow_provider_glueray.local.runtime.environments import RAY24, RUNTIME_SPECS, find_python; \
	  find_python(RUNTIME_SPECS[RAY24])' 2>/dev/null || $(UV) python install 3.9

$(PEER)/.ready: $(VENV)/.ready
	@echo "Making $(PEER), to measure a peer in"
	@$(UV) venv --quiet --clear --python $(BIN)/python $(PEER)
	@$(UV) pip install --quiet --compile-bytecode --python $(PEER)/bin/python $$($(BIN)/python -m benchmarks.peer)
	@touch $@

$(KERNEL)/.ready: $(VENV)/.ready
	@echo "Making $(KERNEL), to test with AWS's own Jupyter kernel"
	@$(UV) venv --quiet --clear --python $(BIN)/python $(KERNEL)
	@$(UV) pip install --quiet --compile-bytecode --python $(KERNEL)/bin/python -c constraints.txt $(KERNEL_NEEDS)
	@$(UV) pip install --quiet --compile-bytecode --python $(KERNEL)/bin/python --no-deps $(KERNEL_PACKAGES)
	@touch $@

$(RAY29)/.ready: $(VENV)/.ready
	@echo "Making $(RAY29), to test with an old Ray"
	@$(UV) venv --quiet --clear --python $(BIN)/python $(RAY29)
	@$(UV) pip install --quiet --compile-bytecode --python $(RAY29)/bin/python $(RAY29_PACKAGES)
	@touch $@

$(TOOLS)/.ready: $(VENV)/.ready
	@echo "Making $(TOOLS), to test with old and new package installers"
	@rm -rf $(TOOLS)
	@for package in $(TOOLS_PACKAGES); do \
	  $(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --target $(TOOLS)/$$package $$package || exit 1; \
	done
	@touch $@
