# Every target can be the first command ever run in a fresh clone: it prepares what it needs.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PY := .venv/bin/python
BOOTSTRAP := deploy/lab/bootstrap.sh

.PHONY: help install demo test failures lint check bench chaos soak generate lock

help: ## Show this list
	@sed -nE 's/^([a-z]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

install: ## Make .venv with the exact versions of requirements.lock, and the `certpilot` command in it
	@$(BOOTSTRAP) venv

demo: ## Two sites from a JSON command to a valid certificate, all parts real, on this machine (KEEP=1: stay up)
	@$(BOOTSTRAP) lab
	@exec $(PY) -m deploy.demo $(if $(KEEP),--keep)

test: ## Lint, then every test on real parts (PYTEST='-k name' to choose)
	@$(BOOTSTRAP) lab
	@$(MAKE) --no-print-directory check
	@exec $(PY) -m pytest -n 4 --dist loadfile --no-loadscope-reorder --ignore=tests/soak --ignore-glob='tests/system/test_failures_*' $(PYTEST)

failures: ## Only the real lab put into each state of failure and mended again and the short soak; beside `make test`, for their length
	@$(BOOTSTRAP) lab
	@exec $(PY) -m pytest -n 3 --dist loadfile --no-loadscope-reorder tests/soak $(wildcard tests/system/test_failures_*.py)

lint: ## Format, lint, types, import rules, generated files
	@$(BOOTSTRAP) venv
	@$(MAKE) --no-print-directory check

check:
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	@if grep -q '^\[tool.importlinter' pyproject.toml; then set -x; .venv/bin/lint-imports; fi
	@if [ -e docs/generate.py ]; then set -x; $(PY) docs/generate.py --check; fi

bench: ## Measure against the same work done by hand, and print the ratios
	@$(BOOTSTRAP) lab
	@exec $(PY) -m tests.bench

chaos: ## Random faults under load, then nothing may be lost or doubled (CHAOS='--seed 7 --minutes 60 --cluster')
	@$(BOOTSTRAP) lab
	@exec $(PY) -m tests.chaos $(CHAOS)

soak: ## Certificates of three minutes through ten lifetimes, servers and DNS going wrong (SOAK='--lifetimes 4')
	@$(BOOTSTRAP) lab
	@exec $(PY) -m tests.soak $(SOAK)

generate: ## Write the generated files (schemas, AsyncAPI, tables in docs) anew
	@$(BOOTSTRAP) venv
	$(PY) docs/generate.py

lock: ## Choose the newest allowed versions anew and write requirements.lock
	@$(BOOTSTRAP) venv
	$(PY) -m pip install -q pip-tools
	$(PY) -m piptools compile -q --upgrade --extra dev --all-build-deps --allow-unsafe --generate-hashes --strip-extras \
	  --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-header --no-annotate -o requirements.lock pyproject.toml
