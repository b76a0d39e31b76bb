# What one types in this checkout. `make` alone lists it.
SHELL := /bin/bash
PYTHON := .venv/bin/python

.PHONY: help setup demo test full chaos engines lint generated clean
.DEFAULT_GOAL := help

help: ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: ## .venv, a Docker Engine, the step image; only what is missing
	@scripts/setup

demo: setup ## the main job, end to end, on examples/
	@scripts/demo

# A file's tests share runs and a server, so a file stays with one process. Most of a journey is waiting.
test: setup ## the test suite, short form, in two processes
	@$(PYTHON) -m pytest -n 2 --dist loadfile

full: setup ## the test suite with the long tests, and every property tried twenty times as often
	@HYPOTHESIS_PROFILE=full $(PYTHON) -m pytest --long

chaos: setup ## kill, break and fill up what runs stand on, in hundreds of rounds (docs/chaos.md)
	@$(PYTHON) -m pytest tests/chaos --long --reruns=0 -s

engines: setup ## Podman and gVisor beside the engine of this machine, for their tests (as root)
	@scripts/engines start

# mypy must see the four rooms under their import name; an editable install hides it behind an import hook.
lint: ## ruff, its formatter, mypy strict
	@scripts/setup --python
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m ruff format --check .
	@$(PYTHON) scripts/make_seccomp.py --check
	@$(PYTHON) scripts/make_policy_docs.py --check
	@$(PYTHON) scripts/make_probe_docs.py --check
	@mkdir -p build/typing/workflowmaster
	@for room in flows blocks policies analytics; do ln -sfn ../../../$$room build/typing/workflowmaster/$$room; done
	@cd build/typing && MYPYPATH=. ../../$(PYTHON) -m mypy --config-file ../../pyproject.toml \
	  -p workflowmaster.flows -p workflowmaster.blocks -p workflowmaster.policies -p workflowmaster.analytics

generated: ## write the seccomp profiles and the tables of docs/policies.md anew
	@scripts/setup --python
	@$(PYTHON) scripts/make_seccomp.py
	@$(PYTHON) scripts/make_policy_docs.py
	@$(PYTHON) scripts/make_probe_docs.py

clean: ## remove what building and testing left; .venv and images stay
	@rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find flows blocks policies analytics tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +
