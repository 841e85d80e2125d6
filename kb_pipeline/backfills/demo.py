"""The demo: load the history that comes with the project and run every backfill over it.

Everything is done by the same functions the commands call; only the order is this module's own.
"""

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

from kb_pipeline.backfills.attribution import AttributionRequest, backfill_attribution
from kb_pipeline.backfills.candidacy import CandidacyRequest, backfill_candidacy
from kb_pipeline.backfills.engine import Watch
from kb_pipeline.backfills.regime import RegimeRequest, backfill_regime
from kb_pipeline.backfills.report import BackfillReport
from kb_pipeline.backfills.trials import TrialsRequest, ingest_trials
from kb_pipeline.rules import ExitCode
from kb_pipeline.storage import backtest_runs, session
from kb_pipeline.storage.demo import DEMO_WORKSPACE_ID, demo_directory, load_demo
from kb_pipeline.storage.paths import data_directory
from kb_pipeline.storage.postgres import Connection


@dataclass(frozen=True, slots=True)
class _Step:
    """One command of the demo and the call behind it."""

    command: str
    run: Callable[[bool], BackfillReport]


def run_demo(
    connection: Connection, watch: Watch, record: Callable[[list[BackfillReport]], str]
) -> Generator[str, None, int]:
    """Load the demo workspace, run every backfill dry and for real, and yield what to print.

    The tables must be there. Once everything is done, a further call writes nothing and says so.
    `record` is given the reports of what was written, if anything was, and says what became of them.
    Returns the exit code: that of the first report that is not done, which is also the last one.
    """
    loaded = load_demo(connection, demo_directory())
    new_rows = ", ".join(f"{rows} {table}" for table, rows in loaded.items() if rows)
    yield f"Demo workspace {DEMO_WORKSPACE_ID}: " + (f"loaded {new_rows}." if new_rows else "loaded before.")
    if new_rows:
        session.refresh_statistics(connection)
    done: list[BackfillReport] = []
    for step in _steps(connection, watch):
        report = step.run(True)
        if report.updated or report.exit_code:
            yield f"\n$ {step.command} --dry-run\n{report.to_text()}"
        if report.updated and not report.exit_code:
            report = step.run(False)
            done.append(report)
            yield f"\n$ {step.command}\n{report.to_text()}"
        if report.exit_code:
            return report.exit_code
    without_symbol = backtest_runs.count_without_symbol(connection, DEMO_WORKSPACE_ID)
    nothing = "Nothing to do: the demo workspace is loaded and every backfill is complete."
    yield "\n" + ("Done. --list names the rows under each reason." if done else nothing)
    yield f"{without_symbol} runs name neither symbol nor dates: no price file can give them a regime."
    if done:
        yield record(done)
    yield _NEXT_STEPS.format(workspace_id=DEMO_WORKSPACE_ID)
    return ExitCode.DONE


_NEXT_STEPS = """
What to look at next:
  make ui                     the asset graph, in a browser
  make shell                  a shell in which the commands below work
  kb-pipeline db stop         stop the embedded Postgres, which goes on until then
  kb-pipeline backfill-candidacy --workspace-id {workspace_id} --dry-run --list
  kb-pipeline explain RUN_ID  why a run is, or is not, a candidate"""


def _steps(connection: Connection, watch: Watch) -> Iterator[_Step]:
    workspace = f"--workspace-id {DEMO_WORKSPACE_ID}"
    for path in sorted((data_directory() / "ohlcv").glob("*_*.csv")):
        yield _regime_step(connection, watch, path, workspace)
    candidacy = CandidacyRequest(workspace_id=DEMO_WORKSPACE_ID)
    yield _Step(
        f"kb-pipeline backfill-candidacy {workspace}",
        lambda dry_run: backfill_candidacy(connection, candidacy, dry_run=dry_run, watch=watch),
    )
    attribution = AttributionRequest(workspace_id=DEMO_WORKSPACE_ID)
    yield _Step(
        f"kb-pipeline backfill-attribution {workspace}",
        lambda dry_run: backfill_attribution(connection, attribution, dry_run=dry_run, watch=watch),
    )
    trials = TrialsRequest(workspace_id=DEMO_WORKSPACE_ID)
    yield _Step(
        f"kb-pipeline ingest-trials {workspace}",
        lambda dry_run: ingest_trials(connection, trials, dry_run=dry_run, watch=watch),
    )


def _regime_step(connection: Connection, watch: Watch, path: Path, workspace: str) -> _Step:
    symbol, _, timeframe = path.stem.partition("_")
    # As the command below it is typed, so that the reports are the same.
    shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    # its prices and their calendars lie together, wherever KB_DATA_ROOT says that others are
    request = RegimeRequest(
        workspace_id=DEMO_WORKSPACE_ID,
        ohlcv_file=shown,
        symbol=symbol,
        timeframe=timeframe,
        data_root=data_directory(),
    )
    return _Step(
        f"kb-pipeline backfill-regime {workspace} --ohlcv-file {shown}"
        f" --symbol {symbol} --timeframe {timeframe}",
        lambda dry_run: backfill_regime(connection, request, dry_run=dry_run, watch=watch),
    )
