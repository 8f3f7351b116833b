# The whole product in two commands: make build, make test. Everything lands in .venv/ and warehouse/.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: build test lint bench bench-changes bench-views bench-growth bench-latency bench-scale bench-cdc soak engines spark test-spark superset sqlmesh install clean help
.DEFAULT_GOAL := help

help: ## Show what there is to type.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: .venv/.ready ## Create the Python environment (.venv) from constraints.txt.

.venv/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; $(PYTHON) is older. Try: make PYTHON=python3.12 build" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
		{ [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq python3-venv >/dev/null; } || \
		{ echo "Python's venv module is missing. Run: sudo apt-get install python3-venv" >&2; exit 1; }
	@echo "Creating the Python environment in .venv (about three minutes)"
	@$(PYTHON) -m venv .venv
	@PIP_CONSTRAINT=$(CURDIR)/constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/pip install --quiet --quiet --editable '.[dev]'
	@touch $@

# PostgreSQL's server, and the two drivers that BI tools come with; the tests of a driver that is missing are left out
.venv/.servers: .venv/.ready
	@ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null || \
		{ [ "$$(id -u)" = 0 ] && apt-get update -qq && \
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq postgresql >/dev/null 2>&1; } || \
		{ echo "The tests need PostgreSQL. Run: sudo apt-get install postgresql" >&2; exit 1; }
	@command -v mariadbd >/dev/null || [ -x /usr/sbin/mariadbd ] || [ "$$(id -u)" != 0 ] || \
		{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq mariadb-server; } >/dev/null 2>&1 || true
	@[ "$$(id -u)" != 0 ] || { [ -e /usr/share/java/postgresql.jar ] && command -v java && command -v isql; } >/dev/null || \
		{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
		libpostgresql-jdbc-java default-jre-headless odbc-postgresql unixodbc; } >/dev/null 2>&1 || true
	@touch $@

build: install ## Land the data, build, test and release it.
	@$(BIN)/hubspoke ingest
	@$(BIN)/hubspoke build

test: install .venv/.servers ## Run the whole test suite.
	@$(BIN)/pytest -n 2

lint: install ## Check SQL, Python and the rules of the house.
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy
	@$(BIN)/sqlfluff lint --processes 2
	@$(BIN)/hubspoke check

bench: install ## Measure landing, build, quality gate, and what readers of PostgreSQL and Arrow notice.
	@$(BIN)/python bench/build.py
	@$(BIN)/python bench/gate.py
	@$(BIN)/python bench/ingest.py
	@$(BIN)/python bench/postgres.py
	@$(BIN)/python bench/serve.py
	@$(BIN)/python bench/dashboards.py

bench-changes: install ## Make a thousand changes of a project of 500 models; what is built after each, and is it right?
	@$(BIN)/python bench/changes.py

bench-views: install ## Bring views of fifty shapes up to date by ten thousand changes; are they what their queries give?
	@$(BIN)/python bench/views.py

bench-growth: install ## Measure builds of new data beside full ones, at 1, 10 and 50 times the history.
	@$(BIN)/python bench/growth.py

bench-latency: install ## Measure the way of a sale from PostgreSQL to a released mart, with ingestion and build in a loop.
	@$(BIN)/python bench/latency.py

bench-scale: install .spark/.ready ## Measure the build at 1, 5 and 10 times the data, on DuckDB and on Spark (hours).
	@$(BIN)/python bench/scale.py --spark 1,5

bench-cdc: install ## Measure change data capture beside Debezium; then kill its reader a hundred times.
	@$(BIN)/python bench/cdc.py
	@$(BIN)/python bench/cdc.py soak

soak: install ## Read without a pause through 50 builds, half of them red, and 100 that are killed (an hour).
	@$(BIN)/python bench/soak.py

# The project with Apache Spark and Iceberg's runtime for it, in an environment of its own: 1.6 GB
.spark/.ready: .venv/.servers pyproject.toml constraints.txt
	@command -v java >/dev/null || \
		{ [ "$$(id -u)" = 0 ] && apt-get update -qq && \
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq default-jre-headless >/dev/null 2>&1; } || \
		{ echo "Spark needs Java. Run: sudo apt-get install default-jre-headless" >&2; exit 1; }
	@$(PYTHON) -m venv .spark
	@PIP_CONSTRAINT=$(CURDIR)/constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1 \
		.spark/bin/pip install --quiet --quiet --editable '.[spark]'
	@touch $@

engines: install .spark/.ready ## Let pyiceberg, polars and Apache Spark read the release, and compare checksums.
	@$(BIN)/python bench/engines.py

spark: build .spark/.ready ## Build the project on Apache Spark as well, release it from there, and compare every row.
	@.spark/bin/hubspoke spark start
	@trap '.spark/bin/hubspoke spark stop' EXIT; set -e; eval "$$(.spark/bin/hubspoke spark env)"; \
		.spark/bin/hubspoke spark land; \
		.spark/bin/dbt build; \
		.spark/bin/hubspoke spark release; \
		.spark/bin/hubspoke spark compare

test-spark: install .spark/.ready ## Run the tests that need a cluster: the whole example there, with parts of it killed (half an hour).
	@$(BIN)/pytest -m spark -o faulthandler_timeout=3600

superset: install .venv/.servers ## Let Apache Superset read a spoke, and draw it (an environment of 1 GB, in .superset/).
	@{ command -v chromium && command -v chromedriver; } >/dev/null || \
		{ [ "$$(id -u)" = 0 ] && apt-get update -qq && \
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium chromium-driver >/dev/null 2>&1; } || \
		{ echo "A browser is needed. Run: sudo apt-get install chromium chromium-driver" >&2; exit 1; }
	@$(BIN)/python bench/superset.py

# SQLMesh, whose pins are not dbt's, in an environment of its own: 400 MB
.sqlmesh/.ready: .venv/.ready bench/sqlmesh.txt
	@$(PYTHON) -m venv .sqlmesh
	@PIP_DISABLE_PIP_VERSION_CHECK=1 .sqlmesh/bin/pip install --quiet --quiet -r bench/sqlmesh.txt
	@touch $@

sqlmesh: install .sqlmesh/.ready ## Measure builds beside SQLMesh, over the same models and data (half an hour).
	@$(BIN)/python bench/sqlmesh.py

clean: ## Remove everything that a run made, the released data included.
	@rm -rf warehouse target logs .venv .spark .superset .sqlmesh
