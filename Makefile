# The commands a person needs. `make` alone lists them.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
# Where it is set, as in many containers, every process compiles anew all it imports: Dagster's, for 2.5 s.
unexport PYTHONDONTWRITEBYTECODE

help:  ## List the commands.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(READY): constraints.txt scripts/bootstrap.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; this is " + sys.version.split()[0] + ". Try: make PYTHON=python3.12 demo")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r scripts/bootstrap.txt
	@$(BIN)/uv pip sync --quiet --require-hashes --python $(BIN)/python constraints.txt
	@$(BIN)/uv pip install --quiet --no-deps --no-build-isolation --python $(BIN)/python -e .
	@touch $@

env: $(READY)  ## Make the virtual environment with the pinned dependencies.

demo: $(READY)  ## Load the demo workspace and run every backfill over real prices; the database stays up.
	@$(BIN)/kb-pipeline db migrate
	@$(BIN)/kb-pipeline demo

ui: $(READY)  ## Open the asset graph in a browser; Ctrl-C stops web page and daemon, and .venv/bin/kb-pipeline db stop the database.
	@$(BIN)/python -m kb_pipeline.orchestration.serve

shell: $(READY)  ## Open a shell in which the README's commands work as they are written.
	@-$(BIN)/python -m kb_pipeline.orchestration.sync
	@environment="$$($(BIN)/python -m kb_pipeline.orchestration.instance)" || exit 1; eval "$$environment"; \
	  PATH="$(CURDIR)/$(BIN):$$PATH" exec "$${SHELL:-/bin/sh}"

# Three processes for two cores: a test waits for others as long as a quarter of its time.
test: $(READY)  ## Run the whole test suite, in three processes.
	@scripts/ensure-programs
	@$(BIN)/python -m pytest -n 3 --dist loadfile

test-postgres15: $(READY)  ## Run the tests of the database against Postgres 15, the oldest supported (Debian's package).
	@KB_TEST_POSTGRES_BIN=/usr/lib/postgresql/15/bin $(BIN)/python -m pytest -n 2 --dist loadfile kb_pipeline_tests/integration kb_pipeline_tests/migration --ignore kb_pipeline_tests/integration/test_embedded.py

machines: $(READY)  ## Run every backfill on two machines and kill one; compare with a single process.
	@$(BIN)/python -m scripts.machines

check: $(READY)  ## Lint, types and layer contracts alone.
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports

soak: $(READY)  ## Kill backfills a thousand times; FAULT_SEED= replays what failed.
	@FAULT_CYCLES=500 $(BIN)/python -m pytest -n 2 kb_pipeline_tests/faults/test_kills.py kb_pipeline_tests/faults/test_kills_beside_people.py kb_pipeline_tests/faults/test_sensor_kills.py

plant: $(READY)  ## Plant known bugs one at a time and see the tests catch each (some minutes).
	@$(BIN)/python -m scripts.plant_bugs

bench: $(READY)  ## Measure against what a user would pick instead (a quarter of an hour); report in benchmarks/results.
	@$(BIN)/python -m benchmarks.report

bench-growth: $(READY)  ## Measure how time, memory and rows scanned grow with the data (half an hour), and draw it.
	@$(BIN)/python -m benchmarks.growth
	@$(BIN)/python -m benchmarks.growth --drop

bench-smoke: $(READY)  ## Run the benchmarks on little data: are the results those of the alternatives?
	@$(BIN)/python -m pytest -q kb_pipeline_tests/integration/test_benchmarks.py

lock:  ## Resolve constraints.txt again from pyproject.toml.
	$(BIN)/uv pip compile --quiet --universal --fork-strategy fewest --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-annotate --no-header --extra dev --extra machines --upgrade pyproject.toml scripts/bootstrap.in -o constraints.txt

.PHONY: help env demo ui shell test test-postgres15 machines check soak plant bench bench-growth bench-smoke lock
