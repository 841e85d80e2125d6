"""A small database with work for every backfill, and its state as digests that can be compared.

Two workspaces hold the same kind of rows; backfills run in one, and the other must never change.
"""

import json
from pathlib import Path
from typing import Any
from uuid import UUID

from kb_pipeline.storage.postgres import Connection
from kb_pipeline_tests.builders import FLAT_SNAPSHOT, TREND_SNAPSHOT, write_daily_bars

RUNS = 110
TUNES = 45
GONE = 25
OURS = UUID("00000000-0000-4000-8000-000000000001")
THEIRS = UUID("00000000-0000-4000-8000-000000000002")
PRICES = "BTC_1d.csv"

_TENANT = """
INSERT INTO workspaces (id, name, slug) VALUES (%(id)s, %(slug)s, %(slug)s);
INSERT INTO kb_entities (id, workspace_id, type, name) VALUES (%(id)s, %(id)s, 'strategy', 'reversal');
INSERT INTO backtest_runs
       (id, workspace_id, strategy_entity_id, created_at, status, run_kind, params, dataset_meta, summary,
        kb_status, kb_status_changed_by)
SELECT md5(%(slug)s || ' run ' || n)::uuid, %(id)s, %(id)s,
       timestamptz '2025-01-01Z' + n * interval '1 min', 'completed', 'test_variant',
       jsonb_build_object('n', n),
       CASE n %% 10 WHEN 3 THEN '{"symbol": "ETH"}' WHEN 4 THEN '{"symbol": "BTC"}'
            ELSE jsonb_build_object('symbol', 'BTC', 'oos_start', date '2020-02-01' + n,
                                    'oos_end', date '2020-05-01' + n) END,
       jsonb_build_object('sharpe', 1 + n / 100.0, 'max_drawdown_pct', -10, 'return_pct', n,
                          'trades', CASE n %% 7 WHEN 5 THEN 1 ELSE 60 END),
       CASE n %% 13 WHEN 6 THEN 'promoted' ELSE 'excluded' END,
       CASE WHEN n %% 13 IN (6, 8) THEN 'ann' END
  FROM generate_series(1, %(runs)s) AS n;
INSERT INTO backtest_tunes
       (id, workspace_id, strategy_entity_id, created_at, completed_at, status, search_type, n_trials,
        param_space)
SELECT md5(%(slug)s || ' tune ' || at)::uuid, %(id)s, %(id)s,
       at, at + interval '1 hour', 'completed', 'grid', 3, '{}'
  FROM (SELECT timestamptz '2025-02-01Z' + n * interval '1 min' AS at
          FROM generate_series(1, %(tunes)s) AS n) AS tune;
INSERT INTO kb_trials
       (workspace_id, source_type, source_id, strategy_entity_id, params_fingerprint, content_hash,
        source_version, ingested_at)
SELECT %(id)s, 'test_variant', md5(%(slug)s || ' gone ' || n)::uuid, %(id)s, 'none', 'none', '0',
       timestamptz '2025-01-01Z' + n * interval '1 min'
  FROM generate_series(1, %(gone)s) AS n;
WITH trial AS (
    INSERT INTO backtest_runs (id, workspace_id, strategy_entity_id, created_at, status, run_kind, params,
                               dataset_meta, variant_index)
    SELECT md5(concat(tune.id, ' trial ', n))::uuid, %(id)s, %(id)s,
           tune.created_at + n * interval '1 s', 'completed', 'tune_variant',
           jsonb_build_object('n', n), '{"symbol": "BTC", "timeframe": "1d"}', n
      FROM backtest_tunes AS tune, generate_series(1, 3) AS n
     WHERE tune.workspace_id = %(id)s
    RETURNING id, created_at, params, variant_index
)
INSERT INTO backtest_tune_runs (tune_id, run_id, trial_index, params, status, metrics_oos)
SELECT tune.id, trial.id, trial.variant_index, trial.params, 'completed',
       jsonb_build_object('sharpe', hashtext(trial.id::text) %% 1000 / 500.0, 'trades', 20)
       || CASE extract(minute FROM tune.created_at)::int %% 8
               WHEN 0 THEN '{}' WHEN 1 THEN %(trend)s::jsonb WHEN 2 THEN %(trend)s::jsonb
               ELSE %(flat)s::jsonb END
  FROM trial
  JOIN backtest_tunes AS tune
    ON tune.created_at = date_trunc('minute', trial.created_at)
   AND tune.workspace_id = %(id)s
"""


