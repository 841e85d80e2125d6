"""Assets, jobs and checks run in process over a real database and real files."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from kb_pipeline.backfills.attribution import AttributionRequest, backfill_attribution
from kb_pipeline.backfills.candidacy import CandidacyRequest, backfill_candidacy
from kb_pipeline.backfills.regime import RegimeRequest, backfill_regime
from kb_pipeline.backfills.report import BackfillReport
from kb_pipeline.definitions import build_definitions
from kb_pipeline.orchestration import runs
from kb_pipeline.orchestration.executor import Execution
from kb_pipeline.orchestration.metadata import step_lines
from kb_pipeline.orchestration.partitions import SYMBOLS, WORKSPACES
from kb_pipeline.orchestration.resources import Database, Prices
from kb_pipeline.orchestration.told import tell
from kb_pipeline.rules import BackfillKind
from kb_pipeline.storage.locks import writer_lock
from kb_pipeline.storage.postgres import Connection, connect
from kb_pipeline_tests.builders import (
    add_run,
    add_trial,
    add_tune,
    add_workspace,
    column,
    write_daily_bars,
)
from kb_pipeline_tests.conftest import Workspace

WINDOW = {"date_min": "2020-03-01", "date_max": "2020-08-01"}


@pytest.fixture
def prices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Prices:
    """Two good price files and one that is refused, in a data root of their own."""
    monkeypatch.setenv("KB_HOME", str(tmp_path / "kb"))
    files = tmp_path / "data" / "ohlcv"
    files.mkdir(parents=True)
    calendars = "".join(f"  {it}: {{calendar: 24/7, timezone: UTC}}\n" for it in ("AAA", "BAD", "CCC"))
    (tmp_path / "data" / "symbols.yaml").write_text(f"symbols:\n{calendars}")
    for symbol in ("AAA", "CCC"):
        write_daily_bars(files / f"{symbol}_1d.csv")
    (files / "BAD_1d.csv").write_text("timestamp,open,high,low,close\n2020-01-01,1,1,1,-5\n")
    return Prices(tmp_path / "data")


@pytest.fixture
def instance(workspace: Workspace, tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """An instance of the test's own that knows the partitions."""
    # Without a directory of ours it makes one that nobody takes away.
    with dg.DagsterInstance.ephemeral(tempdir=str(tmp_path)) as found:
        found.add_dynamic_partitions(str(WORKSPACES.name), ["quant"])
        found.add_dynamic_partitions(str(SYMBOLS.name), ["AAA", "BAD", "CCC"])
        yield found


def _execute(prices: Prices, instance: dg.DagsterInstance, job: str, *, lanes: int = 0, **how: Any) -> Any:
    execution = Execution(dg.in_process_executor, lanes)
    definitions = build_definitions(database=Database(), prices=prices, execution=execution)
    return definitions.resolve_job_def(job).execute_in_process(instance=instance, raise_on_error=False, **how)


def _named(step: str, **settings: Any) -> dict[str, Any]:
    return {"ops": {step: {"config": settings}}}


def _materialize(
    prices: Prices, instance: dg.DagsterInstance, asset: str, tags: dict[str, str], settings: Any = None
) -> Any:
    definitions = build_definitions(database=Database(), prices=prices)
    return definitions.resolve_implicit_global_asset_job_def().execute_in_process(
        instance=instance,
        asset_selection=[dg.AssetKey(asset)],
        tags=tags,
        run_config=_named(asset, **(settings or {})),
        raise_on_error=False,
    )


def _pairs(*symbols: str) -> dict[str, str]:
    return {
        "dagster/asset_partition_range_start": f"{symbols[0]}|quant",
        "dagster/asset_partition_range_end": f"{symbols[-1]}|quant",
    }


def _materialized(instance: dg.DagsterInstance, asset: str) -> set[str]:
    return set(instance.get_materialized_partitions(dg.AssetKey(asset)))


def test_one_bad_symbol_is_named_and_the_others_finish(
    connection: Connection, workspace: Workspace, prices: Prices, instance: dg.DagsterInstance
) -> None:
    run_ids = {
        symbol: add_run(connection, workspace, dataset_meta={"symbol": symbol, **WINDOW})
        for symbol in ("AAA", "BAD", "CCC")
    }
    result = _materialize(prices, instance, "regime_snapshots", _pairs("AAA", "CCC"))
    assert not result.success
    (failure,) = result.filter_events(lambda event: event.is_step_failure)
    assert "BAD|quant" in failure.step_failure_data.error_display_string
    assert _materialized(instance, "regime_snapshots") == {"AAA|quant", "CCC|quant"}
    has_regime = {
        symbol: column(connection, "backtest_runs", "regime_oos", run_id) is not None
        for symbol, run_id in run_ids.items()
    }
    assert has_regime == {"AAA": True, "BAD": False, "CCC": True}


