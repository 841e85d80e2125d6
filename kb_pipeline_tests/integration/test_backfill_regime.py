"""The regime backfill on a real Postgres: whose window, which bars, what is left alone and why."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pandas as pd
import pytest

from kb_pipeline.backfills import regime
from kb_pipeline.backfills.regime import RegimeRequest, backfill_regime
from kb_pipeline.domain.regime import compute_regime_snapshot, compute_regime_snapshots
from kb_pipeline.errors import BadArgumentError, CalendarError, OhlcvFileError
from kb_pipeline.storage import backtest_runs
from kb_pipeline.storage.ohlcv_files import read_ohlcv_file
from kb_pipeline.storage.postgres import Connection, connect
from kb_pipeline_tests.builders import FLAT_SNAPSHOT, add_run, add_workspace, column, write_daily_bars
from kb_pipeline_tests.conftest import Workspace

AAPL_FILE = Path(__file__).resolve().parents[2] / "data" / "ohlcv" / "AAPL_1d.csv"
SPRING = {"oos_start": "2020-03-01", "oos_end": "2020-06-30"}
"""Bars 60 to 181 of the file: 31 + 29 days lie before March, 182 before July."""


def _btc(window: Any = None, **fields: Any) -> dict[str, Any]:
    return {"symbol": "BTC", **(SPRING if window is None else window), **fields}


def _regime(connection: Connection, run_id: UUID, name: str = "regime_oos") -> Any:
    return column(connection, "backtest_runs", name, run_id)


def _is_regime_of(stored: Any, frame: pd.DataFrame, instrument: str = "BTC") -> bool:
    """Tell whether a stored snapshot is that of these bars; only the moment of computing may differ."""
    snapshot = compute_regime_snapshot(frame, source="backfill", instrument=instrument, timeframe="1d")
    expected = {name: value for name, value in snapshot.to_dict().items() if name != "computed_at"}
    assert stored.keys() == {*expected, "computed_at"}
    return all(
        stored[name] == (pytest.approx(value, rel=1e-9) if isinstance(value, float) else value)
        for name, value in expected.items()
    )


# --- Whose window --------------------------------------------------------------------------------

# (dataset_meta, params, out of sample, in sample), as half-open bar positions in the file.
WINDOWS: dict[str, tuple[dict[str, Any], dict[str, Any], slice, slice | None]] = {
    "dataset_meta.oos_start/oos_end": (SPRING, {}, slice(60, 182), None),
    "dataset_meta.oos": (
        {"oos": {"start": "2020-07-01", "end": "2020-09-30"}},  # 92 days
        {},
        slice(182, 274),
        None,
    ),
    "params.oos_start/oos_end": (
        {},
        {"oos_start": "2020-10-01", "oos_end": "2020-12-31"},
        slice(274, 366),
        None,
    ),
    "the last 30 % of 366 days: after the first floor(256.2)": (
        {"oos_ratio": 0.3, "date_min": "2020-01-01", "date_max": "2020-12-31"},
        {},
        slice(256, 366),
        slice(0, 256),
    ),
    "the last half of 182 days, asked for in params": (
        {"date_min": "2020-01-01", "date_max": "2020-06-30"},
        {"oos_ratio": 0.5},
        slice(91, 182),
        slice(0, 91),
    ),
    "a share above one half is no split": (
        {"oos_ratio": 0.7, "date_min": "2020-01-01", "date_max": "2020-06-30"},
        {},
        slice(0, 182),
        None,
    ),
    "the whole range, of which a snapshot takes the last 200 bars": (
        {"date_min": "2020-01-01", "date_max": "2021-02-03"},
        {},
        slice(200, 400),
        None,
    ),
    "instants, both inclusive": (
        {"oos_start": "2020-03-01T02:00:00+02:00", "oos_end": "2020-04-30T00:00:00Z"},
        {},
        slice(60, 121),
        None,
    ),
    "an in-sample range beside it": (
        {**SPRING, "is_start": "2020-01-01", "is_end": "2020-02-29"},
        {},
        slice(60, 182),
        slice(0, 60),
    ),
    "an in-sample range too short for a snapshot": (
        {**SPRING, "is": {"start": "2020-01-01", "end": "2020-02-18"}},  # 49 days
        {},
        slice(60, 182),
        None,
    ),
}


def test_each_run_gets_the_snapshot_of_its_own_window(
    connection: Connection, workspace: Workspace, backfill: Any, bars: Path
) -> None:
    frame = read_ohlcv_file(bars).frame
    runs = {
        title: add_run(connection, workspace, dataset_meta=_btc(meta), params=params)
        for title, (meta, params, _, _) in WINDOWS.items()
    }
    report = backfill(batch_size=3)
    assert (report.scanned, report.updated, report.skipped) == (len(WINDOWS), len(WINDOWS), {})
    for title, (_, _, out_of_sample, in_sample) in WINDOWS.items():
        assert _is_regime_of(_regime(connection, runs[title]), frame.iloc[out_of_sample]), title
        stored = _regime(connection, runs[title], "regime_is")
        if in_sample is None:
            assert stored is None, title
        else:
            assert _is_regime_of(stored, frame.iloc[in_sample]), title
    versions = connection.execute("SELECT DISTINCT regime_schema_version FROM backtest_runs").fetchall()
    assert versions == [("regime_v1_1",)]


def test_a_window_of_an_exchange_is_held_against_its_sessions(
    connection: Connection, workspace: Workspace
) -> None:
    year = {"symbol": "AAPL", "oos_start": "2005-01-01", "oos_end": "2005-12-31"}
    full = add_run(connection, workspace, dataset_meta=year)
    early = add_run(connection, workspace, dataset_meta={**year, "oos_start": "1999-06-01"})
    before = add_run(
        connection, workspace, dataset_meta=year | {"oos_start": "1999-06-01", "oos_end": "2000-06-30"}
    )
    request = RegimeRequest(workspace_id=workspace.id, ohlcv_file=AAPL_FILE)
    report = backfill_regime(connection, request, dry_run=False)
    frame = read_ohlcv_file(AAPL_FILE).frame
    assert _is_regime_of(_regime(connection, full), frame.loc["2005-01-01":"2005-12-31"], "AAPL")
    assert report.updated == 1
    # The file begins on 2000-03-01: 190 sessions too late, and 252 - 40 of 2000, 248 of 2001 (four days
    # lost in September) and 4 * 252 follow. 1,468 of 1,658 are 88.5 %.
    assert report.examples == {
        "insufficient_ohlcv_coverage": [
            f"{early} window 1999-06-01..2005-12-31: 1468 bars, 1468 of 1658 expected; "
            "50 bars and 90% needed",
            f"{before} window 1999-06-01..2000-06-30: 86 bars, 86 of 276 expected; 50 bars and 90% needed",
        ]
    }


def test_a_bare_date_means_the_exchange_s_day_where_daily_bars_are_stamped_at_its_evening(
    connection: Connection, workspace: Workspace, tmp_path: Path
) -> None:
    header, *lines = AAPL_FILE.read_text(encoding="utf-8").splitlines()
    evening = tmp_path / "AAPL_1d.csv"
    stamped = [line.replace(",", "T20:00:00-05:00,", 1) for line in lines]
    evening.write_text("\n".join([header, *stamped]) + "\n", encoding="utf-8")
    dates = {"oos_start": "2005-01-03", "oos_end": "2005-06-30"}
    run_id = add_run(connection, workspace, dataset_meta={"symbol": "AAPL", **dates})
    request = RegimeRequest(workspace_id=workspace.id, ohlcv_file=evening)
    assert backfill_regime(connection, request, dry_run=False).updated == 1
    stored = _regime(connection, run_id)
    # eight in the evening of 30 June in New York is already 1 July in UTC; 125 sessions
    assert (stored["ts_start"][:10], stored["ts_end"][:10]) == ("2005-01-04", "2005-07-01")
    assert stored["n_bars"] == 125


def test_runs_that_share_a_window_share_one_computation(
    connection: Connection, workspace: Workspace, backfill: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[int] = []

    def counting(bars: Any, starts: Any, ends: Any, **facts: Any) -> Any:
        computed.append(len(starts))
        return compute_regime_snapshots(bars, starts, ends, **facts)

    monkeypatch.setattr(regime, "compute_regime_snapshots", counting)
    twins = [add_run(connection, workspace, dataset_meta=_btc(note=note)) for note in range(3)]
    other = add_run(connection, workspace, dataset_meta=_btc({**SPRING, "oos_end": "2020-05-31"}))
    backfill()
    assert computed == [2]
    first, *rest = [_regime(connection, run_id) for run_id in twins]
    assert rest == [first, first]
    assert _regime(connection, other)["n_bars"] == first["n_bars"] - 30


# --- What is never overwritten -------------------------------------------------------------------


def test_a_json_null_counts_as_missing_and_an_existing_regime_stays(
    connection: Connection, workspace: Workspace, backfill: Any
) -> None:
    meta = _btc({**SPRING, "is_start": "2020-01-01", "is_end": "2020-02-29"})
    null = add_run(connection, workspace, dataset_meta=meta, regime_oos="null", regime_is="null")
    theirs = add_run(connection, workspace, dataset_meta=meta, regime_oos=FLAT_SNAPSHOT)
    half = add_run(connection, workspace, dataset_meta=meta, regime_is=FLAT_SNAPSHOT)
    report = backfill()
    assert (report.scanned, report.updated) == (2, 2)
    assert _regime(connection, null)["n_bars"] == 122
    assert _regime(connection, null, "regime_is")["n_bars"] == 60
    assert (_regime(connection, theirs), _regime(connection, theirs, "regime_is")) == (FLAT_SNAPSHOT, None)
    assert _regime(connection, half)["n_bars"] == 122
    assert _regime(connection, half, "regime_is") == FLAT_SNAPSHOT
    assert backfill().scanned == 0, "a second run finds nothing to do"


@pytest.fixture
def meddle(monkeypatch: pytest.MonkeyPatch, database_url: str) -> Any:
    """Return a function that runs a statement in a session of its own just before the first write."""

    def arrange(text: str, parameters: Sequence[Any]) -> None:
        land = backtest_runs.land_regimes
        waiting = [(text, parameters)]

        def land_after_it(*arguments: Any, **columns: Any) -> set[str]:
            with connect(database_url) as other:
                while waiting:
                    other.execute(*waiting.pop())
            return land(*arguments, **columns)

        monkeypatch.setattr(backtest_runs, "land_regimes", land_after_it)

    return arrange


def test_a_regime_written_meanwhile_is_never_overwritten(
    connection: Connection, workspace: Workspace, backfill: Any, meddle: Any
) -> None:
    theirs, ours = (add_run(connection, workspace, dataset_meta=_btc()) for _ in range(2))
    update = "UPDATE backtest_runs SET regime_oos = %s WHERE id = %s"
    meddle(update, [json.dumps(FLAT_SNAPSHOT), theirs])
    report = backfill()
    assert (report.updated, report.changed_meanwhile, report.conflicts) == (1, 1, 0)
    assert _regime(connection, theirs) == FLAT_SNAPSHOT
    assert _regime(connection, ours)["n_bars"] == 122


def test_a_window_that_moved_meanwhile_is_read_again(
    connection: Connection, workspace: Workspace, backfill: Any, meddle: Any
) -> None:
    run_id = add_run(connection, workspace, dataset_meta=_btc())
    moved = {**SPRING, "oos_end": "2020-05-31"}
    meddle("UPDATE backtest_runs SET dataset_meta = %s WHERE id = %s", [json.dumps(_btc(moved)), run_id])
    report = backfill()
    assert (report.updated, report.changed_meanwhile) == (1, 0)
    assert _regime(connection, run_id)["n_bars"] == 92, "122 bars less the 30 of June"


def test_runs_of_other_kinds_states_dates_and_workspaces_are_left_alone(
    connection: Connection, workspace: Workspace, backfill: Any
) -> None:
    connection.execute("SET TimeZone = 'Asia/Tokyo'")  # a date means UTC midnight in every session
    add_run(connection, workspace, dataset_meta=_btc(), run_kind="tune_variant")
    add_run(connection, workspace, dataset_meta=_btc(), status="failed")
    add_run(connection, workspace, dataset_meta=_btc(), created_at="2026-01-31T23:59:59Z")
    late = add_run(connection, workspace, dataset_meta=_btc(), created_at="2026-02-01T00:00:00Z")
    other = add_workspace(connection)
    add_run(connection, other, dataset_meta=_btc(), created_at="2026-02-01T00:00:00Z")
    add_run(connection, other, dataset_meta={"symbol": "ETH"})  # no doubt cast on this workspace's symbol
    assert backfill(since=datetime(2026, 2, 1, tzinfo=UTC)).scanned == 1
    written = connection.execute("SELECT id FROM backtest_runs WHERE regime_oos IS NOT NULL").fetchall()
    assert written == [(late,)]


# --- How it runs ---------------------------------------------------------------------------------


def test_a_dry_run_counts_what_the_real_run_does_and_writes_nothing(
    connection: Connection, workspace: Workspace, backfill: Any, bars: Path
) -> None:
    add_run(connection, workspace, dataset_meta=_btc())
    add_run(connection, workspace, dataset_meta=_btc({}))
    add_run(connection, workspace, dataset_meta={"symbol": "ETH"})
    rehearsal = backfill(dry_run=True)
    assert connection.execute("SELECT count(regime_oos) FROM backtest_runs").fetchone() == (0,)
    assert connection.execute("SELECT count(*) FROM kb_backfill_runs").fetchone() == (0,)
    report = backfill()
    numbers = (report.scanned, report.updated, report.skipped, report.examples)
    assert numbers == (rehearsal.scanned, rehearsal.updated, rehearsal.skipped, rehearsal.examples)
    source = report.ohlcv
    assert source is not None
    assert (source.path, source.symbol, source.rows) == (str(bars), "BTC", 400)
    assert (source.first_day, source.last_day) == ("2020-01-01", "2021-02-03")


def test_rows_that_stay_skipped_do_not_stand_in_the_way(
    connection: Connection, workspace: Workspace, backfill: Any
) -> None:
    for _ in range(5):
        add_run(connection, workspace, dataset_meta=_btc({}))
    add_run(connection, workspace, dataset_meta=_btc())
    assert [backfill(limit=2).updated for _ in range(3)] == [0, 0, 1]


def test_a_bad_price_file_changes_nothing(
    connection: Connection, workspace: Workspace, backfill: Any, tmp_path: Path
) -> None:
    add_run(connection, workspace, dataset_meta=_btc())
    bad = write_daily_bars(tmp_path / "BTC_1d.csv", bars=300)
    lines = bad.read_text(encoding="utf-8").splitlines()
    lines[250] = "2020-09-06,1,2,3,-4,5"
    bad.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(OhlcvFileError, match=r"BTC_1d\.csv:251:"):
        backfill(ohlcv_file=bad)
    assert connection.execute("SELECT count(regime_oos) FROM backtest_runs").fetchone() == (0,)
    assert connection.execute("SELECT count(*) FROM kb_backfill_runs").fetchone() == (0,)


def test_a_calendar_that_is_unknown_or_not_given_is_an_error_before_anything_is_read(
    connection: Connection, workspace: Workspace, backfill: Any
) -> None:
    add_run(connection, workspace, dataset_meta=_btc())
    with pytest.raises(CalendarError, match="MOON"):
        backfill(calendar="MOON")
    with pytest.raises(BadArgumentError, match=r"calendar of 'BTC' is not known.*--calendar"):
        backfill(calendar=None)
    assert connection.execute("SELECT count(*) FROM kb_backfill_runs").fetchone() == (0,)


def test_a_price_that_never_moves_is_stored_without_nan_and_says_what_is_undefined(
    connection: Connection, workspace: Workspace, backfill: Any, tmp_path: Path
) -> None:
    flat = tmp_path / "BTC_1d.csv"
    days = pd.date_range("2020-03-01", periods=122, freq="D")
    rows = "".join(f"{day:%F},5,5,5,5,0\n" for day in days)
    flat.write_text(f"timestamp,open,high,low,close,volume\n{rows}", encoding="utf-8")
    run_id = add_run(connection, workspace, dataset_meta=_btc())
    assert backfill(ohlcv_file=flat).updated == 1
    stored = _regime(connection, run_id)
    assert stored["warnings"] == ["zero_atr", "zero_variance"]
    assert stored["undefined_features"] == ["trend_strength", "zscore", "rsi", "efficiency_ratio"]
    assert stored["regime_tags"] == ["low_vol"]


def test_what_the_file_needed_mending_is_told_after_the_report(
    connection: Connection, workspace: Workspace, backfill: Any, tmp_path: Path
) -> None:
    lines = write_daily_bars(tmp_path / "BTC_1d.csv", bars=60).read_text(encoding="utf-8").splitlines()
    (tmp_path / "BTC_1d.csv").write_text("\n".join([*lines, lines[7]]) + "\n", encoding="utf-8")
    report = backfill(ohlcv_file=tmp_path / "BTC_1d.csv")
    assert report.notices["dropped_duplicates"] == 1
    assert report.to_text().splitlines()[-1] == "Dropped duplicates: 1"


def test_without_a_waiting_run_no_calendar_is_needed(
    connection: Connection, workspace: Workspace, tmp_path: Path
) -> None:
    path = write_daily_bars(tmp_path / "NOBODYS_1d.csv")
    request = RegimeRequest(workspace_id=workspace.id, ohlcv_file=path, symbol="x' OR '1'='1")
    assert backfill_regime(connection, request, dry_run=False).scanned == 0
