"""Make the run and tune history under data/demo by running real backtests on data/ohlcv.

Here the results are gathered and written; what is tried, and how, is in the package demo_history.
Loading the files into Postgres is the work of kb_pipeline.storage.demo. The engine is no dependency of
the project: this script runs in an environment of its own (data/demo/README.md says how). Nothing is
random and no clock is read, so the same versions give the same rows.
"""

import argparse
import gzip
import json
import math
import sys
import warnings
from collections.abc import Iterable
from multiprocessing import Pool
from pathlib import Path
from typing import Final

import pandas as pd
from demo_history.engine import WORKSPACE_ID, Row, Rows, identifier, present, stamp
from demo_history.plan import planned_sweeps, planned_tunes
from demo_history.strategies import METHODS
from demo_history.sweeps import run_sweep
from demo_history.tunes import HISTORY_START, run_tune

DEMO_DIRECTORY: Final = Path(__file__).resolve().parent.parent / "data" / "demo"
WORKERS: Final = 2

TABLES: Final = (
    "workspaces",
    "kb_entities",
    "kb_strategy_specs",
    "run_plans",
    "backtest_runs",
    "backtest_tunes",
    "backtest_tune_runs",
)
"""The files made, each named after its table; parents before children."""


def fixed_rows() -> Rows:
    """Return the workspace, the strategies and their specifications."""
    born = {"created_at": stamp(HISTORY_START), "updated_at": stamp(HISTORY_START)}
    strategies: list[Row] = []
    specs: list[Row] = []
    for method in METHODS:
        owner = {"workspace_id": WORKSPACE_ID, **born}
        strategy_id = identifier("strategy", method.name)
        named = {"type": "strategy", "name": method.name, "description": method.description}
        strategies.append({"id": strategy_id, **named, **owner})
        declared = present({"default_params": method.default_params})
        spec = {"strategy_entity_id": strategy_id, "spec_json": declared, "status": "approved"}
        specs.append({"id": identifier("spec", method.name), **spec, **owner})
    workspace = {"id": WORKSPACE_ID, "name": "Demo", "slug": "demo", **born}
    return {"workspaces": [workspace], "kb_entities": strategies, "kb_strategy_specs": specs}


def quiet_engine() -> None:
    """Silence what the engine says about pandas and about trades that it closed at the end."""
    warnings.simplefilter("ignore", pd.errors.Pandas4Warning)


def gather(parts: Iterable[Rows]) -> Rows:
    """Return the parts' rows put together by table, in the order they come."""
    rows: Rows = {table: [] for table in TABLES}
    for part in parts:
        for table, found in part.items():
            rows[table] += found
    return rows


def build_rows() -> Rows:
    """Run everything that is planned and return the rows of every table."""
    with Pool(WORKERS, initializer=quiet_engine) as pool:
        tunes = pool.map(run_tune, list(enumerate(planned_tunes())), chunksize=1)
        sweeps = pool.map(run_sweep, list(enumerate(planned_sweeps())), chunksize=1)
    return gather([fixed_rows(), *tunes, *sweeps])


def jsonl(rows: Iterable[Row]) -> bytes:
    """Return one JSON object a line, keys sorted, never NaN."""
    lines = (json.dumps(row, sort_keys=True, separators=(",", ":"), allow_nan=False) for row in rows)
    return "".join(f"{line}\n" for line in lines).encode("ascii")


def is_same(built: object, stored: object) -> bool:
    """Say whether two values agree, numbers to nine digits: the last one may differ between machines."""
    if isinstance(built, float) and isinstance(stored, float):
        return math.isclose(built, stored, rel_tol=1e-9)
    if isinstance(built, dict) and isinstance(stored, dict):
        return built.keys() == stored.keys() and all(is_same(built[name], stored[name]) for name in built)
    if isinstance(built, list) and isinstance(stored, list):
        return len(built) == len(stored) and all(map(is_same, built, stored))
    return built == stored


def changed_tables(rows: Rows, directory: Path) -> list[str]:
    """Return the tables whose stored rows are not what was built."""
    stored = {
        table: [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
        for table in TABLES
        if (path := directory / f"{table}.jsonl.gz").exists()
    }
    return [table for table in TABLES if not is_same(rows[table], stored.get(table))]


def main() -> int:
    """Read the arguments, work, and return the exit code."""
    parser = argparse.ArgumentParser(description="Make data/demo by running the backtests again.")
    parser.add_argument("--out", type=Path, default=DEMO_DIRECTORY, help="where the files are")
    parser.add_argument("--check", action="store_true", help="compare only; exit 1 if a row differs")
    arguments = parser.parse_args()
    out: Path = arguments.out
    rows = build_rows()
    if arguments.check:
        changed = changed_tables(rows, out)
        print("\n".join(f"{table} differs" for table in changed) or f"{out}: the same rows")
        return 1 if changed else 0
    out.mkdir(parents=True, exist_ok=True)
    for table in TABLES:
        packed = gzip.compress(jsonl(rows[table]), compresslevel=9, mtime=0)
        (out / f"{table}.jsonl.gz").write_bytes(packed)
        print(f"{table}  {len(rows[table])} rows  {len(packed)} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
