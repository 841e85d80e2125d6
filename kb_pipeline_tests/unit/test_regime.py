"""Snapshots against golden answers, their stored JSON, and what is refused."""

import gzip
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from kb_pipeline.domain.price_bars import PriceBars
from kb_pipeline.domain.regime import (
    STORED_FIELDS,
    RegimeSnapshot,
    compute_regime_snapshot,
    compute_regime_snapshots,
)
from kb_pipeline.domain.regime_key import compute_regime_fingerprint, compute_regime_key, regime_tags_of
from kb_pipeline.domain.tags import evaluate_tags, explain_tags
from kb_pipeline.errors import (
    BadArgumentError,
    NoBarsError,
    NonFinitePriceError,
)
from kb_pipeline.rules import FEATURE_NAMES, TAG_RULES

GOLDEN = Path(__file__).parents[1] / "golden" / "regime_windows.json.gz"
WINDOWS: list[dict[str, Any]] = json.loads(gzip.decompress(GOLDEN.read_bytes()))["windows"]
NOON = datetime(2025, 3, 1, 12, tzinfo=UTC)


def frame_of(window: dict[str, Any]) -> pd.DataFrame:
    columns = {
        name: [np.nan if value is None else value for value in values]
        for name, values in window["columns"].items()
    }
    return pd.DataFrame(columns, index=None if window["ts"] is None else pd.DatetimeIndex(window["ts"]))


def has_missing_price(window: dict[str, Any]) -> bool:
    frame = frame_of(window).tail(200)
    return bool(frame.filter(regex="(?i)^(high|low|close)$").isna().to_numpy().any())


COMPUTABLE = [
    window for window in WINDOWS if "features" in window["expected"] and not has_missing_price(window)
]
COMPLETE = [window for window in COMPUTABLE if not window["defaulted"]]


def window_id(window: dict[str, Any]) -> str:
    return str(window["id"])


def close_to(value: Any) -> Any:
    return pytest.approx(value, rel=1e-9, abs=1e-12) if isinstance(value, float) else value


def walk(count: int = 300, seed: int = 5, **columns: Any) -> pd.DataFrame:
    """Return an hourly random walk from 2024-01-01, with columns replaced or added."""
    numbers = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(numbers.normal(0, 0.01, count)))
    prices = {"high": close * 1.01, "low": close * 0.99, "close": close}
    index = pd.date_range("2024-01-01", periods=count, freq="h", tz="UTC")
    return pd.DataFrame(prices | columns, index=index)


# --- Golden answers ----------------------------------------------------------------------------


@pytest.mark.parametrize("window", COMPUTABLE, ids=window_id)
def test_features_and_warnings_equal_the_golden_answer(window: dict[str, Any]) -> None:
    snapshot = compute_regime_snapshot(frame_of(window), "backfill", timeframe=window["timeframe"]).to_dict()
    expected = window["expected"]
    for name, value in expected["features"].items():
        assert snapshot[name] == close_to(value), name
        assert type(snapshot[name]) is (int if name == "trend_dir" else float)
    for name in ("n_bars", "effective_n_bars", "warnings", "ts_start", "ts_end"):
        assert snapshot[name] == expected[name], name


@pytest.mark.parametrize("window", COMPLETE, ids=window_id)
def test_tags_evidence_and_key_equal_the_golden_answer(window: dict[str, Any]) -> None:
    snapshot = compute_regime_snapshot(frame_of(window))
    expected = window["expected"]
    assert snapshot.undefined_features == []
    assert snapshot.regime_tags == expected["regime_tags"]
    evidence = explain_tags(snapshot)
    for row, golden_row in zip(evidence, window["to_dict"]["tag_evidence"], strict=True):
        assert list(row) == list(golden_row)
        assert row == {name: close_to(value) for name, value in golden_row.items()}
    key = compute_regime_key(snapshot)
    assert key == expected["regime_key"]
    assert compute_regime_fingerprint(key) == expected["regime_fingerprint"]
    assert regime_tags_of(snapshot.regime_tags)._asdict() == expected["denormalized"]


