# `make demo` and `make test` need nothing but git, make and Python 3.11 or later.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

BIN := .venv/bin
PLUGINS := $(patsubst %/pyproject.toml,%,$(wildcard plugins/*/pyproject.toml))
PACKAGES := busframe $(wildcard plugins/*/busframe_*)
SOAKS := $(wildcard tests/conformance/test_soak.py plugins/*/tests/test_soak.py)
READY := .venv/.ready
# Most tests wait for a server most of the time; a class or a module of them shares one, and stays together.
JOBS := 3
# The plugins' tests may need what the conformance kit needs, so everything is in one environment.
INPUTS := requirements/dev.txt pyproject.toml $(PLUGINS:=/pyproject.toml)

.PHONY: help demo test lint types unit soak bench server format requirements clean

help: ## show this list
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 22

demo: $(READY) ## run the shop example: URL=amqp://… for a broker, ORDERS=n
	@$(BIN)/python examples/02-orders/main.py $(if $(URL),--url '$(URL)') $(if $(ORDERS),--orders '$(ORDERS)')

test: lint types ## check everything, start the servers that can be had, run all tests
	$(BIN)/coverage erase
	$(BIN)/python -m pytest -n $(JOBS) --dist loadscope --cov --cov-report= $(ARGS)
	$(BIN)/coverage report
	@echo 'model and logic: each branch of them is to be tested'
	$(BIN)/coverage report --include='busframe/model/*,busframe/logic/*' --fail-under=100

lint: $(READY) ## check style, formatting and layers
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports

types: $(READY) ## check types with mypy and pyright
	$(BIN)/mypy $(addprefix -p ,$(notdir $(PACKAGES)))
	$(BIN)/mypy tests $(wildcard plugins/*/tests)
	$(BIN)/basedpyright

unit: $(READY) ## run the tests that need no server and no patience
	$(BIN)/python -m pytest -m 'not slow and not broker' $(ARGS)

soak: $(READY) ## run the checks that take long, in memory and on each broker: MINUTES=n, SEED=n
	@seed=$(or $(SEED),$$RANDOM); echo "SEED=$$seed"; BUSFRAME_TEST_SOAK_S=$$((60 * $(or $(MINUTES),3))) \
	BUSFRAME_TEST_SOAK_SEED=$$seed $(BIN)/python -m pytest $(SOAKS) $(ARGS)

bench: $(READY) ## measure, and compare with other frameworks
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements/bench.txt
	$(BIN)/python -m tests.benchmarks $(ARGS)

server: $(READY) ## run a server until Ctrl-C: NAME=rabbitmq, ARGS='--port 5672'
	@$(BIN)/python -m tests.brokers $(or $(NAME),rabbitmq) $(ARGS)

format: $(READY) ## format the code and mend what can be mended
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

UV_COMPILE = uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --custom-compile-command 'make requirements' \
	$(addprefix --no-emit-package ,busframe $(subst _,-,$(notdir $(wildcard plugins/*/busframe_*))))

requirements: ## pin all requirements anew (needs uv); UPGRADE=1 takes the newest
	$(foreach name,runtime dev bench,$(UV_COMPILE) $(if $(UPGRADE),--upgrade) \
		requirements/$(name).in -o requirements/$(name).txt;)

clean: ## remove everything that was made here
	rm -rf .venv .coverage* .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment is made anew when a requirement or a package's description has changed.
$(READY): $(INPUTS)
	@requirements/bootstrap .venv
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e . $(PLUGINS:%=-e %)
	@touch $@
