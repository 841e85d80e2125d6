"""Every statement names the workspace of each tenant's table it reads or writes."""

import re

import pytest

from kb_pipeline import sql
from kb_pipeline.storage.paths import migrations_directory

TENANTS = set(
    re.findall(
        r"'(\w+)'",
        re.search(
            r"unnest\(ARRAY\[([^]]+)\]\) AS tenant",
            (migrations_directory() / "042_keep_workspaces_apart.sql").read_text(),
        )[1],  # type: ignore[index]
    )
)
"""The tables that row-level security is forced on."""

STATEMENTS = {
    f"{path.name.removesuffix('.sql')}.{name}": re.sub(r"--.*", "", text)
    for path in sql.files(sql.__package__).iterdir()
    if path.name.endswith(".sql")
    for name, text in sql._statements(path.name.removesuffix(".sql")).items()
}
_REFERENCE = re.compile(
    rf"(?:FROM|JOIN|UPDATE|INTO|USING)\s+({'|'.join(sorted(TENANTS))})\b(?:\s+AS\s+(\w+))?", re.IGNORECASE
)
_OF_ITS_TUNE = r"{}\.(?:tune_id = \w+\.(?:id|tune_id)|ctid = trials\.best_place)|\.id = {}\.tune_id"
"""On the platform a trial has no workspace: it is its tune's, which is named beside it."""

NO_ROWS = {
    "session.refresh_statistics",
    "doctor.refused_privileges",
    "roles.grant_to_app",
    "roles.give_tables",
}


def _unguarded(text: str) -> list[str]:
    """Return the tenants' tables of a statement whose rows no condition ties to a workspace."""
    found = []
    for table, alias in _REFERENCE.findall(text):
        named = rf"\b{alias}\.workspace_id = " if alias else r"(?<![.\w])workspace_id = %\(workspace_id\)s"
        of_tune = _OF_ITS_TUNE.format(alias, alias) if alias else r"tune_id = tune\.id"
        is_inserted = re.search(rf"INTO {table}(?: AS \w+)?\s*\([^)]*\b(workspace|tune)_id\b", text)
        is_tied = re.search(named, text) or (table == "backtest_tune_runs" and re.search(of_tune, text))
        if not (is_tied or is_inserted):
            found.append(f"{table} {alias}")
    return found


@pytest.mark.parametrize("name", sorted(STATEMENTS.keys() - NO_ROWS))
def test_a_statement_names_the_workspace_of_every_table_it_touches(name: str) -> None:
    assert _unguarded(STATEMENTS[name]) == []


def test_a_statement_that_does_not_is_seen() -> None:
    assert len(TENANTS) == 17
    assert _unguarded("SELECT id FROM backtest_runs AS run WHERE run.id = 1") == ["backtest_runs run"]
    assert _unguarded("DELETE FROM kb_trials") == ["kb_trials "]
    assert _unguarded("SELECT 1 FROM backtest_tune_runs AS trial WHERE trial.run_id = 1")
    assert sum(bool(_REFERENCE.search(text)) for text in STATEMENTS.values()) > 60


PSYCOPG_REMEMBERS = 4_096
"""Characters of a statement that psycopg keeps taken apart; a longer one is taken apart for each call."""


@pytest.mark.parametrize("name", ["walk_tiers", "best_of_any", "candidates_by_id", "log_event"])
def test_a_statement_of_a_quick_answer_is_taken_apart_once(name: str) -> None:
    assert len(sql.statement(f"recommend_events.{name}")) <= PSYCOPG_REMEMBERS


def test_a_statement_is_sent_without_its_description_and_its_indents() -> None:
    assert sql.statement("session.now") == "SELECT now()"
    assert "\n " not in sql.statement("recommend_events.walk_tiers")