@pytest.mark.parametrize("window", [window for window in COMPUTABLE if window["defaulted"]], ids=window_id)
def test_a_default_is_listed_and_gives_no_tag(window: dict[str, Any]) -> None:
    snapshot = compute_regime_snapshot(frame_of(window))
    closes = frame_of(window)["close"].tail(200)
    # An RSI of 100 without losses is real where there were gains.
    is_rsi_real = (closes.diff() > 0).any()
    defaulted = {name.split("(")[0] for name in window["defaulted"]} - ({"rsi"} if is_rsi_real else set())
    assert snapshot.undefined_features == [name for name in FEATURE_NAMES if name in defaulted]
    read_by_tag: dict[str, set[str]] = {}
    for rule in TAG_RULES:
        read_by_tag.setdefault(rule.tag, set()).add(rule.metric)
    expected_tags = set(window["expected"]["regime_tags"])
    assert set(snapshot.regime_tags) <= expected_tags
    assert {tag for tag in expected_tags if not read_by_tag[tag] & defaulted} <= set(snapshot.regime_tags)


@pytest.mark.parametrize("window", [w for w in WINDOWS if has_missing_price(w)], ids=window_id)
def test_a_golden_window_with_a_missing_price_is_refused(window: dict[str, Any]) -> None:
    with pytest.raises(NonFinitePriceError):
        compute_regime_snapshot(frame_of(window))


# --- The window --------------------------------------------------------------------------------


def test_only_the_last_two_hundred_bars_count() -> None:
    bars = walk(300)
    snapshot = compute_regime_snapshot(bars)
    assert snapshot.n_bars == snapshot.effective_n_bars == 200
    assert snapshot.ts_start == bars.index[100].isoformat() == "2024-01-05T04:00:00+00:00"
    bars.iloc[:100] = np.nan
    assert compute_regime_snapshot(bars).to_dict() | {"computed_at": ""} == snapshot.to_dict() | {
        "computed_at": ""
    }


def test_one_window_equals_itself_among_many() -> None:
    bars = walk(400)
    numbers = np.random.default_rng(1)
    ends = numbers.integers(1, 401, 60)
    starts = np.maximum(0, ends - numbers.integers(1, 350, 60))
    many = compute_regime_snapshots(bars, starts, ends, source="live", computed_at=NOON)
    assert len(many) == 60
    for snapshot, start, end in zip(many, starts, ends, strict=True):
        alone = compute_regime_snapshot(bars.iloc[start:end])
        assert alone.to_dict() | {"computed_at": ""} == snapshot.to_dict() | {"computed_at": ""}


def test_no_windows_are_no_snapshots() -> None:
    snapshots = compute_regime_snapshots(walk(60), [], [])
    assert len(snapshots) == 0
    assert snapshots.to_json() == []


def test_a_price_that_is_not_finite_is_refused_with_its_position() -> None:
    bars = walk(60)
    bars.iloc[7, 1] = np.inf
    with pytest.raises(NonFinitePriceError, match=r"low of bar 7 \(2024-01-01T07:00:00\+00:00\) was inf"):
        compute_regime_snapshots(bars, [10, 0], [60, 8])


def test_a_bar_that_no_window_holds_may_be_anything() -> None:
    bars = walk(60)
    expected = compute_regime_snapshots(bars, [8, 0], [60, 7], computed_at=NOON).to_json()
    bars.iloc[7] = np.nan
    assert compute_regime_snapshots(bars, [8, 0], [60, 7], computed_at=NOON).to_json() == expected


def test_no_bars_are_refused() -> None:
    with pytest.raises(NoBarsError):
        compute_regime_snapshot(pd.DataFrame())
    with pytest.raises(NoBarsError, match=r"Window 1, bars \[5, 5\), is empty"):
        compute_regime_snapshots(walk(60), [0, 5], [60, 5])


@pytest.mark.parametrize(
    ("starts", "ends"),
    [([-1], [5]), ([0], [61]), ([5], [4]), ([0, 1], [5]), ([0.0], [5.0]), ([True], [5]), ([[0]], [[5]])],
)
def test_a_window_outside_the_series_is_refused(starts: Any, ends: Any) -> None:
    with pytest.raises(BadArgumentError):
        compute_regime_snapshots(walk(60), starts, ends)


