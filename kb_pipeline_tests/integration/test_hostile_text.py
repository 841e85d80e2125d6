"""Text that tries to become SQL, markup or a terminal command stays text, whatever door it comes through."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import psycopg
import pytest

from kb_pipeline.storage.postgres import Connection
from kb_pipeline_tests.acceptance.commands import run_here
from kb_pipeline_tests.builders import write_daily_bars
from kb_pipeline_tests.conftest import Workspace

BENIGN: Final = "no_such_name"
HOSTILE: Final = (
    "'; DROP TABLE backtest_runs; --",
    "' OR '1'='1",
    "' OR 1=1 --",
    "'; UPDATE workspaces SET name = 'owned'; --",
    "') UNION SELECT usename FROM pg_user --",
    "\\'; DELETE FROM backtest_tunes; --",
    '"; DROP TABLE backtest_runs; --',
    "$$; DROP TABLE backtest_runs; $$",
    "$1",
    "%s",
    "%(workspace_id)s",
    "%%",
    "%",
    "{}",
    "{0}",
    "{workspace_id}",
    ":name",
    "?",
    "@var",
    "/* comment */",
    "-- comment",
    "#",
    ";",
    "`id`",
    "$(id)",
    "${HOME}",
    "|| id",
    "& id",
    "> /tmp/owned",
    "../../etc/passwd",
    "/etc/passwd",
    "file:///etc/passwd",
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[x](javascript:alert(1))",
    "=cmd|' /C calc'!A0",
    "+SUM(1)",
    "\x1b[31mred",
    "\x1b]0;owned\x07",
    "a\nb",
    "a\rb",
    "\u202etxt.exe",
    "\ufeffAAPL",
    "''",
    "NULL",
    "true",
    "-1",
    "1e309",
    "Ω" * 500,
    "x" * 5_000,
)


@contextmanager
def _recorded() -> Iterator[set[str]]:
    """Collect the text of every statement that is sent to Postgres."""
    texts: set[str] = set()
    send = psycopg.Cursor.execute

    def execute(self: Any, query: Any, *arguments: Any, **options: Any) -> Any:
        text = query.decode() if isinstance(query, bytes) else query
        texts.add(text if isinstance(text, str) else text.as_string(self))
        return send(self, query, *arguments, **options)

    with patch.object(psycopg.Cursor, "execute", execute):
        yield texts


def _through_every_door(workspace: Workspace, bars: Path, text: str) -> list[str]:
    """Give a text to every option that takes one; return what each command printed."""
    where = ("--workspace-id", workspace.id)
    file = ("--ohlcv-file", bars, "--calendar", "24/7")
    strategy = ("--strategy", "trend_following")
    lines = [
        ("backfill-regime", *where, *file, "--symbol", text),
        ("backfill-regime", *where, "--ohlcv-file", bars, "--calendar", text),
        ("backfill-regime", *where, *file, "--tz", text),
        ("backfill-regime", *where, "--ohlcv-file", text),
        ("backfill-regime", *where, *file, "--timeframe", text),
        ("backfill-candidacy", *where, "--since", text),
        ("backfill-candidacy", *where, "--experiment-type", text),
        ("backfill-candidacy", "--workspace-id", text),
        ("backfill-attribution", *where, "--since", text),
        ("ingest-trials", *where, "--since", text),
        ("explain", text),
        ("best", *where, "--regime-key", text),
        ("best", *where, "--trend", text, "--vol", text),
        ("recommend", *where, "--strategy", text, "--regime-key", "regime_v1_1|default_v1|flat|_|_"),
        ("recommend", *where, *strategy, "--regime-key", text),
        ("recommend", *where, *strategy, "--run", text),
        ("recommend", *where, *strategy, "--ohlcv-file", text),
        ("recommend", *where, *strategy, "--ohlcv-file", bars, "--timeframe", text, "--objective", text),
        ("similar", *where, "--run", text),
        ("uplift", *where, "--strategy", text),
    ]
    done = [run_here(*line) for line in lines]
    assert {result.returncode for result in done} <= {0, 2}, [result.stderr for result in done]
    return [result.stdout + result.stderr for result in done]


def _digest(connection: Connection) -> list[Any]:
    """What the workspace holds but for the books kept of questions and backfills."""
    tables = (
        "workspaces",
        "kb_entities",
        "backtest_runs",
        "backtest_tunes",
        "kb_trials",
        "kb_status_history",
    )
    return [
        connection.execute(f"SELECT md5(string_agg(t::text, ',' ORDER BY t::text)) FROM {table} t").fetchone()
        for table in tables
    ]


@pytest.fixture
def bars(tmp_path: Path) -> Path:
    return write_daily_bars(tmp_path / "AAPL_1d.csv")


def test_hostile_text_sends_the_statements_that_harmless_text_sends(
    connection: Connection, workspace: Workspace, bars: Path
) -> None:
    before = _digest(connection)
    with _recorded() as harmless:
        _through_every_door(workspace, bars, BENIGN)
    assert len(harmless) >= 12
    for text in HOSTILE:
        with _recorded() as sent:
            printed = _through_every_door(workspace, bars, text)
        assert sent - harmless == set(), text
        assert not any(control in out for out in printed for control in "\x1b\x07\u202e"), text
    assert _digest(connection) == before


def test_a_statement_made_of_text_is_seen(connection: Connection) -> None:
    with _recorded() as sent:
        for name in ("a", "b"):
            connection.execute(f"SELECT '{name}'")
    assert len(sent) == 2
