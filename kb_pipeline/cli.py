"""The command line: arguments in, one use case called, its report printed.

Nothing is decided here. Heavy modules are imported inside the commands, so that --help is instant.
"""

import json
import math
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import click

from kb_pipeline import rules
from kb_pipeline.errors import DatabaseError, KbPipelineError

if TYPE_CHECKING:
    from kb_pipeline.backfills.engine import Watch
    from kb_pipeline.backfills.report import BackfillReport
    from kb_pipeline.storage.postgres import Connection

_DATE_LENGTH: Final = len("2025-01-31")


class _Since(click.ParamType[datetime]):
    """A date (UTC midnight) or a time with an offset."""

    name = "DATE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        try:
            since = datetime.fromisoformat(value)
        except ValueError:
            self.fail(
                f"{value!r} is not a date. Write it like 2025-01-31 or 2025-01-31T09:30:00Z.", param, ctx
            )
        if since.tzinfo is None and len(value) > _DATE_LENGTH:
            self.fail(f"{value!r} has no offset. Add Z or one like +02:00.", param, ctx)
        try:
            return since.replace(tzinfo=since.tzinfo or UTC).astimezone(UTC)
        except OverflowError:
            self.fail(f"{value!r} is beyond the years 1 to 9999 in UTC.", param, ctx)


class _Symbol(click.ParamType[str]):
    """A symbol: printable, not empty."""

    name = "SYMBOL"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        symbol = str(value)
        if not symbol.strip() or not symbol.isprintable():
            self.fail(f"{symbol!r} is empty or holds control characters.", param, ctx)
        return symbol


class _Fraction(click.FloatRange):
    """A number from 0 to 1."""

    def __init__(self) -> None:
        super().__init__(0, 1)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        fraction = super().convert(value, param, ctx)
        if math.isnan(fraction):
            self.fail("nan is not a share between 0 and 1.", param, ctx)
        return fraction


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="kb-pipeline")
def cli() -> None:
    """Turn a backtesting platform's runs and tunes into knowledge about market regimes.

    The database is the one KB_DATABASE_URL names, else an embedded Postgres under .kb (KB_HOME moves it).
    """


