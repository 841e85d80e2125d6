"""The checks: prices that may not go on, dry runs as reports, and promises the stored data must keep.

A check without a partition of its own looks at the partitions of its run, at all of them when it is
executed alone. Dry runs are executed alone: after their asset's run they would read everything to find
nothing left.
"""

from collections.abc import Callable, Iterator
from typing import Any, Final

import dagster as dg
import pandas as pd
import pandera.errors

from kb_pipeline.backfills import invariants
from kb_pipeline.domain.ohlcv import OHLCV_SCHEMA, bar_times_ns
from kb_pipeline.orchestration import dry_runs
from kb_pipeline.orchestration.assets import (
    DatabaseParam,
    PricesParam,
    candidacy_decisions,
    ohlcv,
    regime_snapshots,
    tune_regime_attribution,
)
from kb_pipeline.orchestration.dry_runs import Rehearsal
from kb_pipeline.orchestration.metadata import table
from kb_pipeline.orchestration.resources import Database, Prices
from kb_pipeline.orchestration.settings import CandidacyDryRunSettings, RegimeDryRunSettings, ScanSettings
from kb_pipeline.orchestration.steps import coverage_index
from kb_pipeline.rules import MIN_COVERAGE_FRACTION
from kb_pipeline.storage import orchestration
from kb_pipeline.storage.postgres import Connection
from kb_pipeline.storage.price_files import PriceFile, read_normalised

Row = dict[str, str | int | float | None]
CheckContext = dg.AssetCheckExecutionContext


def schema_failures(symbol: str, bars: pd.DataFrame) -> list[Row]:
    """Return every breach of the bars' schema, as rows of a table."""
    try:
        OHLCV_SCHEMA.validate(bars, lazy=True)
    except pandera.errors.SchemaErrors as error:
        cases = error.failure_cases[["column", "check", "failure_case", "index"]].astype(str)
        return [{"symbol": symbol, **row} for row in cases.to_dict("records")]
    return []


def is_looked_at(context: CheckContext) -> Callable[[str], bool]:
    """Return which partitions a check looks at: those of its run, all where the run has none."""
    if context.has_partition_key:
        # Not partition_keys, which a job of checks alone does not have.
        return {str(context.partition_key)}.__contains__
    if context.has_partition_key_range:
        return {str(key) for key in context.partition_keys}.__contains__
    return lambda _: True


def _normalised(context: CheckContext, prices: Prices) -> Iterator[tuple[PriceFile, Any]]:
    """Yield the normalised bars of the symbols to look at."""
    is_chosen = is_looked_at(context)
    for file in prices.files():
        bars = read_normalised(file) if is_chosen(file.symbol) else None
        if bars is not None:
            yield file, bars


@dg.asset_check(asset=ohlcv, blocking=True)
def ohlcv_schema(context: CheckContext, prices: PricesParam) -> dg.AssetCheckResult:
    """Normalised bars obey the schema: finite positive prices between low and high, times that increase."""
    files = 0
    failures: list[Row] = []
    for file, bars in _normalised(context, prices):
        files += 1
        failures += schema_failures(file.symbol, bars)
    return dg.AssetCheckResult(
        passed=not failures,
        metadata={"files": files, "failures": len(failures), "failure_cases": table(failures)},
    )


@dg.asset_check(asset=ohlcv)
def ohlcv_coverage(context: CheckContext, prices: PricesParam) -> dg.AssetCheckResult:
    """Each file holds enough of the bars its trading calendar expects; what is missing is named."""
    missing: list[Row] = []
    shares: list[Row] = []
    thin: list[str] = []
    for file, bars in _normalised(context, prices):
        share, ranges = coverage_of(prices, file, bars)
        shares.append({"symbol": file.symbol, "timeframe": file.timeframe, "coverage": share})
        if share is None or share < MIN_COVERAGE_FRACTION:
            thin.append(file.symbol)
        missing += ranges
    return dg.AssetCheckResult(
        passed=not thin,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"Thin or without a known calendar: {', '.join(thin)}" if thin else None,
        metadata={"files": len(shares), "coverage": table(shares), "missing_ranges": table(missing)},
    )


def coverage_of(prices: Prices, file: PriceFile, bars: pd.DataFrame) -> tuple[float | None, list[Row]]:
    """Return the share of expected bars that a file holds and its gaps, None where no calendar is known."""
    times_ns = bar_times_ns(bars)
    index = coverage_index(prices, file, times_ns)
    if index is None:
        return None, []
    present, expected = index.window_counts(times_ns[:1], times_ns[-1:])
    gaps = index.missing_ranges(int(times_ns[0]), int(times_ns[-1]))
    rows: list[Row] = [
        {
            "symbol": file.symbol,
            "first": f"{gap.first:%Y-%m-%d %H:%M}",
            "last": f"{gap.last:%Y-%m-%d %H:%M}",
            "bars": gap.bars,
        }
        for gap in sorted(gaps, key=lambda gap: -gap.bars)
    ]
    return round(float(present[0] / expected[0]), 4) if expected[0] else 0.0, rows


