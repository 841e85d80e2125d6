"""Databases of any size for the benchmarks: always the same rows, made by Postgres itself.

A database is filled once and kept as a template under the embedded server's own name for it; every
measurement starts from a fresh copy.
"""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID, uuid4

from psycopg import sql

from kb_pipeline.storage import embedded, migrations
from kb_pipeline.storage.postgres import Connection, connect, ensure_database

WORKSPACE_ID = UUID("00000000-0000-4000-8000-000000000001")
CHUNK_ROWS = 100_000
_VACUUMS = 30
_UNSEEN_PAGES = "SELECT relpages - relallvisible FROM pg_class WHERE oid = 'backtest_tunes'::regclass"
_TEXT = Path(__file__).with_name("synthetic.sql").read_text(encoding="utf-8")
STATEMENTS = {
    name: body.strip()
    for name, body in re.findall(r"^-- ([a-z_]+) --$\n(.*?)(?=^-- [a-z_]+ --$|\Z)", _TEXT, re.M | re.S)
}
SNAPSHOT = (
    '{"schema_version": "regime_v1_1", "timeframe": "1h", "n_bars": 200, "effective_n_bars": 200,'
    ' "atr_pct": 0.0123, "std_pct": 0.0221, "bb_width_pct": 0.0884, "range_pct": 0.19,'
    ' "trend_strength": 0.42, "trend_dir": 1, "zscore": 0.31, "rsi": 55.2, "return_pct": 0.04,'
    ' "drift_bps_per_bar": 2.0, "efficiency_ratio": 0.35}'
)


def fill(
    connection: Connection, *, runs: int = 0, windows: int = 40_000, tunes: int = 0, attributed: int = 0
) -> None:
    """Fill a migrated database with this many test variants, tunes of ten trials and attributed tunes."""
    connection.execute("SET synchronous_commit = off")
    connection.execute(sql.SQL(STATEMENTS["workspace"]), {"workspace_id": WORKSPACE_ID})
    rows_of = {"runs": runs, "tunes": tunes, "trial_runs": tunes, "trials": tunes}
    for name, rows in (rows_of | {"attributed_runs": attributed, "attributed_tunes": attributed}).items():
        for first in range(1, rows + 1, CHUNK_ROWS):
            bounds = {"first": first, "last": min(first + CHUNK_ROWS - 1, rows), "snapshot": SNAPSHOT}
            connection.execute(
                sql.SQL(STATEMENTS[name]), {"workspace_id": WORKSPACE_ID, "windows": windows, **bounds}
            )
    # Hint bits can be set only once the commits are on disk, so that no measurement pays for them.
    connection.execute("SET synchronous_commit = on")
    connection.execute("CHECKPOINT")
    for _ in range(_VACUUMS):
        connection.execute("VACUUM ANALYZE")
        if connection.execute(_UNSEEN_PAGES).fetchone() == (0,):
            return
        # The server's own ANALYZE was looking at the old rows.
        time.sleep(1)
    raise AssertionError("pages of backtest_tunes are not visible to all, so no index alone would answer")


@contextmanager
def template(**sizes: int) -> Iterator[str]:
    """Yield the name of a filled database, made when it is not there yet."""
    name = "bench_" + "_".join(f"{key}{value}" for key, value in sorted(sizes.items()))
    server = embedded.start(role=embedded.SUPERUSER)
    with connect(server) as admin:
        made = admin.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone()
    if made is None:
        url = ensure_database(server, name)
        migrations.migrate(url)
        with connect(url, timeouts=False) as connection:
            fill(connection, **sizes)
    yield name


@contextmanager
def fresh_copy(of: str, *, role: str = embedded.APP) -> Iterator[str]:
    """Yield the URL of a copy of a template for a role; the copy is dropped afterwards."""
    server = embedded.start(role=embedded.SUPERUSER)
    name = sql.Identifier(f"{of}_{uuid4().hex[:8]}")
    with connect(server, timeouts=False) as admin:
        admin.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY").format(name, sql.Identifier(of))
        )
        admin.execute("CHECKPOINT")
        try:
            url = ensure_database(server, name.as_string(None).strip('"'))
            yield url.replace(f"//{embedded.SUPERUSER}@", f"//{role}@")
        finally:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))


def drop_all() -> None:
    """Drop every database that a benchmark filled."""
    with connect(embedded.start(role=embedded.SUPERUSER), timeouts=False) as admin:
        names = admin.execute(
            "SELECT datname FROM pg_database WHERE starts_with(datname, 'bench_')"
        ).fetchall()
        for (name,) in names:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
