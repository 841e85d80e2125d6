"""Frames of the dashboard made of plain values; what a test does not name is harmless."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from kb_pipeline.dashboard.frame import CoverageGap, Frame, Scoring, TierWeek
from kb_pipeline.domain.drift import MovedFeature
from kb_pipeline.domain.uplift_cells import MedianInterval, UpliftCell, UpliftReport, UpliftScope
from kb_pipeline.storage.dashboard import SampleGap, SamplePair, Sighting, TuneGroup, WorkspaceState
from kb_pipeline.storage.drift_events import DriftEvent
from kb_pipeline_tests.builders import FLAT_KEY

NOON = datetime(2026, 3, 4, 12, tzinfo=UTC)
MONDAY = datetime(2026, 3, 2, tzinfo=UTC).date()


def cell(
    median: float | None, low: float | None = None, high: float | None = None, **facts: Any
) -> UpliftCell:
    """Return the uplift of a regime."""
    n = 0 if median is None else 7
    interval = MedianInterval(n=n, median=median, low=low, high=high)
    values = {
        **dict.fromkeys(("strategy_id", "strategy_name", "trend_tag", "vol_tag", "efficiency_tag")),
        "scope": UpliftScope.REGIME,
        "regime_key": FLAT_KEY,
        "timeframe": "1d",
        "objective": "sharpe",
        "tunes": 8,
        "uplift": interval,
        "over_blind": interval,
        "share_positive": None if median is None else 0.5,
        "same": 0,
        "by_default": 0,
        "thin": low is None,
        "symbols": 20,
        "clustered_by": "symbol",
        "few_symbols": False,
        "gap_n": 0,
        "gap": None,
        "tiers": {},
        "unknown": {},
    }
    return UpliftCell(**{**values, **facts})


def report(*cells: UpliftCell) -> UpliftReport:
    """Return a measurement of these cells."""
    return UpliftReport(computed_at=NOON, scanned=9, known=7, unknown={"no_score": 2}, cells=cells)


def group(**facts: Any) -> TuneGroup:
    """Return six tunes of a strategy in a regime."""
    values = {
        "strategy_id": "s",
        "strategy": "trend_following",
        "timeframe": "1d",
        "objective": "sharpe",
        "regime_key": FLAT_KEY,
        "tunes": 6,
        "scored": 6,
        "mean_score": 1.0,
        "best_score": 2.0,
        "best_params": '{"fast": 5}',
        "best_tune_id": "00000000-0000-4000-8000-000000000001",
        "best_run_id": "00000000-0000-4000-8000-000000000002",
    }
    return TuneGroup(**{**values, **facts})


def sighting(**facts: Any) -> Sighting:
    """Return a window of AAPL that nobody was tuned on."""
    values = {
        "regime_key": FLAT_KEY,
        "timeframe": "1d",
        "symbol": "AAPL",
        "start": "2020-01-01",
        "end": "2020-06-30",
        "tuned_by": frozenset(),
    }
    return Sighting(**{**values, **facts})


def drift_event(**facts: Any) -> DriftEvent:
    """Return a departure that lasts."""
    values = {
        "id": "d",
        "strategy_id": "s",
        "strategy_name": "trend_following",
        "symbol": "AAPL",
        "timeframe": "1d",
        "first_bar": NOON,
        "last_bar": None,
        "detected_at": NOON,
        "reason": "key_changed",
        "regime_key": FLAT_KEY,
        "training_keys": (),
        "distance": 9.0,
        "distance_limit": 5.0,
        "null_percentile": 100.0,
        "moved": (MovedFeature("atr_pct", 0.0123, 0.0411, 5.2),),
        "sentence": "left",
        "alerted_at": None,
        "alert_error": None,
    }
    return DriftEvent(**{**values, **facts})


def empty_frame(**parts: Any) -> Frame:
    """Return the frame of a workspace with nothing in it but the parts named."""
    values = {
        "workspace_id": UUID(int=7),
        "state": WorkspaceState("Quant", "quant", NOON, 0, 0, has_trials=False),
        "uplift": None,
        **dict.fromkeys(("groups", "gaps", "weeks", "drift", "sample_gaps", "sample_pairs"), ()),
    }
    return Frame(**{**values, **parts})


def full_frame(rows: int = 1, name: str = "trend_following") -> Frame:
    """Return a frame with so many rows of everything, strategies, symbols and the like under one name."""
    ids = [str(UUID(int=number)) for number in range(1, rows + 1)]
    keys = [FLAT_KEY, *(f"other|{name}|{number}" for number in range(1, rows))]
    cells = [
        cell(0.5, 0.2, 0.9, scope=scope, regime_key=key, strategy_name=name)
        for scope, key in (*((UpliftScope.REGIME, key) for key in keys), (UpliftScope.STRATEGY, None))
    ]
    pairs = [SamplePair(it, name, "1d", name, it, 1.5, 0.5) for it in ids]
    groups = [
        group(strategy=name, regime_key=key, best_params=f'{{"{name}": 5}}', best_tune_id=tune_id)
        for key, tune_id in zip(keys, ids, strict=True)
    ]
    seen = (sighting(symbol=name),)
    return empty_frame(
        state=WorkspaceState(name, "quant", NOON, 9, 8, has_trials=True),
        uplift=report(*cells),
        groups=tuple(groups),
        gaps=tuple(CoverageGap(name, Scoring("1d", "sharpe"), key, 2, 3, 1, seen) for key in keys),
        weeks=(TierWeek(MONDAY, {"exact": 3, "global_best": 1}),),
        drift=tuple(drift_event(strategy_name=name, symbol=name) for _ in ids),
        sample_gaps=(SampleGap(name, "1d", rows, 1.5, 0.5, 1.0, 1.0),),
        sample_pairs=tuple(pairs),
    )
