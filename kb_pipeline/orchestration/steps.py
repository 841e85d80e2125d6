"""What each asset does for one of its partitions: a backfill called, its report turned into metadata.

A step knows its asset's name, the partitions a run means that names none, and the work for one
key. Assets and the job `everything` run the same steps; how is the work of runs.py.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from kb_pipeline.backfills.attribution import AttributionRequest, backfill_attribution
from kb_pipeline.backfills.candidacy import CandidacyRequest, backfill_candidacy
from kb_pipeline.backfills.regime import RegimeRequest, backfill_regime
from kb_pipeline.backfills.report import BackfillReport
from kb_pipeline.backfills.trials import TrialsRequest, ingest_trials
from kb_pipeline.backfills.uplift import UpliftRequest, measure_uplift
from kb_pipeline.dashboard.page import dashboard_path, write_dashboard
from kb_pipeline.domain.calendars import CoverageIndex
from kb_pipeline.domain.ohlcv import bar_times_ns
from kb_pipeline.errors import BadArgumentError, ConflictsRemainError, KbPipelineError
from kb_pipeline.orchestration.metadata import Metadata, report_metadata, uplift_metadata
from kb_pipeline.orchestration.partitions import pair_key, split_pair
from kb_pipeline.orchestration.plots import price_plot
from kb_pipeline.orchestration.resources import Prices
from kb_pipeline.orchestration.settings import (
    BackfillSettings,
    CandidacySettings,
    OhlcvSettings,
    RegimeSettings,
    WorkspaceSettings,
)
from kb_pipeline.plain_text import printable
from kb_pipeline.storage.backfill_runs import Span
from kb_pipeline.storage.ohlcv_files import OhlcvFile, read_ohlcv_file
from kb_pipeline.storage.orchestration import (
    Workspace,
    find_workspace,
    regime_windows,
    symbol_waits,
    waiting_symbols,
)
from kb_pipeline.storage.postgres import Connection
from kb_pipeline.storage.price_files import PriceFile, read_normalised, write_normalised

Work = Callable[[str], Metadata]


class Surroundings(NamedTuple):
    """What a step works with; `plotted` is whether its few partitions are worth pictures.

    `part` is the rows of a partition that are this process's, where several share it out.
    """

    connection: Connection
    prices: Prices
    plotted: bool
    part: Span | None = None


class Step(NamedTuple):
    """One asset: the partitions meant without one, and the work for one key."""

    asset: str
    named_keys: Callable[[Surroundings, Any], list[str]]
    work: Callable[[Surroundings, Any], Work]


def chosen_workspaces(connection: Connection, config: WorkspaceSettings) -> list[Workspace]:
    """Return the workspaces a run configuration names.

    Raises:
        BadArgumentError: It names none, or one that does not exist.
    """
    if not config.workspaces:
        raise BadArgumentError(
            "This run names no workspace. Give it a partition, or `workspaces: [demo]` in its run config."
        )
    return [find_workspace(connection, name) for name in config.workspaces]


def workspace_keys(around: Surroundings, config: WorkspaceSettings) -> list[str]:
    """Return the partitions of the workspaces named."""
    return [workspace.slug for workspace in chosen_workspaces(around.connection, config)]


def symbol_keys(around: Surroundings, config: OhlcvSettings) -> list[str]:
    """Return the symbols named, all that have a price file where none is."""
    return [symbol.upper() for symbol in config.symbols] or around.prices.symbols()


def pair_keys(around: Surroundings, config: RegimeSettings) -> list[str]:
    """Return the product of the workspaces and the symbols named."""
    symbols = [symbol.upper() for symbol in config.symbols] or around.prices.symbols()
    return [
        pair_key(workspace.slug, symbol)
        for workspace in chosen_workspaces(around.connection, config)
        for symbol in symbols
    ]


def ohlcv_work(around: Surroundings, _config: OhlcvSettings) -> Work:
    """Return what reads, checks and normalises all files of one symbol."""

    def normalise(symbol: str) -> Metadata:
        files = around.prices.files_of(symbol, None)
        metadata: Metadata = {}
        for file in files:
            read = read_ohlcv_file(
                file.path, timeframe=file.timeframe, symbol=symbol, data_root=around.prices.root
            )
            path = write_normalised(file, read)
            facts = {**price_facts(around.prices, file, read), "parquet": str(path)}
            if around.plotted:
                facts["price_plot"] = price_plot(f"{symbol} {file.timeframe}", read.frame)
            prefix = "" if len(files) == 1 else f"{file.timeframe} "
            metadata |= {f"{prefix}{name}": value for name, value in facts.items()}
        return metadata

    return normalise


def price_facts(prices: Prices, file: PriceFile, read: OhlcvFile) -> Metadata:
    """Return rows, range and, where the calendar is known, coverage of a price file."""
    times_ns = bar_times_ns(read.frame)
    facts: Metadata = {
        "timeframe": file.timeframe,
        "dagster/row_count": len(times_ns),
        "first": f"{read.frame.index[0]:%Y-%m-%d %H:%M}",
        "last": f"{read.frame.index[-1]:%Y-%m-%d %H:%M}",
        "sha256": read.sha256,
        **read.notices,
    }
    index = coverage_index(prices, file, times_ns)
    if index is not None:
        present, expected = index.window_counts(times_ns[:1], times_ns[-1:])
        facts["coverage"] = float(present[0] / expected[0]) if expected[0] else 0.0
    return facts


def coverage_index(prices: Prices, file: PriceFile, times_ns: np.ndarray[Any, Any]) -> CoverageIndex | None:
    """Return the index of a file's coverage, None where symbols.yaml does not list its symbol."""
    info = prices.info(file.symbol)
    if info is None:
        return None
    return CoverageIndex(times_ns, calendar=info.calendar, timeframe=file.timeframe, timezone=info.timezone)