def test_bars_without_a_price_column_are_refused_as_a_missing_key_in_plain_words() -> None:
    with pytest.raises(KeyError) as refusal:
        compute_regime_snapshots(walk(60).drop(columns="high"), [0], [60])
    assert isinstance(refusal.value, BadArgumentError)
    assert str(refusal.value) == (
        "The bars have 0 columns named 'high', but a regime needs exactly one. Columns found: low, close."
    )


# --- Times -------------------------------------------------------------------------------------


@pytest.mark.parametrize("zone", [None, "UTC", "America/New_York", "Asia/Kolkata"])
def test_times_are_stored_in_utc(zone: str | None) -> None:
    bars = walk(60)
    bars.index = bars.index.tz_localize(None) if zone is None else bars.index.tz_convert(zone)
    snapshot = compute_regime_snapshot(bars)
    assert (snapshot.ts_start, snapshot.ts_end) == ("2024-01-01T00:00:00+00:00", "2024-01-03T11:00:00+00:00")


def test_parts_of_a_second_are_kept() -> None:
    bars = walk(60)
    bars.index = bars.index + pd.Timedelta(milliseconds=250)
    assert compute_regime_snapshot(bars).ts_start == "2024-01-01T00:00:00.250000+00:00"


def test_computed_at_is_the_time_given_or_now() -> None:
    given = compute_regime_snapshots(walk(60), [0], [60], computed_at=NOON.astimezone())
    assert given[0].computed_at == "2025-03-01T12:00:00Z"
    before = datetime.now(UTC)
    stored = compute_regime_snapshot(walk(60)).computed_at
    assert stored.endswith("Z")
    assert before <= datetime.fromisoformat(stored) <= datetime.now(UTC)


# --- The stored form ---------------------------------------------------------------------------


def test_to_json_is_the_compact_json_of_each_snapshot() -> None:
    bars = walk(400)
    bars.iloc[300:] = 50.0
    ends = np.arange(1, 401)
    snapshots = compute_regime_snapshots(
        bars, np.maximum(0, ends - 120), ends, instrument='50 % "ö"', timeframe="1h", computed_at=NOON
    )
    for text, snapshot in zip(snapshots.to_json(), snapshots, strict=True):
        stored = json.loads(text)
        assert stored == snapshot.to_dict()
        assert list(stored) == list(STORED_FIELDS)
        assert ", " not in text


def test_stored_fields_are_in_the_order_of_the_schema() -> None:
    golden_order = [name for name in COMPUTABLE[0]["to_dict"] if name != "tag_evidence"]
    assert list(STORED_FIELDS) == [*golden_order, "undefined_features"]
    assert list(RegimeSnapshot().feature_params.items()) == list(
        COMPUTABLE[0]["to_dict"]["feature_params"].items()
    )


def test_extreme_prices_never_store_nan_or_infinity() -> None:
    close = np.where(np.arange(60) % 2, 1e308, -1e308)
    snapshots = compute_regime_snapshots(PriceBars(close, close, close, np.full(60, "")), [0], [60])

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    stored = json.loads(snapshots.to_json()[0], parse_constant=refuse)
    assert "efficiency_ratio" in stored["undefined_features"]
    assert stored["efficiency_ratio"] == 0.5


def test_a_stored_snapshot_reads_back_equal() -> None:
    for bars in (walk(250), walk(10), walk(60).assign(high=1.0, low=1.0, close=1.0)):
        snapshot = compute_regime_snapshot(bars, instrument="BTC-USD", timeframe="1h")
        assert RegimeSnapshot.from_dict(json.loads(json.dumps(snapshot.to_dict()))) == snapshot


def test_unknown_fields_are_ignored_and_missing_features_are_undefined() -> None:
    old = {"schema_version": "regime_v1", "atr_pct": 1, "zscore": None, "tag_evidence": [], "colour": "red"}
    snapshot = RegimeSnapshot.from_dict(old)
    assert (snapshot.schema_version, snapshot.atr_pct, snapshot.rsi) == ("regime_v1", 1.0, 100.0)
    assert snapshot.undefined_features == [name for name in FEATURE_NAMES if name != "atr_pct"]


def test_tags_of_a_computed_snapshot_are_those_of_its_stored_features() -> None:
    bars = walk(400)
    ends = np.arange(1, 401)
    for snapshot in compute_regime_snapshots(bars, np.maximum(0, ends - 90), ends):
        assert evaluate_tags(snapshot.to_dict()) == snapshot.regime_tags
