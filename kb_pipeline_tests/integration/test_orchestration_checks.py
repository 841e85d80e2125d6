"""What the price checks find in real files, and what a materialization shows for people to look at."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from kb_pipeline.definitions import build_definitions
from kb_pipeline.orchestration.partitions import SYMBOLS, WORKSPACES
from kb_pipeline.orchestration.resources import Database, Prices
from kb_pipeline.storage.postgres import Connection
from kb_pipeline.storage.price_files import normalised_path, read_normalised
from kb_pipeline_tests.builders import add_run, write_daily_bars
from kb_pipeline_tests.conftest import Workspace


@pytest.fixture
def prices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Prices:
    """One price file of 400 days of a market that never closes."""
    monkeypatch.setenv("KB_HOME", str(tmp_path / "kb"))
    (tmp_path / "data" / "ohlcv").mkdir(parents=True)
    (tmp_path / "data" / "symbols.yaml").write_text("symbols:\n  AAA: {calendar: 24/7, timezone: UTC}\n")
    write_daily_bars(tmp_path / "data" / "ohlcv" / "AAA_1d.csv")
    return Prices(tmp_path / "data")


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral(tempdir=str(tmp_path)) as found:
        found.add_dynamic_partitions(str(WORKSPACES.name), ["quant"])
        found.add_dynamic_partitions(str(SYMBOLS.name), ["AAA"])
        yield found


def _run(prices: Prices, instance: dg.DagsterInstance, partition: str, **what: Any) -> Any:
    definitions = build_definitions(database=Database(), prices=prices)
    return definitions.resolve_implicit_global_asset_job_def().execute_in_process(
        instance=instance, tags={"dagster/partition": partition}, raise_on_error=False, **what
    )


def _checks(result: Any) -> dict[str, dg.AssetCheckEvaluation]:
    return {it.check_name: it for it in result.get_asset_check_evaluations()}


def _rows(metadata: Any, name: str) -> list[dict[str, Any]]:
    return [dict(it.data) for it in metadata[name].records]


def _without(path: Path, *days: str) -> None:
    kept = [line for line in path.read_text().splitlines() if not line.startswith(days)]
    path.write_text("\n".join(kept) + "\n")


def test_what_is_missing_of_a_price_file_is_named_longest_first(
    workspace: Workspace, prices: Prices, instance: dg.DagsterInstance
) -> None:
    _without(prices.root / "ohlcv" / "AAA_1d.csv", "2020-03-05", "2020-06-10", "2020-06-11", "2020-06-12")
    result = _run(prices, instance, "AAA", asset_selection=[dg.AssetKey("ohlcv")])
    assert result.success
    found = _checks(result)
    assert found["ohlcv_schema"].passed
    coverage = found["ohlcv_coverage"]
    assert coverage.passed
    assert _rows(coverage.metadata, "missing_ranges") == [
        {"symbol": "AAA", "first": "2020-06-10 00:00", "last": "2020-06-12 00:00", "bars": 3},
        {"symbol": "AAA", "first": "2020-03-05 00:00", "last": "2020-03-05 00:00", "bars": 1},
    ]
    # 400 days less the four.
    assert _rows(coverage.metadata, "coverage") == [{"symbol": "AAA", "timeframe": "1d", "coverage": 0.99}]


def test_a_thin_price_file_is_a_warning_that_names_it(
    workspace: Workspace, prices: Prices, instance: dg.DagsterInstance
) -> None:
    _without(prices.root / "ohlcv" / "AAA_1d.csv", "2020-02", "2020-03", "2020-04")
    result = _run(prices, instance, "AAA", asset_selection=[dg.AssetKey("ohlcv")])
    coverage = _checks(result)["ohlcv_coverage"]
    assert (result.success, coverage.passed, coverage.severity) == (True, False, dg.AssetCheckSeverity.WARN)
    assert "AAA" in str(coverage.description)


def test_normalised_bars_that_break_the_schema_end_the_run_and_are_listed(
    workspace: Workspace, prices: Prices, instance: dg.DagsterInstance
) -> None:
    assert _run(prices, instance, "AAA", asset_selection=[dg.AssetKey("ohlcv")]).success
    (file,) = prices.files()
    bars = read_normalised(file)
    assert bars is not None
    bars.iloc[7, bars.columns.get_loc("low")] = -1.0
    bars.to_parquet(normalised_path(file))
    result = _alone(prices, instance, "ohlcv_schema")
    assert not result.success
    failed = _checks(result)["ohlcv_schema"]
    assert not failed.passed
    assert {(it["symbol"], it["column"]) for it in _rows(failed.metadata, "failure_cases")} >= {
        ("AAA", "low")
    }


def _alone(prices: Prices, instance: dg.DagsterInstance, check: str) -> Any:
    """Execute one check alone, as its button does."""
    definitions = build_definitions(database=Database(), prices=prices)
    (found,) = (it for it in definitions.asset_checks or () if next(iter(it.check_keys)).name == check)
    job = dg.define_asset_job("alone", dg.AssetSelection.checks(found))
    only = dg.Definitions(asset_checks=[found], jobs=[job], resources=definitions.resources)
    return only.resolve_job_def("alone").execute_in_process(instance=instance, raise_on_error=False)


def test_a_decision_shows_numbers_the_reasons_as_a_table_and_as_a_picture(
    connection: Connection, workspace: Workspace, prices: Prices, instance: dg.DagsterInstance
) -> None:
    for sharpe in (1.2, -1.0, -2.0):
        add_run(connection, workspace, summary={"sharpe": sharpe, "trades": 60})
    result = _run(prices, instance, "quant", asset_selection=[dg.AssetKey("candidacy_decisions")])
    (event,) = result.get_asset_materialization_events()
    metadata = event.materialization.metadata
    assert (metadata["scanned"].value, metadata["updated"].value, metadata["skipped"].value) == (3, 1, 2)
    ((reason, rows),) = ((it["reason"], it["rows"]) for it in _rows(metadata, "reasons"))
    assert rows == 2
    assert reason in metadata["report"].value
    assert "CANDIDACY" in metadata["report"].value
    assert metadata["reasons_plot"].value.startswith(
        "![Quant: why candidacy left rows](data:image/png;base64,"
    )