@pytest.mark.parametrize(("lanes", "failed"), [(0, "prices"), (1, "prices_done")])
def test_a_refused_file_that_no_run_needs_fails_the_job_and_holds_nothing_else_up(
    connection: Connection,
    workspace: Workspace,
    prices: Prices,
    instance: dg.DagsterInstance,
    lanes: int,
    failed: str,
) -> None:
    run_id = add_run(connection, workspace, dataset_meta={"symbol": "AAA", **WINDOW})
    steps = ("regimes", "candidacy", "attribution", "trials", "uplift")
    config = {"ops": {step: {"config": {"workspaces": ["quant"]}} for step in steps}}
    result = _execute(prices, instance, "everything", lanes=lanes, run_config=config)
    assert not result.success
    (failure,) = result.filter_events(lambda event: event.is_step_failure)
    assert failure.step_key == failed
    (ended,) = result.filter_events(lambda event: event.is_job_failure)
    assert "BAD_1d.csv:2:5 close" in str(ended.job_failure_data.first_step_failure_event)
    assert column(connection, "backtest_runs", "regime_oos", run_id) is not None
    assert _materialized(instance, "ohlcv") == {"AAA", "CCC"}
    for asset in ("candidacy_decisions", "tune_regime_attribution", "kb_trials", "regime_uplift"):
        assert _materialized(instance, asset) == {"quant"}


def test_a_whole_workspace_is_one_run_with_two_events_a_pair(
    connection: Connection, workspace: Workspace, prices: Prices, instance: dg.DagsterInstance
) -> None:
    add_run(connection, workspace, dataset_meta={"symbol": "AAA", **WINDOW})
    result = _materialize(prices, instance, "regime_snapshots", _pairs("AAA", "BAD"))
    # Nothing waits for BAD, so its file is not read; the pair is recorded all the same.
    assert result.success
    assert _materialized(instance, "regime_snapshots") == {"AAA|quant", "BAD|quant"}
    done = {
        it.materialization.partition: it.materialization.metadata
        for it in result.get_asset_materialization_events()
    }
    assert done["AAA|quant"]["updated"].value == 1
    assert "data:image/png;base64" in str(done["AAA|quant"]["regime_plot"].value)
    assert "regime_plot" not in done["BAD|quant"]
    events = instance.all_logs(result.run_id)
    kinds = [it.dagster_event.event_type_value for it in events if it.dagster_event]
    assert kinds.count("ASSET_MATERIALIZATION") == 2
    assert kinds.count("ASSET_MATERIALIZATION_PLANNED") <= 2
    # What the step says of all its partitions is one more row.
    assert [it.user_message for it in events if not it.dagster_event] == [
        "regime_snapshots, 2 partitions: 1 scanned, 1 updated, 0 skipped\n"
        "AAA|quant: 1 scanned, 1 updated, 0 skipped\n"
        "BAD|quant: 0 scanned, 0 updated, 0 skipped"
    ]


def test_a_step_over_many_partitions_names_the_first_of_them() -> None:
    done = {f"S{number}": {"dagster/row_count": 10, "coverage": 0.5} for number in range(23)}
    said = step_lines("ohlcv", done, named=True).splitlines()
    assert said[0] == "ohlcv, 23 partitions: 230 bars"
    assert said[-2:] == ["S19: 10 bars", "... and 3 more"]


def test_what_was_done_without_dagster_is_told_as_a_run_would_have_recorded_it(
    connection: Connection, workspace: Workspace, prices: Prices, instance: dg.DagsterInstance
) -> None:
    add_run(connection, workspace, dataset_meta={"symbol": "AAA", **WINDOW}, summary={"sharpe": 1.2})
    pairs = RegimeRequest(
        workspace_id=workspace.id,
        ohlcv_file=prices.root / "ohlcv" / "AAA_1d.csv",
        symbol="AAA",
        data_root=prices.root,
    )
    done = [
        backfill_regime(connection, pairs, dry_run=False),
        backfill_candidacy(connection, CandidacyRequest(workspace_id=workspace.id), dry_run=False),
    ]
    # Between two processes they are JSON.
    received = [BackfillReport.from_dict(json.loads(json.dumps(report.to_dict()))) for report in done]
    assert received == done
    tell(instance, Database(), received)
    assert _materialized(instance, "regime_snapshots") == {"AAA|quant"}
    (event,) = instance.fetch_materializations(dg.AssetKey("candidacy_decisions"), limit=9).records
    assert event.asset_materialization is not None
    assert event.asset_materialization.partition == "quant"
    shown = event.asset_materialization.metadata
    assert (shown["scanned"].value, shown["skipped"].value) == (1, 1)
    assert "insufficient_oos_trades:  1" in str(shown["report"].value)


