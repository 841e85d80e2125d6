"""What surrounds a command: its session, its progress and signals, its report and exit code."""

import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from kb_pipeline.errors import DatabaseError
from kb_pipeline.plain_text import printable_lines

if TYPE_CHECKING:
    from kb_pipeline.backfills.engine import Watch
    from kb_pipeline.backfills.report import BackfillReport
    from kb_pipeline.storage.postgres import Connection


def say(text: str, *, err: bool = False) -> None:
    """Print lines for people. Nothing in them steers the terminal, whoever wrote it."""
    click.echo(printable_lines(text), err=err)


@contextmanager
def session(command: str, *, make: bool = False) -> "Iterator[Connection]":
    """Open a session for one command; name the next step where the tables are not there.

    `make` lets it make the embedded database: a question asked in another directory must not.
    """
    import psycopg

    from kb_pipeline.storage.postgres import connect, database_url

    with connect(database_url(make=make), application_name=f"kb-pipeline {command}") as connection:
        try:
            yield connection
        except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn) as error:
            raise DatabaseError(f"{error.diag.message_primary}. Run: kb-pipeline db migrate") from error
        except psycopg.OperationalError as error:
            raise DatabaseError(
                f"The database stopped answering: {error}. Run the same command again to go on."
            ) from error
        except psycopg.Error as error:
            raise DatabaseError(f"The database refused: {error}") from error


@contextmanager
def watching(limit: int | None, unit: str) -> "Iterator[Watch]":
    """Show progress on a terminal and turn the first SIGINT or SIGTERM into a stop between batches."""
    from tqdm import tqdm

    from kb_pipeline.backfills.engine import Watch

    heard: list[str] = []
    previous = {
        number: signal.signal(number, lambda received, _frame: heard.append(signal.Signals(received).name))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        # disable=None: no bar unless stderr is a terminal
        with tqdm(total=limit, unit=f" {unit}", disable=None, leave=False, file=sys.stderr) as bar:

            def show(scanned: int) -> None:
                bar.update(scanned - bar.n)

            yield Watch(progress=show, stop=lambda: heard[0] if heard else None)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def packing() -> "Iterator[Callable[[int, int], None]]":
    """Show on a terminal how far the regimes are packed that distances are measured to, after a second."""
    from tqdm import tqdm

    with tqdm(
        desc="Packing regimes", unit=" regimes", delay=1, disable=None, leave=False, file=sys.stderr
    ) as bar:

        def show(packed: int, changed: int) -> None:
            bar.total = changed
            bar.update(packed - bar.n)

        yield show


def finish(report: "BackfillReport", as_json: bool, listed: bool) -> None:
    """Print a report, as text or JSON, and end the process where its exit code is not 0."""
    say(json.dumps(report.to_dict(), indent=2) if as_json else report.to_text())
    if listed and not as_json and report.skipped:
        say(report.listing())
    if report.exit_code:
        sys.exit(report.exit_code)