def regime_work(around: Surroundings, config: RegimeSettings) -> Work:
    """Return what computes the regimes of one workspace's runs of one symbol."""
    workspaces: dict[str, tuple[Workspace, dict[str, int]]] = {}

    def compute(key: str) -> Metadata:
        name, symbol = split_pair(key)
        if name not in workspaces:
            found = find_workspace(around.connection, name)
            workspaces[name] = (found, _waiting(around, found, symbol))
        workspace, waiting = workspaces[name]
        if not waiting.get(symbol):
            return _nothing_waits(workspace) | _regime_plot(around, workspace, symbol)
        request = regime_request(around.prices, workspace, symbol, config, config.pace(), around.part)
        report = backfill_regime(around.connection, request, dry_run=False)
        return _shown(workspace, report, around) | _regime_plot(around, workspace, symbol)

    return compute


def _waiting(around: Surroundings, workspace: Workspace, symbol: str) -> dict[str, int]:
    if around.part is None:
        return waiting_symbols(around.connection, workspace.id)
    # Of a part it is not worth a look at all runs. One among others was cut at rows that wait.
    whole = around.part == Span()
    return {symbol: int(not whole or symbol_waits(around.connection, workspace.id, symbol))}


def regime_request(
    prices: Prices,
    workspace: Workspace,
    symbol: str,
    config: Any,
    pace: dict[str, Any],
    part: Span | None = None,
) -> RegimeRequest:
    """Return the request for one workspace and symbol, with the price file that belongs to it.

    Raises:
        BadArgumentError: The symbol has no price file, or several and the settings name no timeframe.
    """
    files = prices.files_of(symbol, config.timeframe)
    timeframes = sorted({file.timeframe for file in files})
    if len(files) > 1:
        raise BadArgumentError(
            f"{symbol} has {len(files)} price files, with bars of {', '.join(timeframes)}. "
            "Say which one the runs are of: `timeframe` in the run config."
        )
    return RegimeRequest(
        workspace_id=workspace.id,
        ohlcv_file=files[0].path,
        symbol=symbol,
        timeframe=files[0].timeframe,
        data_root=prices.root,
        part=part,
        **config.windows(),
        **pace,
    )


