"""Which runs the regime backfill leaves without a regime, and what it says of them."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from kb_pipeline.backfills import regime
from kb_pipeline.backfills.regime import RegimeRequest
from kb_pipeline.errors import BadArgumentError
from kb_pipeline.storage.postgres import Connection
from kb_pipeline_tests.builders import FLAT_SNAPSHOT, NESTED, add_run, column, write_daily_bars
from kb_pipeline_tests.conftest import Workspace

SPRING = {"oos_start": "2020-03-01", "oos_end": "2020-06-30"}
"""Bars 60 to 181 of the file: 31 + 29 days lie before March, 182 before July."""


def _btc(window: Any = None, **fields: Any) -> dict[str, Any]:
    return {"symbol": "BTC", **(SPRING if window is None else window), **fields}


def _regime(connection: Connection, run_id: UUID, name: str = "regime_oos") -> Any:
    return column(connection, "backtest_runs", name, run_id)


# --- What is skipped, and how it is listed -------------------------------------------------------


def _gappy_bars(path: Path, missing: int) -> Path:
    """Write 100 days of which some in the middle are missing."""
    lines = write_daily_bars(path, bars=100).read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([*lines[:41], *lines[41 + missing :]]) + "\n", encoding="utf-8")
    return path


def test_every_reason_to_skip_is_counted_and_listed(
    connection: Connection, workspace: Workspace, backfill: Any
) -> None:
    def add(meta: Any, **columns: Any) -> str:
        return str(add_run(connection, workspace, dataset_meta=meta, **columns))

    invalid = [
        add(_btc({"oos_start": "2020-06-30", "oos_end": "2020-03-01"})),
        add(_btc({"oos_start": "2020-03-01"})),
        add(_btc({"oos_start": "soon", "oos_end": "2020-06-30"})),
        add(_btc({"date_min": "2020-01-01", "date_max": "2020-06-30", "oos_ratio": "0.3"})),
        add('{"symbol": "BTC", "date_min": "2020-01-01", "date_max": "2020-06-30", "oos_ratio": 1e5000}'),
        add('{"symbol": "BTC", "oos": ' + NESTED + "}"),
    ]
    missing = [
        add(_btc({})),
        add(_btc({"oos": "2020", "row_count": 122})),
        add(_btc({}), started_at="2020-03-01", completed_at="2020-06-30"),  # wall-clock time
        add(_btc({"oos_start": None, "oos_end": None})),
    ]
    thin = add(_btc({"oos_start": "2020-01-01", "oos_end": "2020-02-18"}))
    beyond = add(_btc({"oos_start": "2022-01-01", "oos_end": "2022-03-31"}))
    other = add({"symbol": "ETH", **SPRING})
    nameless = [add(SPRING), add("null"), add("[]"), add({"symbol": None, **SPRING})]
    good = add(_btc())
    report = backfill()
    needed = "50 bars and 90% needed"
    assert report.examples == {
        "invalid_date_range": invalid,
        "missing_date_range": missing,
        "insufficient_ohlcv_coverage": [
            f"{thin} window 2020-01-01..2020-02-18: 49 bars, 49 of 49 expected; {needed}",
            f"{beyond} window 2022-01-01..2022-03-31: 0 bars, 0 of 90 expected; {needed}",
        ],
        "symbol_mismatch": [other],
        "missing_symbol": nameless,
    }
    assert list(report.skipped.values()) == [6, 4, 4, 2, 1], "by descending count"
    written = connection.execute("SELECT id::text FROM backtest_runs WHERE regime_oos IS NOT NULL").fetchall()
    assert written == [(good,)]


@pytest.mark.parametrize(("days", "updated"), [(49, 0), (50, 1)])
def test_fifty_bars_are_enough_and_one_less_is_not(
    connection: Connection, workspace: Workspace, backfill: Any, days: int, updated: int
) -> None:
    last = datetime(2020, 1, days if days <= 31 else days - 31, tzinfo=UTC).replace(month=2)
    add_run(connection, workspace, dataset_meta=_btc({"oos_start": "2020-01-01", "oos_end": f"{last:%F}"}))
    assert backfill().updated == updated


def test_coverage_equal_to_the_minimum_suffices(
    connection: Connection, workspace: Workspace, backfill: Any, tmp_path: Path
) -> None:
    add_run(connection, workspace, dataset_meta=_btc({"date_min": "2020-01-01", "date_max": "2020-04-09"}))
    sparse = _gappy_bars(tmp_path / "BTC_1d.csv", missing=45)  # 55 of 100 days
    assert backfill(ohlcv_file=sparse, dry_run=True).skipped == {"insufficient_ohlcv_coverage": 1}
    assert backfill(ohlcv_file=sparse, min_coverage=0.56, dry_run=True).updated == 0
    # 0.55 * 100 is 55.00000000000001 in floats
    assert backfill(ohlcv_file=sparse, min_coverage=0.55, dry_run=True).updated == 1
    assert backfill(ohlcv_file=sparse, min_coverage=0.0, dry_run=True).updated == 1


# --- Which symbol --------------------------------------------------------------------------------


@pytest.mark.parametrize("symbol", ["BTC", "btc"])
def test_symbol_picks_the_runs_of_one_symbol_whatever_the_case(
    connection: Connection, workspace: Workspace, backfill: Any, symbol: str
) -> None:
    ours = [add_run(connection, workspace, dataset_meta={"symbol": s, **SPRING}) for s in ("BTC", "Btc")]
    add_run(connection, workspace, dataset_meta={"symbol": "ETH", **SPRING})
    add_run(connection, workspace, dataset_meta=SPRING)
    report = backfill(symbol=symbol)
    assert (report.scanned, report.updated, report.skipped) == (2, 2, {})
    assert all(_regime(connection, run_id) is not None for run_id in ours)


def test_a_run_that_names_no_symbol_takes_the_file_while_the_workspace_names_at_most_its_symbol(
    connection: Connection, workspace: Workspace, backfill: Any
) -> None:
    nameless = add_run(connection, workspace, dataset_meta=SPRING)
    assert backfill(symbol="BTC").scanned == 0, "with --symbol only runs that name it are read"
    assert backfill(dry_run=True).updated == 1, "nobody names a symbol"
    add_run(connection, workspace, dataset_meta={"symbol": "btc", **SPRING})
    assert backfill(dry_run=True).updated == 2, "the only symbol named is the file's"
    eth = add_run(connection, workspace, dataset_meta={"symbol": "ETH", **SPRING}, regime_oos=FLAT_SNAPSHOT)
    report = backfill()
    assert (report.updated, report.skipped) == (1, {"missing_symbol": 1})
    assert report.examples == {"missing_symbol": [str(nameless)]}
    connection.execute("DELETE FROM backtest_runs WHERE id = %s", [eth])
    assert backfill().updated == 1
    assert _regime(connection, nameless)["instrument"] == "BTC"


def test_runs_that_all_name_another_symbol_leave_a_nameless_one_alone(
    connection: Connection, workspace: Workspace, backfill: Any
) -> None:
    add_run(connection, workspace, dataset_meta={"symbol": "ETH", **SPRING})
    add_run(connection, workspace, dataset_meta=SPRING)
    assert backfill().skipped == {"missing_symbol": 1, "symbol_mismatch": 1}


def test_a_file_named_for_another_symbol_is_taken_and_the_report_says_so(
    connection: Connection, workspace: Workspace, backfill: Any, bars: Path, tmp_path: Path
) -> None:
    add_run(connection, workspace, dataset_meta={"symbol": "ETH", **SPRING})
    report = backfill(symbol="eth")
    said = "The file is named for BTC; its bars were taken as ETH's, as --symbol says."
    assert (report.updated, report.notes) == (1, [said])
    assert report.to_text().splitlines()[-1] == said
    nameless = write_daily_bars(tmp_path / "my prices.csv", bars=60)
    assert backfill(symbol="eth", ohlcv_file=nameless).notes == backfill(symbol="btc").notes == []


def test_a_symbol_that_nobody_waits_for_is_told_which_do(
    connection: Connection, workspace: Workspace, bars: Path
) -> None:
    def told(symbol: str | None) -> str:
        request = RegimeRequest(workspace_id=workspace.id, ohlcv_file=bars, symbol=symbol)
        return regime.why_none_waits(connection, request)

    said = "No run of this workspace waits for symbol TSLA; "
    assert told("tsla") == f"{said}none that names a symbol waits."
    for name in ("BTC", "eth", "ETH"):
        add_run(connection, workspace, dataset_meta={"symbol": name})
    assert told("tsla") == f"{said}those that wait name BTC, ETH."
    for number in range(20):
        add_run(connection, workspace, dataset_meta={"symbol": f"S{number:02}"})
    assert told("tsla").endswith(
        "BTC, ETH, " + ", ".join(f"S{number:02}" for number in range(18)) + " and 2 more."
    )
    assert told("Eth") == told(None) == ""


def test_calendars_are_those_of_the_data_root_and_the_message_names_the_file_looked_at(
    connection: Connection,
    workspace: Workspace,
    backfill: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    add_run(connection, workspace, dataset_meta=_btc())
    monkeypatch.setenv("KB_DATA_ROOT", str(tmp_path))
    listed = tmp_path / "symbols.yaml"
    with pytest.raises(BadArgumentError, match=f"{listed} does not list it"):
        backfill(calendar=None)
    listed.write_text("symbols: {BTC: {calendar: 24/7, timezone: UTC}}\n", encoding="utf-8")
    assert backfill(calendar=None).updated == 1


def test_a_file_that_does_not_say_its_symbol_needs_the_option(
    connection: Connection, workspace: Workspace, backfill: Any, tmp_path: Path
) -> None:
    nameless = write_daily_bars(tmp_path / "my prices from somewhere.csv", bars=60)
    with pytest.raises(BadArgumentError, match="Give --symbol"):
        backfill(ohlcv_file=nameless)
    assert backfill(ohlcv_file=nameless, symbol="BTC").scanned == 0
