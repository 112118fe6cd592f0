# hostagent. `make help` lists what there is; `make demo` and `make test` need nothing but a Debian machine and root.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/hostagent
PYTEST := $(BIN)/python -m pytest
LAB ?= hostagent-lab
HOSTS ?= 3
export PATH := $(CURDIR)/$(BIN):$(PATH)

help: ## List the targets
	@grep -hE '^[a-z][a-z-]*:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 18

setup: $(VENV)/.done ## Make .venv and install what the machine lacks (Debian packages by apt, Python ones by lock file)

$(VENV)/.done: locks/dev.txt pyproject.toml .ci/packages
	@.ci/packages
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the Python packages of locks/dev.txt"
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r locks/dev.txt
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

fmt: setup ## Format code and tests
	$(BIN)/ruff format hostagent tests
	$(BIN)/ruff check --fix hostagent tests

lint: setup ## Ruff, import layers, YAML and Ansible rules
	$(BIN)/ruff format --check hostagent tests
	$(BIN)/ruff check hostagent tests
	$(BIN)/lint-imports --no-logo
	$(BIN)/yamllint --strict .
	$(BIN)/ansible-lint --offline --strict

types: setup ## mypy --strict on code and tests
	$(BIN)/mypy

test-unit: setup ## The pure core and what needs no kernel (seconds)
	$(PYTEST) tests/unit tests/repo

test-simulation: setup ## The ownership rules under seeded faults, in virtual time
	$(PYTEST) tests/simulation

test-netns: setup ## The edges on a real kernel, in namespaces of their own
	$(PYTEST) tests/netns

test-kube: setup ## The edges and CRDs on a real API server
	$(PYTEST) tests/kube

test-fabric: setup ## Real hosts, API server and traffic, the fabric itself included
	$(PYTEST) tests/fabric tests/fault tests/system tests/bgp

test-fault: setup ## The fault campaign's short form: each fault once, on real hosts
	$(PYTEST) tests/fault

test: setup lint types ## Everything: checks, unit, simulation, netns, API server, real hosts and faults, molecule
	$(PYTEST) tests/unit tests/repo tests/simulation tests/netns tests/kube tests/fabric tests/fault tests/system tests/bgp

molecule: setup ## The roles on real systemd hosts, every scenario: make molecule [S=cluster]
	$(BIN)/molecule test $(if $(S),-s $(S),--all)

soak: setup ## The simulation for longer: make soak [MINUTES=10] [SEED=1]
	$(BIN)/python -m tests.simulation.soak --minutes $(or $(MINUTES),10) $(if $(SEED),--seed $(SEED))

bench-allocation: setup ## How fast Services get addresses, what 10 000 cost an agent; writes docs/scale.md: [RUNS=3]
	@$(BIN)/python -m tests.bench.allocation --runs $(or $(RUNS),3)

bench-failover: setup ## Outages, fault by fault, many times; writes docs/failover.md: [RUNS=10] [FAULTS=a,b] [FRESH=1]
	@$(BIN)/python -m tests.bench.failover --runs $(or $(RUNS),10) $(if $(FAULTS),--faults $(FAULTS)) $(if $(FRESH),--fresh)

bench-bgp: setup ## From a change to the router's kernel, beside frr-reload; writes docs/bgp.md: [RUNS=10] [PRESENT=1,100]
	@$(BIN)/python -m tests.bench.bgp --runs $(or $(RUNS),10) $(if $(PRESENT),--present $(PRESENT))

bench-rollout: setup ## How long a rollout to many lab hosts takes; writes docs/rollout.md: [HOSTS=20]
	@$(BIN)/python -m tests.bench.rollout --hosts $(if $(filter command line,$(origin HOSTS)),$(HOSTS),20)

demo: setup ## The main job, end to end, on an embedded lab (KEEP=1 keeps the lab)
	@$(BIN)/python -m tests.fabric.demo $(if $(KEEP),--keep)

lab-up: setup ## A lab to play with: make lab-up [HOSTS=3]
	@$(BIN)/python -m tests.fabric up --name $(LAB) --hosts $(HOSTS)
	@$(BIN)/python -m tests.fabric.deploy

lab-sh: setup ## A root shell in a lab host: make lab-sh HOST=h1
	@$(BIN)/python -m tests.fabric sh --name $(LAB) $(HOST)

lab-down: setup ## Remove the lab and all of it
	@$(BIN)/python -m tests.fabric down --name $(LAB)

wheel: setup ## Build the project's wheel into dist/
	$(BIN)/python -m build --wheel --no-isolation

lock: setup ## Renew the lock files from pyproject.toml
	$(PYTHON) -m venv build/uv && build/uv/bin/pip install --quiet uv
	build/uv/bin/uv pip compile --quiet pyproject.toml --generate-hashes --python-version 3.11 -o locks/agent.txt --upgrade
	build/uv/bin/uv pip compile --quiet pyproject.toml --group dev --generate-hashes --python-version 3.11 -o locks/dev.txt --upgrade

check: lint types test-unit ## What a commit should pass (a minute)

clean: ## Remove what was built here; the cache stays (rm -r $(CACHE) removes that)
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

.PHONY: help setup fmt lint types test test-unit test-simulation test-netns test-kube test-fabric test-fault molecule \
  soak bench-allocation bench-failover bench-bgp bench-rollout demo lab-up lab-sh lab-down wheel lock check clean