def fill(connection: Connection) -> None:
    """Insert two workspaces with runs, tunes and trials of every fate; the same ones each time."""
    for workspace_id, slug in ((OURS, "ours"), (THEIRS, "theirs")):
        values = {
            "id": workspace_id,
            "slug": slug,
            "runs": RUNS,
            "tunes": TUNES,
            "gone": GONE,
            "flat": json.dumps({"regime": FLAT_SNAPSHOT}),
            "trend": json.dumps({"regime": TREND_SNAPSHOT}),
        }
        for command in _TENANT.split(";\n"):
            connection.execute(command, values)  # type: ignore[call-overload]


_FILLED = ("backtest_runs", "backtest_tunes", "backtest_tune_runs", "kb_trials")
"""Tables with rows that change, parents first."""
_EMPTY = ("kb_status_history", "kb_backfill_runs", "kb_regime_changes")


def remember(connection: Connection) -> None:
    """Put the rows by, for `restore`."""
    connection.execute("CREATE SCHEMA remembered")
    again = [f"TRUNCATE {', '.join((*_FILLED, *_EMPTY))} CASCADE"]
    for table in _FILLED:
        (names,) = connection.execute(_STORED_COLUMNS, [table]).fetchone() or ("",)
        connection.execute(f"CREATE TABLE remembered.{table} AS TABLE {table}")  # type: ignore[call-overload]
        again.append(f"INSERT INTO {table} ({names}) SELECT {names} FROM remembered.{table}")
    # Rows that were stored before need no second look at what they refer to, which took half the time.
    head = "CREATE PROCEDURE remembered.restore() LANGUAGE sql SET session_replication_role = replica AS $$"
    connection.execute(head + ";\n".join(again) + "$$")  # type: ignore[call-overload]


_STORED_COLUMNS = (
    "SELECT string_agg(quote_ident(column_name), ', ') FROM information_schema.columns"
    " WHERE table_schema = 'public' AND is_generated = 'NEVER' AND table_name = %s"
)


def restore(connection: Connection) -> None:
    """Bring back the rows that were put by and no others: quicker than another copy of the database."""
    connection.execute("CALL remembered.restore()")


def write_prices(directory: Path) -> Path:
    """Write the price file the runs' windows lie in."""
    return write_daily_bars(directory / PRICES)


# What a backfill leaves, without the moments at which it did and the versions of rows.
_STATE = """
SELECT 'run ' || id, to_jsonb(run) - '{kb_status_changed_at, regime_oos, regime_is}'::text[]
       || jsonb_build_object('oos', regime_oos - 'computed_at', 'is', regime_is - 'computed_at')
  FROM backtest_runs AS run WHERE workspace_id = %(id)s
UNION ALL
SELECT 'tune ' || id, to_jsonb(tune) FROM backtest_tunes AS tune WHERE workspace_id = %(id)s
UNION ALL
SELECT 'trial ' || source_id,
       to_jsonb(trial) - '{ingested_at, archived_at, source_version, content_hash}'::text[]
       || jsonb_build_object('archived', archived_at IS NOT NULL, 'regime_oos', regime_oos - 'computed_at')
  FROM kb_trials AS trial WHERE workspace_id = %(id)s
UNION ALL
SELECT 'audit ' || source_id, jsonb_agg(concat_ws(' ', from_status, to_status, actor_id) ORDER BY created_at)
  FROM kb_status_history WHERE workspace_id = %(id)s GROUP BY source_id
UNION ALL
SELECT DISTINCT concat_ws(' ', 'noted', source_type, noted), '{}'::jsonb
  FROM kb_regime_changes, unnest(ids) AS noted WHERE workspace_id = %(id)s
"""

_EVERYTHING = """
SELECT 'runs', t::text FROM backtest_runs AS t WHERE workspace_id = %(id)s
UNION ALL SELECT 'tunes', t::text FROM backtest_tunes AS t WHERE workspace_id = %(id)s
UNION ALL SELECT 'history', t::text FROM kb_status_history AS t WHERE workspace_id = %(id)s
UNION ALL SELECT 'trials', t::text FROM kb_trials AS t WHERE workspace_id = %(id)s
UNION ALL SELECT 'ledger', t::text FROM kb_backfill_runs AS t WHERE workspace_id = %(id)s
UNION ALL SELECT 'changes', t::text FROM kb_regime_changes AS t WHERE workspace_id = %(id)s
UNION ALL SELECT 'tune runs', t::text FROM backtest_tune_runs AS t
 WHERE tune_id IN (SELECT id FROM backtest_tunes WHERE workspace_id = %(id)s)
ORDER BY 1, 2
"""


def state(connection: Connection, workspace_id: UUID = OURS) -> dict[str, Any]:
    """Return what backfills have made of a workspace, by row."""
    return dict(connection.execute(_STATE, {"id": workspace_id}).fetchall())


def everything(connection: Connection, workspace_id: UUID = THEIRS) -> list[Any]:
    """Return every row of a workspace, to the last byte."""
    return connection.execute(_EVERYTHING, {"id": workspace_id}).fetchall()