def _rehearsed(
    context: CheckContext,
    database: Database,
    rehearse: Callable[[Connection], list[Rehearsal]],
) -> dg.AssetCheckResult:
    """Return the result of a dry run; of none where Dagster runs it after the backfill of the same run."""
    if context.run.asset_selection:
        says = "Not rehearsed: this ran right after the backfill itself. Execute it alone."
        return dg.AssetCheckResult(passed=True, description=says)
    with database.session("dry run", context.run.run_id) as connection:
        return dry_runs.check_result(rehearse(connection))


@dg.asset_check(asset=regime_snapshots)
def regime_dry_run(
    context: CheckContext,
    config: RegimeDryRunSettings,
    database: DatabaseParam,
    prices: PricesParam,
) -> dg.AssetCheckResult:
    """What the regime backfill would do now. Writes nothing."""
    return _rehearsed(context, database, lambda it: dry_runs.rehearse_regimes(it, config, prices))


@dg.asset_check(asset=candidacy_decisions)
def candidacy_dry_run(
    context: CheckContext, config: CandidacyDryRunSettings, database: DatabaseParam
) -> dg.AssetCheckResult:
    """What the candidacy backfill would do now. Writes nothing."""
    return _rehearsed(context, database, lambda it: dry_runs.rehearse_candidacy(it, config))


@dg.asset_check(asset=tune_regime_attribution)
def attribution_dry_run(
    context: CheckContext, config: ScanSettings, database: DatabaseParam
) -> dg.AssetCheckResult:
    """What the attribution backfill would do now. Writes nothing."""
    return _rehearsed(context, database, lambda it: dry_runs.rehearse_attribution(it, config))


def _breaches(context: CheckContext, database: Database, *rules: str) -> dg.AssetCheckResult:
    """Return the result of some rules of the invariants, each held against every workspace to look at."""
    rows: list[Row] = []
    is_chosen = is_looked_at(context)
    with database.session("check", context.run.run_id) as connection:
        for workspace in orchestration.active_workspaces(connection):
            if not is_chosen(workspace.slug):
                continue
            for rule, found in invariants.breaches(connection, workspace.id, rules).items():
                rows += [{"workspace": workspace.slug, "rule": rule, **it._asdict()} for it in found]
    return dg.AssetCheckResult(passed=not rows, metadata={"breaches": len(rows), "first": table(rows)})


@dg.asset_check(asset=tune_regime_attribution)
def tags_match_key(context: CheckContext, database: DatabaseParam) -> dg.AssetCheckResult:
    """The tag columns of every attributed tune and every trial say the same as its regime key."""
    return _breaches(context, database, "tags_against_key")


@dg.asset_check(asset=tune_regime_attribution)
def fingerprint_matches_key(context: CheckContext, database: DatabaseParam) -> dg.AssetCheckResult:
    """The fingerprint of every attributed tune is the SHA-256 of its regime key."""
    return _breaches(context, database, "fingerprint_against_key")


@dg.asset_check(asset=candidacy_decisions)
def human_decisions_kept(context: CheckContext, database: DatabaseParam) -> dg.AssetCheckResult:
    """No backfill changed a run after a person had decided about it."""
    return _breaches(context, database, "overwritten_decisions")


@dg.asset_check(asset=candidacy_decisions)
def changes_audited_once(context: CheckContext, database: DatabaseParam) -> dg.AssetCheckResult:
    """Every change of a run's status by a backfill has one audit row, written in the same transaction."""
    return _breaches(context, database, "unaudited_changes", "audited_twice")


@dg.asset_check(asset=candidacy_decisions)
def ledger_conserved(context: CheckContext, database: DatabaseParam) -> dg.AssetCheckResult:
    """Every backfill accounts for each row it scanned exactly once, also one that was killed."""
    return _breaches(context, database, "unbalanced_ledger")


@dg.asset_check(asset=candidacy_decisions)
def batches_bounded(context: CheckContext, database: DatabaseParam) -> dg.AssetCheckResult:
    """No transaction of a backfill changed more rows than the largest batch."""
    return _breaches(context, database, "oversized_transactions")


@dg.asset_check(asset=tune_regime_attribution)
def decisions_repeatable(context: CheckContext, database: DatabaseParam) -> dg.AssetCheckResult:
    """Deciding again from what is stored gives what is stored: candidates, regimes, trials, attributions."""
    return _breaches(
        context,
        database,
        "candidates_against_metrics",
        "regimes_against_features",
        "trials_against_source",
        "attributions_against_trials",
    )


DRY_RUNS: Final = (regime_dry_run, candidacy_dry_run, attribution_dry_run)
CHECKS: Final = (
    ohlcv_schema,
    ohlcv_coverage,
    *DRY_RUNS,
    tags_match_key,
    fingerprint_matches_key,
    human_decisions_kept,
    changes_audited_once,
    ledger_conserved,
    batches_bounded,
    decisions_repeatable,
)
