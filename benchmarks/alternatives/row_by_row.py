"""The candidacy backfill as an application writes it first: read the runs, decide each in Python, and
update it with its audit row, one transaction a run, in an asynchronous loop.
"""

import asyncio
from typing import Any
from uuid import UUID

import psycopg

_RUNS = """
SELECT id, trade_count, summary FROM backtest_runs
 WHERE workspace_id = %s AND run_kind = 'test_variant' AND status IN ('completed', 'success')
   AND (kb_status = 'excluded' OR kb_status IS NULL)
   AND (kb_status_changed_by IS NULL OR kb_status_changed_by = 'backfill')
"""
_UPDATE = """
UPDATE backtest_runs
   SET kb_status = 'candidate', kb_status_changed_at = now(), kb_status_changed_by = 'backfill',
       auto_candidate_gate = 'passed_all_gates'
 WHERE id = %s
"""
_AUDIT = """
INSERT INTO kb_status_history
       (workspace_id, source_type, source_id, from_status, to_status, actor_type, actor_id, reason)
VALUES (%s, 'test_variant', %s, 'excluded', 'candidate', 'auto', 'backfill', 'passed_all_gates')
"""


def passes(trade_count: int | None, summary: dict[str, Any]) -> bool:
    """Return whether a run passes the gate, for runs whose numbers are numbers."""
    trades = trade_count if trade_count is not None else summary.get("trades", summary.get("trade_count", 0))
    drawdown = abs(summary.get("max_drawdown_pct", 0)) / 100
    sharpe = summary.get("sharpe")
    return trades >= 5 and drawdown <= 0.25 and (sharpe is None or sharpe >= 0.1)


def mark_candidates(url: str, workspace_id: UUID) -> int:
    """Mark the runs of a workspace that pass, and return how many did."""
    return asyncio.run(_mark(url, workspace_id))


async def _mark(url: str, workspace_id: UUID) -> int:
    marked = 0
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        for run_id, trade_count, summary in await (
            await connection.execute(_RUNS, [workspace_id])
        ).fetchall():
            if passes(trade_count, summary):
                async with connection.transaction():
                    await connection.execute(_UPDATE, [run_id])
                    await connection.execute(_AUDIT, [workspace_id, run_id])
                marked += 1
    return marked
