"""The commands for the database and for Dagster's partitions."""

import subprocess
import sys

import click

from kb_pipeline.cli.running import say
from kb_pipeline.plain_text import printable


@click.group()
def partitions() -> None:
    """Keep Dagster's partitions in step with the database and the price files."""


@partitions.command()
def sync() -> None:
    """Register workspaces and symbols as partitions now; the web page's daemon does so every minute."""
    from kb_pipeline.storage.postgres import database_url

    database_url(make=False)
    # a process of its own: the command line does not know Dagster
    done = subprocess.run([sys.executable, "-m", "kb_pipeline.orchestration.sync"], check=False)
    sys.exit(done.returncode)


@click.group()
def db() -> None:
    """Start, stop and migrate the database."""


@db.command()
def start() -> None:
    """Start the embedded Postgres, if it is not running."""
    from kb_pipeline.storage import embedded
    from kb_pipeline.storage.urls import redact

    say(f"The embedded Postgres runs: {redact(embedded.start())}")


@db.command()
def stop() -> None:
    """Stop the embedded Postgres."""
    from kb_pipeline.storage import embedded

    say("Stopped." if embedded.stop() else "The embedded Postgres was not running.")


@db.command()
def status() -> None:
    """Say whether the database answers and whether its tables are up to date."""
    from kb_pipeline.storage.status import database_status

    facts = database_status()
    width = max(len(name) for name in facts) + 3
    for name, value in facts.items():
        say(f"{name + ':':<{width}}{printable(value)}")


@db.command()
@click.option("--show-password", is_flag=True, help="Print the URL with its password.")
@click.option("--owner", is_flag=True, help="Print that of the role which makes and changes the tables.")
def url(show_password: bool, owner: bool) -> None:
    """Print the URL of the database in use."""
    from kb_pipeline.storage.postgres import database_url, owner_database_url
    from kb_pipeline.storage.urls import redact

    found = owner_database_url() if owner else database_url()
    say(found if show_password else redact(found))


@db.command()
@click.option("--yes", is_flag=True, help="Run the statements, all or none.")
def secure(yes: bool) -> None:
    """Keep the workspaces of a platform's own tables apart too; without --yes only print what it takes.

    Afterwards every program that reads or writes these tables must set app.workspace_id in each
    transaction, unless its role is a superuser or has BYPASSRLS.
    """
    from kb_pipeline.storage.guards import missing_guards
    from kb_pipeline.storage.guards import secure as apply
    from kb_pipeline.storage.postgres import owner_database_url

    commands = (apply if yes else missing_guards)(owner_database_url(make=False))
    for command in commands:
        say(f"{command};")
    if not commands:
        say("The workspaces of every table are kept apart.")
    elif not yes:
        say(f"-- {len(commands)} statements. To run them: kb-pipeline db secure --yes")


@db.command()
def migrate() -> None:
    """Make or adopt the platform's tables and bring them up to date."""
    from kb_pipeline.storage.migrations import migrate as apply
    from kb_pipeline.storage.postgres import owner_database_url

    report = apply(owner_database_url())
    for name in report.applied:
        say(f"applied {name}")
    say(f"{len(report.applied)} applied, {report.already} already there.")