def _nothing_waits(workspace: Workspace) -> Metadata:
    counts = dict.fromkeys(("scanned", "updated", "skipped", "changed_meanwhile", "conflicts"), 0)
    return {"workspace": printable(workspace.name), "workspace_id": str(workspace.id), **counts}


def _regime_plot(around: Surroundings, workspace: Workspace, symbol: str) -> Metadata:
    windows = regime_windows(around.connection, workspace.id, symbol) if around.plotted else []
    if not windows:
        return {}
    title = f"{symbol} in {workspace.name}: {len(windows)} windows by their regime"
    # A price file that was refused since is told of where it is needed, not by a picture.
    with suppress(KbPipelineError):
        return {"regime_plot": price_plot(title, _bars(around.prices, symbol), windows)}
    return {}


def _bars(prices: Prices, symbol: str) -> pd.DataFrame:
    file = prices.files_of(symbol, None)[0]
    normalised = read_normalised(file)
    if normalised is not None:
        return normalised
    return read_ohlcv_file(file.path, timeframe=file.timeframe, symbol=symbol, data_root=prices.root).frame


def candidacy_work(around: Surroundings, config: CandidacySettings) -> Work:
    """Return what puts the runs of one workspace through the quality gate."""

    def decide(key: str) -> Metadata:
        workspace = find_workspace(around.connection, key)
        request = CandidacyRequest(
            workspace_id=workspace.id, part=around.part, **config.gate(), **config.pace()
        )
        return _shown(workspace, backfill_candidacy(around.connection, request, dry_run=False), around)

    return decide


def attribution_work(around: Surroundings, config: BackfillSettings) -> Work:
    """Return what attributes a regime to the completed tunes of one workspace."""

    def attribute(key: str) -> Metadata:
        workspace = find_workspace(around.connection, key)
        request = AttributionRequest(workspace_id=workspace.id, part=around.part, **config.pace())
        return _shown(workspace, backfill_attribution(around.connection, request, dry_run=False), around)

    return attribute


def trials_work(around: Surroundings, config: BackfillSettings) -> Work:
    """Return what brings the trials of one workspace in step with their sources."""

    def ingest(key: str) -> Metadata:
        workspace = find_workspace(around.connection, key)
        request = TrialsRequest(workspace_id=workspace.id, **config.pace())
        return _shown(workspace, ingest_trials(around.connection, request, dry_run=False), around)

    return ingest


def uplift_work(around: Surroundings, _config: WorkspaceSettings) -> Work:
    """Return what measures the uplift of one workspace and writes its page."""

    def measure(key: str) -> Metadata:
        workspace = find_workspace(around.connection, key)
        report = measure_uplift(around.connection, UpliftRequest(workspace_id=workspace.id), dry_run=False)
        page = dashboard_path(workspace.id, workspace.slug)
        page.parent.mkdir(parents=True, exist_ok=True)
        write_dashboard(around.connection, workspace.id, page)
        return uplift_metadata(workspace, report, page, plotted=around.plotted)

    return measure


def _shown(workspace: Workspace, report: BackfillReport, around: Surroundings) -> Metadata:
    if report.conflicts:
        raise ConflictsRemainError(
            f"{report.conflicts} rows changed again and again while they were written. Run it again.\n"
            f"{report.to_text()}"
        )
    return report_metadata(workspace, report, plotted=around.plotted)


OHLCV = Step("ohlcv", symbol_keys, ohlcv_work)
REGIMES = Step("regime_snapshots", pair_keys, regime_work)
CANDIDACY = Step("candidacy_decisions", workspace_keys, candidacy_work)
ATTRIBUTION = Step("tune_regime_attribution", workspace_keys, attribution_work)
TRIALS = Step("kb_trials", workspace_keys, trials_work)
UPLIFT = Step("regime_uplift", workspace_keys, uplift_work)
