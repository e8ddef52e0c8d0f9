# `make` is a convenience: README gives the plain command behind each target.
VENV = .venv
# Which versions to install: locked (requirements/core.lock), newest, lowest, or colab.
VERSIONS = locked
# Passed on to the command behind a target: make run ARGS="--dataset camvid --data-dir DIR -p epochs 5".
ARGS =
PY := $(VENV)/bin/python

# The first Python the notebooks run on; looked for only where the environment is still missing.
CANDIDATES := python3 python3.13 python3.12 python3.11 python
PYTHON ?= $(shell for name in $(CANDIDATES); do \
	"$$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null \
	&& echo "$$name" && break; done)
# Colab's Python; a name that only stands for one (a shim of pyenv) is passed over.
COLAB_PYTHON ?= $(shell for name in python3.13 python3 python $(wildcard $(HOME)/.pyenv/versions/3.13.*/bin/python); do \
	"$$name" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 13))' 2>/dev/null && echo "$$name" && break; done)
STARTER = $(if $(wildcard $(PY)),$(PY),$(PYTHON))

SET_UP = @starter="$(STARTER)"; test -n "$$starter" || { \
	echo "No Python 3.11, 3.12 or 3.13 was found here (tried: $(CANDIDATES)):" \
	     "install one, or name yours, as in: make run PYTHON=/path/to/python3.13" >&2; exit 1; }; \
	"$$starter" tools/set_up.py --venv "$(VENV)" --versions $(VERSIONS)

.DEFAULT_GOAL := help
.PHONY: help set-up set-up-extra run test test-quick test-all test-colab site bench lab notebooks lock clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

set-up: ## create .venv and install the core and this repository; done first by the targets below
	$(SET_UP)

set-up-extra:
	$(SET_UP) --extra

run: set-up ## run notebooks 01 to 05 end to end into results/runs/; ARGS="..." goes to tools.run
	@$(PY) -m tools.run $(ARGS)

test: set-up-extra ## run the tests, and compare what the notebooks print with what is stored (nbval)
	@$(PY) -m pytest -n auto --maxprocesses 4 --dist loadscope --nbval tests notebooks $(ARGS)

# The files that found most of the faults that were planted, for the seconds they take.
QUICK = $(addprefix tests/core/test_,$(addsuffix .py,labels metrics images datasets recipes pipeline \
	inference plots models)) $(addprefix tests/tools/test_,$(addsuffix .py,check convert run predict)) \
	$(addprefix tests/dev/test_,$(addsuffix .py,dependencies repository style))
test-quick: set-up-extra ## the tests that find most faults per second, in three minutes; no notebooks
	@$(PY) -m pytest -n auto --maxprocesses 4 --dist loadscope $(QUICK) $(ARGS)

test-all: set-up-extra ## the same, and what is slow: several processes, JAX, random kills, all notebooks on odd data
	@$(PY) -m pytest -n auto --maxprocesses 4 --dist loadscope --nbval -m "slow or not slow" tests notebooks $(ARGS)

test-colab: ## the same tests with Google Colab's versions, in .venv-colab; needs Python 3.13
	@test -n "$(COLAB_PYTHON)" || { echo "Colab has Python 3.13, and none was found here: install it, or name" \
		"yours, as in: make test-colab COLAB_PYTHON=/path/to/python3.13" >&2; exit 1; }
	@$(MAKE) --no-print-directory test VENV=.venv-colab VERSIONS=colab PYTHON="$(COLAB_PYTHON)"

site: ## build the web site into build/site from the stored outputs; needs Node.js, runs no notebook
	@test -x .venv-site/bin/sphinx-build || { $(STARTER) -m venv .venv-site && \
		.venv-site/bin/python -m pip install --quiet --require-hashes -r requirements/site.lock; }
	@.venv-site/bin/python docs/build.py

bench: set-up ## measure speed beside what people use otherwise; ARGS="scores" for one section
	@$(PY) -m dev.bench $(ARGS)

lab: set-up ## open the notebooks in JupyterLab
	@$(PY) -m jupyter lab --notebook-dir=notebooks $(ARGS)

notebooks: set-up-extra ## run the notebooks again, store their outputs and refresh results/
	@$(PY) -m dev.notebooks $(ARGS)

# The second file is held to the versions of the first, so that both fit into one environment.
COMPILE = $(PY) -m uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --custom-compile-command "make lock" --upgrade
lock: set-up-extra ## renew requirements/core.lock and requirements/extra.lock from the ranges
	$(COMPILE) requirements/core.txt -o requirements/core.lock
	$(COMPILE) requirements/extra.txt -c requirements/core.lock -o requirements/extra.lock
	$(COMPILE) requirements/site.txt -o requirements/site.lock

clean: ## remove the environments and caches; your runs in results/runs/ stay
	rm -rf .venv .venv-colab .venv-newest .venv-lowest .venv-site .pytest_cache build *.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +
	find . -name .ipynb_checkpoints -prune -exec rm -rf {} +