def _backfill_options(limit: int, of: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that adds the options every backfill has."""
    options = [
        click.option("--workspace-id", type=click.UUID, required=True, help="Workspace to work in."),
        click.option("--since", type=_Since(), help=f"Only {of} created at or after this date (UTC)."),
        click.option(
            "--limit", type=click.IntRange(1), default=limit, show_default=True, help=f"Scan this many {of}."
        ),
        click.option("--dry-run", is_flag=True, help="Count what would be written; write nothing."),
        click.option(
            "--batch-size",
            type=click.IntRange(1, rules.MAX_BATCH_SIZE_ROWS),
            default=rules.BATCH_SIZE_ROWS,
            show_default=True,
            help="Rows written in one transaction.",
        ),
        click.option("--from-start", is_flag=True, help="Begin again instead of after the last row scanned."),
        click.option("--json", "as_json", is_flag=True, help="Print the report as JSON."),
        click.option("--list", "listed", is_flag=True, help="List the first rows under each reason."),
    ]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


@cli.command()
@_backfill_options(rules.CANDIDACY_LIMIT_ROWS, "runs")
@click.option(
    "--experiment-type",
    type=click.Choice([str(member) for member in rules.ExperimentType]),
    default=str(rules.ExperimentType.SWEEP),
    show_default=True,
    help="Type of runs whose summary names none.",
)
@click.option("--require-regime", is_flag=True, help="Reject runs without an out-of-sample regime.")
@click.option("--require-metrics", is_flag=True, help="Skip runs with an absent metric.")
def backfill_candidacy(
    as_json: bool, listed: bool, dry_run: bool, experiment_type: str, **arguments: Any
) -> None:
    """Put excluded runs through the quality gate and mark those that pass as candidates."""
    from kb_pipeline.backfills import candidacy

    request = candidacy.CandidacyRequest(experiment_type=rules.ExperimentType(experiment_type), **arguments)
    with _session("backfill-candidacy") as connection, _watch(request.limit, "runs") as watch:
        report = candidacy.backfill_candidacy(connection, request, dry_run=dry_run, watch=watch)
    _finish(report, as_json, listed)


@cli.command()
@_backfill_options(rules.REGIME_LIMIT_ROWS, "runs")
@click.option("--ohlcv-file", type=click.Path(path_type=Path), required=True, help="Price file to read.")
@click.option("--symbol", type=_Symbol(), help="Only runs of this symbol.  [default: the file's own]")
@click.option(
    "--timeframe",
    type=click.Choice(list(rules.TIMEFRAMES_SECONDS)),
    default="1d",
    show_default=True,
    help="Length of the file's bars.",
)
@click.option("--calendar", help="Trading calendar: XNYS, 24/7, FX, ...  [default: from symbols.yaml]")
@click.option("--tz", "timezone", help="Zone of times without an offset in the file.  [default: UTC]")
@click.option(
    "--min-coverage",
    type=_Fraction(),
    default=rules.MIN_COVERAGE_FRACTION,
    show_default=True,
    help="Share of the calendar's bars that a window must hold.",
)
def backfill_regime(as_json: bool, listed: bool, dry_run: bool, **arguments: Any) -> None:
    """Compute the market regime of each run's own out-of-sample window from a price file."""
    from kb_pipeline.backfills import regime

    request = regime.RegimeRequest(**arguments)
    with _session("backfill-regime") as connection, _watch(request.limit, "runs") as watch:
        report = regime.backfill_regime(connection, request, dry_run=dry_run, watch=watch)
    _finish(report, as_json, listed)


@cli.command()
@_backfill_options(rules.ATTRIBUTION_LIMIT_ROWS, "tunes")
def backfill_attribution(as_json: bool, listed: bool, dry_run: bool, **arguments: Any) -> None:
    """Write to completed tunes the regime they were won in, their best score and a baseline."""
    from kb_pipeline.backfills import attribution

    request = attribution.AttributionRequest(**arguments)
    with _session("backfill-attribution") as connection, _watch(request.limit, "tunes") as watch:
        report = attribution.backfill_attribution(connection, request, dry_run=dry_run, watch=watch)
    _finish(report, as_json, listed)


@cli.command()
@_backfill_options(rules.TRIALS_LIMIT_ROWS, "sources")
def ingest_trials(as_json: bool, listed: bool, dry_run: bool, **arguments: Any) -> None:
    """Turn candidates, promoted runs and completed trials into rows of the knowledge base."""
    from kb_pipeline.backfills import trials

    request = trials.TrialsRequest(**arguments)
    with _session("ingest-trials") as connection, _watch(request.limit, "sources") as watch:
        report = trials.ingest_trials(connection, request, dry_run=dry_run, watch=watch)
    _finish(report, as_json, listed)


@cli.command()
@click.argument("run_id", type=click.UUID)
@click.option("--workspace-id", type=click.UUID, help="Look only in this workspace.")
@click.option("--require-regime", is_flag=True, help="Decide as with backfill-candidacy --require-regime.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def explain(run_id: UUID, workspace_id: UUID | None, require_regime: bool, as_json: bool) -> None:
    """Show why a run is or is not a candidate: inputs, thresholds, decision, who and when."""
    from kb_pipeline.backfills.explain import explain_run

    with _session("explain") as connection:
        explanation = explain_run(
            connection, run_id, workspace_id=workspace_id, require_regime=require_regime
        )
    click.echo(json.dumps(explanation.to_dict(), indent=2) if as_json else explanation.to_text())


@cli.command()
def demo() -> None:
    """Load the demo workspace and run the main job over it: first as dry run, then for real."""
    from kb_pipeline.backfills.demo import run_demo

    with _session("demo") as connection, _watch(None, "rows") as watch:
        lines = run_demo(connection, watch)
        while True:
            try:
                click.echo(next(lines))
            except StopIteration as end:
                sys.exit(end.value)


@cli.group()
def partitions() -> None:
    """Keep Dagster's partitions in step with the database and the price files."""


@partitions.command()
def sync() -> None:
    """Register workspaces and symbols as partitions now; the web page's daemon does so every minute."""
    # a process of its own: the command line does not know Dagster
    done = subprocess.run([sys.executable, "-m", "kb_pipeline.orchestration.sync"], check=False)
    sys.exit(done.returncode)


@cli.group()
def db() -> None:
    """Start, stop and migrate the database."""


@db.command()
def start() -> None:
    """Start the embedded Postgres, if it is not running."""
    from kb_pipeline.storage import embedded
    from kb_pipeline.storage.postgres import redact

    click.echo(f"The embedded Postgres runs: {redact(embedded.start())}")


@db.command()
def stop() -> None:
    """Stop the embedded Postgres."""
    from kb_pipeline.storage import embedded

    click.echo("Stopped." if embedded.stop() else "The embedded Postgres was not running.")


@db.command()
def status() -> None:
    """Say whether the database answers and whether its tables are up to date."""
    from kb_pipeline.storage.status import database_status

    facts = database_status()
    width = max(len(name) for name in facts) + 3
    for name, value in facts.items():
        click.echo(f"{name + ':':<{width}}{value}")


@db.command()
@click.option("--show-password", is_flag=True, help="Print the URL with its password.")
def url(show_password: bool) -> None:
    """Print the URL of the database in use."""
    from kb_pipeline.storage.postgres import database_url, redact

    found = database_url()
    click.echo(found if show_password else redact(found))


@db.command()
def migrate() -> None:
    """Make or adopt the platform's tables and bring them up to date."""
    from kb_pipeline.storage.migrations import migrate as apply
    from kb_pipeline.storage.postgres import database_url

    report = apply(database_url())
    for name in report.applied:
        click.echo(f"applied {name}")
    click.echo(f"{len(report.applied)} applied, {report.already} already there.")


@contextmanager
def _session(command: str) -> "Iterator[Connection]":
    """Open a session for one command; name the next step where the tables are not there."""
    import psycopg

    from kb_pipeline.storage.postgres import connect

    with connect(application_name=f"kb-pipeline {command}") as connection:
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
def _watch(limit: int | None, unit: str) -> "Iterator[Watch]":
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


def _finish(report: "BackfillReport", as_json: bool, listed: bool) -> None:
    click.echo(json.dumps(report.to_dict(), indent=2) if as_json else report.to_text())
    if listed and not as_json and report.skipped:
        click.echo(report.listing())
    if report.exit_code:
        sys.exit(report.exit_code)


def main() -> None:
    """Run the command line and end the process with its exit code."""
    try:
        cli(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(rules.ExitCode.INTERRUPTED)
    except KbPipelineError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(error.exit_code)
    except OSError as error:  # stdout is a closed pipe or a full disk; what was committed stays
        sys.stderr.write(f"Error: the output could not be written: {error.strerror}\n")
        sys.stdout = None
        sys.exit(rules.ExitCode.FAILURE)


if __name__ == "__main__":
    main()