def test_a_run_handed_fewer_partitions_than_asked_for_fails_loudly(
    connection: Connection, workspace: Workspace, prices: Prices, instance: dg.DagsterInstance
) -> None:
    run_id = add_run(connection, workspace, dataset_meta={"symbol": "AAA", **WINDOW})
    # The tags of a backfill from the page of an asset job: a range, and its first key in each dimension.
    tags = _pairs("AAA", "CCC") | {
        "dagster/partition/symbol": "AAA",
        "dagster/partition/workspace": "quant",
    }
    result = _materialize(prices, instance, "regime_snapshots", tags)
    assert not result.success
    (failure,) = result.filter_events(lambda event: event.is_step_failure)
    assert "asks for 3 partitions, but Dagster handed it 1" in failure.step_failure_data.error_display_string
    assert column(connection, "backtest_runs", "regime_oos", run_id) is None


def test_the_dry_runs_count_what_the_next_run_does_and_write_nothing(
    connection: Connection, workspace: Workspace, prices: Prices, instance: dg.DagsterInstance
) -> None:
    for symbol, summary in (("AAA", {"sharpe": 1.2, "trades": 60}), ("CCC", {"sharpe": -1.0, "trades": 60})):
        add_run(connection, workspace, dataset_meta={"symbol": symbol, **WINDOW}, summary=summary)
    add_trial(connection, workspace, add_tune(connection, workspace), sharpe=1.0)
    rehearsed = _execute(prices, instance, "dry_run_reports")
    counts = {it.check_name: it.metadata for it in rehearsed.get_asset_check_evaluations()}
    would = {name: found["would_update"].value for name, found in counts.items()}
    assert would == {"regime_dry_run": 2, "candidacy_dry_run": 1, "attribution_dry_run": 1}
    for job, step, check in (
        ("backfill_regime", "regimes", "regime_dry_run"),
        ("backfill_candidacy", "candidacy", "candidacy_dry_run"),
        ("backfill_attribution", "attribution", "attribution_dry_run"),
    ):
        symbols = {"symbols": ["AAA", "CCC"]} if step == "regimes" else {}
        result = _execute(prices, instance, job, run_config=_named(step, workspaces=["quant"], **symbols))
        done = [it.materialization.metadata for it in result.get_asset_materialization_events()]
        assert sum(it["updated"].value for it in done) == would[check]
        assert sum(it["scanned"].value for it in done) == counts[check]["scanned"].value


def test_a_dry_run_that_dagster_adds_to_a_backfill_reads_nothing_and_says_so(
    connection: Connection, workspace: Workspace, prices: Prices, instance: dg.DagsterInstance
) -> None:
    definitions = build_definitions(database=Database(), prices=prices)
    result = definitions.resolve_implicit_global_asset_job_def().execute_in_process(
        instance=instance,
        asset_selection=[dg.AssetKey("candidacy_decisions")],
        tags={"dagster/partition": "quant"},
    )
    found = {it.check_name: it for it in result.get_asset_check_evaluations()}
    assert "Not rehearsed" in str(found["candidacy_dry_run"].description)
    assert "scanned" not in found["candidacy_dry_run"].metadata
    assert found["ledger_conserved"].metadata["breaches"].value == 0


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"since": "yesterday"}, "needed a date like"),
        ({"since": "2025-01-01T09:00"}, "without an offset"),
        ({"batch_size": 0}, "greater than or equal to 1"),
        ({"experiment_type": "guess"}, "needed one of tune, sweep, ablation, manual"),
    ],
)
def test_a_setting_that_cannot_be_used_stops_the_run_at_once(
    connection: Connection,
    workspace: Workspace,
    prices: Prices,
    instance: dg.DagsterInstance,
    settings: Any,
    named: str,
) -> None:
    config = _named("candidacy", workspaces=["quant"], **settings)
    result = _execute(prices, instance, "backfill_candidacy", run_config=config)
    (failure,) = result.filter_events(lambda event: event.is_step_failure)
    assert named in failure.step_failure_data.error_display_string


def test_a_run_that_names_no_workspace_says_how_to(prices: Prices, instance: dg.DagsterInstance) -> None:
    result = _execute(prices, instance, "backfill_candidacy")
    (failure,) = result.filter_events(lambda event: event.is_step_failure)
    assert "`workspaces: [demo]`" in failure.step_failure_data.error_display_string


