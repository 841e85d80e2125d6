"""What `kb-pipeline db status` shows: which database, whether it answers, how far it is migrated."""

from kb_pipeline.errors import DatabaseError
from kb_pipeline.storage import embedded, migrations
from kb_pipeline.storage.postgres import connect, named_url
from kb_pipeline.storage.urls import redact


def database_status() -> dict[str, str]:
    """Return facts about the database in use, in the order to show them. Starts and creates nothing."""
    name, given = named_url()
    if given:
        return {"Database": redact(given), "From": name, **_facts(given)}
    state = embedded.status()
    facts = {"Database": "embedded Postgres", "Directory": str(state.data_dir)}
    if state.url is None:
        return {**facts, "State": "not running. Start it with: kb-pipeline db start"}
    return {**facts, "URL": state.url, "Process": str(state.pid), **_facts(state.url)}


def _facts(url: str) -> dict[str, str]:
    try:
        with connect(url) as connection:
            version = connection.info.server_version
    except DatabaseError as error:
        return {"State": str(error)}
    waiting = migrations.pending(url)
    tables = "up to date" if not waiting else f"{len(waiting)} migrations wait. Run: kb-pipeline db migrate"
    return {"State": "answers", "Postgres": f"{version // 10_000}.{version % 10_000}", "Tables": tables}
