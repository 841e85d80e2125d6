"""What a stored snapshot may be, and what is refused."""

from typing import Any

import pytest

from kb_pipeline.domain.regime import RegimeSnapshot
from kb_pipeline.errors import InvalidSnapshotError, UnknownSchemaVersionError


def test_null_counts_as_missing_and_whole_numbers_as_numbers() -> None:
    stored = {
        "schema_version": "regime_v1_1",
        "timeframe": None,
        "rsi": 50,
        "trend_dir": 1.0,
        "regime_tags": None,
    }
    snapshot = RegimeSnapshot.from_dict(stored)
    assert (snapshot.timeframe, snapshot.rsi, snapshot.trend_dir, snapshot.regime_tags) == (None, 50.0, 1, [])


def test_trending_beside_uptrend_is_no_contradiction() -> None:
    stored = {"schema_version": "regime_v1_1", "regime_tags": ["trending", "uptrend"]}
    assert RegimeSnapshot.from_dict(stored).regime_tags == ["trending", "uptrend"]


@pytest.mark.parametrize("version", ["regime_v2", None, 1, ["regime_v1_1"]])
def test_an_unknown_schema_version_is_refused_by_name(version: Any) -> None:
    with pytest.raises(UnknownSchemaVersionError, match="schema_version of a stored snapshot was"):
        RegimeSnapshot.from_dict({"schema_version": version, "regime_tags": []})


@pytest.mark.parametrize(
    "broken",
    [
        {"regime_tags": "uptrend"},
        {"regime_tags": ["uptrend", 1]},
        {"regime_tags": ["uptrend", "downtrend"]},
        {"regime_tags": ["low_vol", "high_vol"]},
        {"atr_pct": float("inf")},
        {"atr_pct": 10**400},
        {"zscore": "1.5"},
        {"rsi": True},
        {"trend_dir": 0.5},
        {"n_bars": float("nan")},
        {"feature_params": []},
        {"ts_start": 5},
    ],
)
def test_a_field_that_cannot_be_read_is_refused_by_name(broken: dict[str, Any]) -> None:
    with pytest.raises(InvalidSnapshotError, match="stored snapshot"):
        RegimeSnapshot.from_dict({"schema_version": "regime_v1_1"} | broken)


def test_a_snapshot_that_is_no_object_is_refused() -> None:
    with pytest.raises(InvalidSnapshotError, match="must be a JSON object"):
        RegimeSnapshot.from_dict(["regime_v1_1"])
