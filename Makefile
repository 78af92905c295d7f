# `make help` lists what there is. The first target that needs it makes .venv with everything in it.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
NOTEBOOKS := notebooks
DEMO_EXIT ?=
# Rows that `make bench` measures shortly; benchmarks/results has the long ones
SHORT_ROWS := build/bench
# Processes that share the tests: three for two cores, as browsers, kernels and deadlines are waited for. A module's
# tests stay in one, as they share servers and models.
PROCESSES ?= 3
TESTS = $(BIN)/python -m pytest --numprocesses=$(PROCESSES) --dist=loadfile --no-loadscope-reorder
# Tests start hundreds of programs, each of which would compile anew all that it imports
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo lab serve test test-here test-other-pythons test-fast test-clients check docs notebooks pictures bench cluster-check gpu-check model-table parallel-table vision-table format clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.installed ## Run notebooks 01-04 on the pocket model and serve (DEMO_EXIT=1 ends by itself)
	@$(BIN)/python tools/demo.py $(if $(DEMO_EXIT),--exit)

lab: $(VENV)/.installed ## Open JupyterLab on the notebooks
	$(BIN)/llmapi-kit notebooks $(NOTEBOOKS)

serve: $(VENV)/.installed ## Serve the pocket model from a terminal
	$(BIN)/llmapi-kit serve pocket

test: $(VENV)/.installed $(VENV)/.programs $(VENV)/.client ## Set up what is missing and run all tests, on other Pythons too
	@$(MAKE) --no-print-directory $(if $(findstring --jobserver,$(MAKEFLAGS)),,--jobs=2) test-here test-other-pythons

# Beside each other: browsers and kernels that one waits for leave time for the other.
test-here:
	$(TESTS)

test-other-pythons: $(VENV)/.installed
	@$(BIN)/python tools/other_pythons.py

test-fast: $(VENV)/.installed ## Run the tests that are not marked slow, for in between
	$(TESTS) -m "not slow and not clients and not gpu and not cluster"

test-clients: $(VENV)/.installed $(VENV)/.programs ## Run agents and tools that others wrote against the server
	$(BIN)/python tools/client_environments.py
	$(BIN)/python -m pytest -m '' tests/clients

check: $(VENV)/.installed docs ## Lint, types, import direction, stripped notebooks, docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/shellcheck code-server.sh .ci/run
	$(BIN)/nbstripout --keep-id --verify $(NOTEBOOKS)/*.ipynb

docs: $(VENV)/.installed ## Build the documentation into build/site
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

notebooks: $(VENV)/.installed ## Run every notebook in a real kernel, twice
	$(BIN)/python -m pytest tests/notebooks

vision-table: $(VENV)/.installed ## Try every model family that sees and write docs/vision_families.md
	$(BIN)/python -m tools.vision_table

pictures: $(VENV)/.installed $(VENV)/.programs ## Take the documentation's pictures, in a real JupyterLab
	$(BIN)/python tools/pictures.py
	$(BIN)/python tools/page_pictures.py

bench: $(VENV)/.installed ## Measure this server beside others; quantized, adapters, embeddings, long context
	$(BIN)/python -m benchmarks.serving
	$(BIN)/python -m benchmarks.quantized --streams 1,8 --repeats 2 --results $(SHORT_ROWS)
	$(BIN)/python -m benchmarks.adapters --streams 4 --steps C --repeats 2 --results $(SHORT_ROWS)
	$(BIN)/python -m benchmarks.embeddings --results $(SHORT_ROWS)
	$(BIN)/python -m benchmarks.long_context --tokens 2048 --repeats 1 --results $(SHORT_ROWS)

cluster-check: $(VENV)/.installed ## Kill replicas of a Ray cluster for minutes, under load
	$(BIN)/python -m pytest -m cluster tests/cluster tests/engines/process

model-table: $(VENV)/.installed ## Try every model family of transformers and write docs/model_families.md
	$(BIN)/python -m tools.model_table

parallel-table: $(VENV)/.installed ## Try tensor_parallel with every model family that has a plan for it
	$(BIN)/python -m tools.parallel_table

# Without an environment here: the Python that has torch. GPU_CHECK=--install installs what it lacks.
gpu-check: ## Check the kit on a GPU, in under 7 minutes (GPU_CHECK=--install)
	@$(if $(wildcard $(BIN)/python),$(BIN)/python,python3) tools/gpu_check.py $(GPU_CHECK)

format: $(VENV)/.installed ## Format the code and strip the notebooks
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .
	$(BIN)/nbstripout --keep-id $(NOTEBOOKS)/*.ipynb

clean: ## Remove the virtual environments and caches
	rm -rf .venv .venv-* .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist

$(VENV)/.installed: pyproject.toml constraints.txt tools/install.py
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is needed; pass another with PYTHON=python3"; exit 1; }
	@test -x $(BIN)/python || { echo "Making $(VENV) ..."; $(PYTHON) -m venv $(VENV); }
	@echo "Installing into $(VENV); the first time takes some minutes ..."
	@$(BIN)/python tools/install.py -c constraints.txt -e '.[all,test,dev]'
	@touch $@

# Programs that tests run beside Python; CHROMIUM names a Chromium that is not on PATH.
$(VENV)/.programs: $(VENV)/.installed tools/test_programs.py $(wildcard examples/javascript/package.json tests/browser/package.json)
	@$(BIN)/python tools/test_programs.py
	@touch $@

# The one client of tests/clients that `make test` runs
$(VENV)/.client: $(VENV)/.installed tools/client_environments.py tests/clients/pydantic_ai/requirements.txt
	@$(BIN)/python tools/client_environments.py pydantic_ai
	@touch $@
