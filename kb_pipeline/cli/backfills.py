"""The commands that write knowledge, and the one that explains a decision."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from kb_pipeline import rules
from kb_pipeline.cli.arguments import Fraction, Symbol, Workspace, Zone, backfill_options
from kb_pipeline.cli.running import finish, say, session, watching

if TYPE_CHECKING:
    from kb_pipeline.backfills.report import BackfillReport


def _gate_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option("--require-metrics", is_flag=True, help="Skip runs with an absent metric."),
        click.option("--require-regime", is_flag=True, help="Reject runs without an out-of-sample regime."),
        click.option(
            "--experiment-type",
            type=click.Choice([str(member) for member in rules.ExperimentType]),
            default=str(rules.ExperimentType.SWEEP),
            show_default=True,
            help="Type of runs whose summary names none.",
        ),
    ):
        command = option(command)
    return command


@click.command()
@backfill_options(rules.CANDIDACY_LIMIT_ROWS, "runs")
@_gate_options
def backfill_candidacy(
    as_json: bool, listed: bool, dry_run: bool, experiment_type: str, **arguments: Any
) -> None:
    """Put excluded runs through the quality gate and mark those that pass as candidates."""
    from kb_pipeline.backfills import candidacy

    request = candidacy.CandidacyRequest(experiment_type=rules.ExperimentType(experiment_type), **arguments)
    with session("backfill-candidacy") as connection, watching(request.limit, "runs") as watch:
        report = candidacy.backfill_candidacy(connection, request, dry_run=dry_run, watch=watch)
    finish(report, as_json, listed)


@click.command()
@backfill_options(rules.REGIME_LIMIT_ROWS, "runs")
@click.option("--ohlcv-file", type=click.Path(path_type=Path), required=True, help="Price file to read.")
@click.option(
    "--symbol",
    type=Symbol(),
    help="Only runs that name this symbol. Without it all that wait are scanned, and those of another symbol "
    "than the file's are skipped as symbol_mismatch.",
)
@click.option(
    "--timeframe",
    type=click.Choice(list(rules.TIMEFRAMES_SECONDS)),
    default="1d",
    show_default=True,
    help="Length of the file's bars.",
)
@click.option("--calendar", help="Trading calendar: XNYS, 24/7, FX, ...  [default: from symbols.yaml]")
@click.option(
    "--tz", "timezone", type=Zone(), help="Zone of times without an offset in the file.  [default: UTC]"
)
@click.option(
    "--min-coverage",
    type=Fraction(),
    default=rules.MIN_COVERAGE_FRACTION,
    show_default=True,
    help="Share of the calendar's bars that a window must hold.",
)
def backfill_regime(as_json: bool, listed: bool, dry_run: bool, **arguments: Any) -> None:
    """Compute the market regime of each run's own out-of-sample window from a price file."""
    from kb_pipeline.backfills import regime

    request = regime.RegimeRequest(**arguments)
    with session("backfill-regime") as connection, watching(request.limit, "runs") as watch:
        report = regime.backfill_regime(connection, request, dry_run=dry_run, watch=watch)
        if report.scanned == 0 and (note := regime.why_none_waits(connection, request)):
            report.notes.append(note)
    finish(report, as_json, listed)


@click.command()
@backfill_options(rules.ATTRIBUTION_LIMIT_ROWS, "tunes")
def backfill_attribution(as_json: bool, listed: bool, dry_run: bool, **arguments: Any) -> None:
    """Write to completed tunes the regime they were won in, their best score and a baseline."""
    from kb_pipeline.backfills import attribution

    request = attribution.AttributionRequest(**arguments)
    with session("backfill-attribution") as connection, watching(request.limit, "tunes") as watch:
        report = attribution.backfill_attribution(connection, request, dry_run=dry_run, watch=watch)
    finish(report, as_json, listed)


@click.command()
@backfill_options(rules.TRIALS_LIMIT_ROWS, "sources")
def ingest_trials(as_json: bool, listed: bool, dry_run: bool, **arguments: Any) -> None:
    """Turn candidates, promoted runs and completed trials into rows of the knowledge base."""
    from kb_pipeline.backfills import trials

    request = trials.TrialsRequest(**arguments)
    with session("ingest-trials") as connection, watching(request.limit, "sources") as watch:
        report = trials.ingest_trials(connection, request, dry_run=dry_run, watch=watch)
    finish(report, as_json, listed)


@click.command()
@click.argument("run_id", type=click.UUID)
@click.option("--workspace-id", type=Workspace(), help="Look only in this workspace.")
@_gate_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def explain(run_id: UUID, as_json: bool, experiment_type: str, **arguments: Any) -> None:
    """Show why a run is or is not a candidate: inputs, thresholds, decision, who and when.

    Decided as backfill-candidacy does with these options.
    """
    from kb_pipeline.backfills.explain import explain_run

    with session("explain") as connection:
        explanation = explain_run(
            connection, run_id, experiment_type=rules.ExperimentType(experiment_type), **arguments
        )
    say(json.dumps(explanation.to_dict(), indent=2) if as_json else explanation.to_text())


@click.command()
def demo() -> None:
    """Load the demo workspace and run every backfill over it: first as dry run, then for real."""
    from kb_pipeline.backfills.demo import run_demo
    from kb_pipeline.storage.demo import demo_directory

    demo_directory()  # before a database is made for it
    with session("demo", make=True) as connection, watching(None, "rows") as watch:
        lines = run_demo(connection, watch, _show_on_the_web_page)
        while True:
            try:
                say(next(lines))
            except StopIteration as end:
                sys.exit(end.value)


def _show_on_the_web_page(reports: "list[BackfillReport]") -> str:
    # A process of its own: the command line does not know Dagster.
    told = subprocess.run(
        [sys.executable, "-m", "kb_pipeline.orchestration.told"],
        input="".join(json.dumps(report.to_dict()) + "\n" for report in reports),
        text=True,
        check=False,
    )
    if told.returncode:
        return (
            "The web page was not told of these backfills, for the reason above; they are done all the same."
        )
    return f"The web page has these {len(reports)} reports at their partitions. No run of Dagster made them."
