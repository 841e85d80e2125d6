"""Dagster's own database beside the project's."""

from kb_pipeline.orchestration.instance import dagster_database_url
from kb_pipeline.storage.postgres import Connection, connect


def test_only_the_commits_of_dagster_s_own_database_do_not_wait_for_the_disk(
    connection: Connection, database_url: str
) -> None:
    # The tests' server never waits for a disk, so what is asked for is the setting and not its effect.
    url = dagster_database_url()
    assert url.startswith("postgresql+psycopg2://")
    with connect(url.replace("+psycopg2", "")) as session:
        told = session.execute(
            "SELECT datname, setconfig::text FROM pg_db_role_setting JOIN pg_database ON oid = setdatabase"
        ).fetchall()
    assert told == [("dagster", "{synchronous_commit=off}")]