def test_a_job_given_a_partition_goes_through_that_one_and_records_it(
    connection: Connection, workspace: Workspace, prices: Prices, instance: dg.DagsterInstance
) -> None:
    add_run(connection, workspace, summary={"sharpe": 1.2, "trades": 60})
    other = add_workspace(connection, "other")
    left = add_run(connection, other, summary={"sharpe": 1.2, "trades": 60})
    config = _named("candidacy", workspaces=["other"])
    tags = {"dagster/partition": "quant"}
    result = _execute(prices, instance, "backfill_candidacy", run_config=config, tags=tags)
    assert result.success
    assert _materialized(instance, "candidacy_decisions") == {"quant"}
    said = [it.message for it in instance.all_logs(result.run_id)]
    assert "quant: 1 scanned, 1 updated, 0 skipped" in said, (
        "the line of the event, instead of its asset's name"
    )
    assert "candidacy_decisions, quant: 1 scanned, 1 updated, 0 skipped" in said
    assert column(connection, "backtest_runs", "kb_status", left) == "excluded"


def test_a_workspace_that_is_being_written_is_waited_for(
    connection: Connection,
    database_url: str,
    workspace: Workspace,
    prices: Prices,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runs, "FIRST_RETRY_AFTER_SECONDS", 0)
    run_id = add_run(connection, workspace)
    with connect(database_url) as other, writer_lock(other, BackfillKind.CANDIDACY, workspace.id):
        result = _materialize(prices, instance, "candidacy_decisions", {"dagster/partition": "quant"})
    assert not result.success
    assert len(result.filter_events(lambda event: event.event_type_value == "STEP_UP_FOR_RETRY")) == 3
    (failure,) = result.filter_events(lambda event: event.is_step_failure)
    assert "already running" in failure.step_failure_data.error_display_string
    assert column(connection, "backtest_runs", "kb_status", run_id) == "excluded"


@pytest.mark.parametrize(
    ("breach", "check"),
    [
        ("UPDATE backtest_tunes SET trend_tag = NULL", "tags_match_key"),
        ("UPDATE backtest_tunes SET regime_fingerprint = 'abc'", "fingerprint_matches_key"),
        ("UPDATE kb_backfill_runs SET scanned_count = 7", "ledger_conserved"),
        ("UPDATE backtest_tunes SET best_oos_score = 7", "decisions_repeatable"),
        (
            "INSERT INTO kb_status_history (workspace_id, source_type, source_id, from_status, to_status,"
            " actor_type, actor_id, created_at) SELECT id, 'test_variant', id, 'excluded', 'candidate',"
            " did.actor_type, did.actor_id, did.at::timestamptz FROM workspaces, (VALUES"
            " ('admin', 'ann', '2025-01-01'), ('auto', 'backfill', '2025-01-02'))"
            " AS did (actor_type, actor_id, at)",
            "human_decisions_kept",
        ),
    ],
)
def test_stored_data_that_breaks_a_promise_fails_its_check(
    connection: Connection,
    workspace: Workspace,
    prices: Prices,
    instance: dg.DagsterInstance,
    breach: str,
    check: str,
) -> None:
    add_trial(connection, workspace, add_tune(connection, workspace), sharpe=1.0)
    backfill_attribution(connection, AttributionRequest(workspace_id=workspace.id), dry_run=False)
    assert all(_integrity(prices, instance).values())
    connection.execute(breach)  # type: ignore[call-overload]
    assert [name for name, passed in _integrity(prices, instance).items() if not passed] == [check]
    # Beside the run of another workspace its own rows are looked at, and no others.
    add_workspace(connection, "other")
    instance.add_dynamic_partitions(str(WORKSPACES.name), ["other"])
    assert all(_integrity(prices, instance, tags={"dagster/partition": "other"}).values())


def _integrity(prices: Prices, instance: dg.DagsterInstance, **how: Any) -> dict[str, bool]:
    definitions = build_definitions(database=Database(), prices=prices)
    names = (
        *("tags_match_key", "fingerprint_matches_key", "human_decisions_kept", "changes_audited_once"),
        *("ledger_conserved", "batches_bounded", "decisions_repeatable"),
    )
    checks = [it for it in definitions.asset_checks or () if next(iter(it.check_keys)).name in names]
    result = (
        dg.Definitions(
            asset_checks=checks,
            jobs=[dg.define_asset_job("integrity", dg.AssetSelection.checks(*checks))],
            resources=definitions.resources,
        )
        .resolve_job_def("integrity")
        .execute_in_process(instance=instance, **how)
    )
    return {it.check_name: it.passed for it in result.get_asset_check_evaluations()}


def test_prices_are_normalised_and_checked(prices: Prices, instance: dg.DagsterInstance) -> None:
    result = _materialize(prices, instance, "ohlcv", {"dagster/partition": "AAA"})
    assert result.success
    (event,) = result.get_asset_materialization_events()
    metadata = event.materialization.metadata
    assert (metadata["dagster/row_count"].value, metadata["coverage"].value) == (400, 1.0)
    assert "data:image/png;base64" in str(metadata["price_plot"].value)
