"""The verdict on the newest bars: its reasons, its rate of false alarms, its delay after a switch."""

from dataclasses import replace

import numpy as np
import pytest

from kb_pipeline.domain.drift import NEWEST_BARS, DriftVerdict, judge_drift
from kb_pipeline.domain.drift_null import DriftNull, TrainingWindow
from kb_pipeline.domain.price_bars import PriceBars
from kb_pipeline.rules import DRIFT_RARE_SHARE, DriftReason
from kb_pipeline_tests.unit.drift_series import part, series_bars, training_windows

TUNED_AT = (250, 500, 750, 1_000, 1_250)
CALM = series_bars(np.full(1_600, 0.01), seed=5)
NULL = DriftNull.of(training_windows(CALM, TUNED_AT), draws=300)
WILD = series_bars(np.full(300, 0.04), seed=6)
NEW_KEY = NULL.training[0].regime_key.replace("|noisy", "|efficient")


def _judge(bars: PriceBars, null: DriftNull = NULL, departed_before: int = 0) -> DriftVerdict:
    return judge_drift(bars, null, departed_before)


def _without_keys(null: DriftNull, *, but: str) -> DriftNull:
    """Return the same null with snapshots and resampled windows of one key only."""
    training = [replace(window, regime_key=but) for window in null.training]
    return replace(null, training=training, key_shares=[{but: 1.0}])


# --- Reasons -------------------------------------------------------------------------------------


def test_the_market_the_parameters_were_chosen_in_is_stable() -> None:
    verdict = _judge(part(CALM, 1_300, 1_600))
    assert verdict.reason in (DriftReason.STABLE, DriftReason.KEY_DIFFERS_BY_CHANCE)
    assert not verdict.is_alarm
    assert verdict.distance is not None
    assert verdict.limit is not None
    assert verdict.distance < verdict.limit
    assert (verdict.snapshots, verdict.windows_apart, verdict.bars) == (5, 5, 200)


def test_four_times_the_volatility_is_beyond_the_null_and_says_what_moved() -> None:
    verdict = _judge(WILD)
    assert verdict.reason is DriftReason.DISTANCE_BEYOND_NULL
    assert verdict.is_alarm
    assert verdict.null_percentile == pytest.approx(100 * 1_500 / 1_501)
    moved = {it.feature: it for it in verdict.moved}
    assert set(moved) == {"atr_pct", "std_pct", "bb_width_pct"}
    atr = moved["atr_pct"]
    assert atr.now / atr.then > 3
    assert atr.size == pytest.approx((atr.now - atr.then) / NULL.scales[0])


def test_the_distance_is_that_to_the_nearest_snapshot() -> None:
    # The newest bars of a training window are at no distance from its own snapshot.
    verdict = _judge(part(CALM, 1_000, 1_250))
    assert verdict.distance == pytest.approx(0.0, abs=1e-9)
    assert all(it.size == pytest.approx(0.0, abs=1e-9) for it in verdict.moved)


def test_the_key_counts_only_on_the_third_evaluation_in_a_row() -> None:
    null, bars = _without_keys(NULL, but=NEW_KEY), part(CALM, 1_300, 1_600)
    first, second, third = (_judge(bars, null, before) for before in (0, 1, 2))
    assert [it.reason for it in (first, second)] == [DriftReason.UNCONFIRMED] * 2
    assert third.reason is DriftReason.KEY_CHANGED
    assert all(it.departed and it.key_share == 0.0 for it in (first, second, third))
    assert third.keys_then == (NEW_KEY,)


def test_a_key_that_chance_makes_of_the_training_windows_has_not_departed() -> None:
    bars = part(CALM, 1_300, 1_600)
    key_now = str(_judge(bars).key_now)
    null = replace(_without_keys(NULL, but=NEW_KEY), key_shares=[{NEW_KEY: 0.997, key_now: 0.003}])
    verdict = _judge(bars, null, departed_before=2)
    assert verdict.reason is DriftReason.KEY_DIFFERS_BY_CHANCE
    assert (verdict.departed, verdict.key_share) == (False, 0.003)


def test_nine_far_bars_are_not_enough() -> None:
    # As far as ten bars look, the switch is nine bars old where the alarm is one bar away.
    bars = series_bars(np.concatenate((np.full(300, 0.01), np.full(60, 0.05))), seed=8)
    ends = range(300, 361)
    verdicts = [_judge(part(bars, 0, end)) for end in ends]
    far = [it.null_percentile is not None and it.null_percentile >= 99 for it in verdicts]
    alarms = [it.reason is DriftReason.DISTANCE_BEYOND_NULL for it in verdicts]
    expected = [end >= 9 and all(far[end - 9 : end + 1]) for end in range(len(far))]
    assert alarms == expected
    assert any(alarms)
    first = alarms.index(True)
    assert [it.reason for it in verdicts[first - 9 : first]] == [DriftReason.UNCONFIRMED] * 9


def test_bars_beyond_the_newest_do_not_change_the_verdict() -> None:
    assert NEWEST_BARS == 209
    assert _judge(WILD) == _judge(part(WILD, 300 - NEWEST_BARS, 300))


def test_fewer_bars_than_a_regime_needs() -> None:
    verdict = _judge(part(WILD, 0, 49))
    assert (verdict.reason, verdict.bars, verdict.key_now) == (DriftReason.NOT_ENOUGH_BARS, 49, None)
    assert _judge(part(WILD, 0, 50)).reason is DriftReason.UNCONFIRMED  # one far bar, not ten


@pytest.mark.parametrize(
    ("tuned_at", "windows_with_bars", "reason"),
    [
        ((250, 500, 750), 3, DriftReason.TOO_FEW_TRAINING_SNAPSHOTS),
        ((250, 260, 270, 280, 290), 5, DriftReason.TOO_FEW_TRAINING_SNAPSHOTS),
        ((250, 500, 750, 1_000), 3, DriftReason.TRAINING_BARS_MISSING),
    ],
)
def test_without_four_windows_apart_there_is_no_distance(
    tuned_at: tuple[int, ...], windows_with_bars: int, reason: DriftReason
) -> None:
    training = training_windows(CALM, tuned_at)
    training = [
        window if place < windows_with_bars else replace(window, bars=None)
        for place, window in enumerate(training)
    ]
    verdict = _judge(WILD, DriftNull.of(training, draws=100))
    assert (verdict.distance, verdict.limit, verdict.null_percentile, verdict.moved) == (None, None, None, ())
    assert verdict.reason in (reason, DriftReason.UNCONFIRMED)
    calm = _judge(part(CALM, 1_000 - 209, 1_000), DriftNull.of(training, draws=100))
    assert calm.reason is reason


def test_a_market_that_stands_still_has_left() -> None:
    # No range, no deviation, no direction: four features are known, and three are zero for the first time.
    still = np.full(250, 10.0)
    verdict = _judge(PriceBars(still, still, still, np.full(250, "")))
    assert verdict.reason is DriftReason.DISTANCE_BEYOND_NULL
    assert {it.now for it in verdict.moved} == {0.0}


def test_snapshots_without_features_leave_the_distance_unknown() -> None:
    training = [replace(window, features=np.full(8, np.nan)) for window in NULL.training]
    verdict = _judge(WILD, DriftNull.of(training, draws=50))
    assert (verdict.distance, verdict.limit, verdict.moved) == (None, None, ())
    assert verdict.reason in (DriftReason.FEATURES_UNDEFINED, DriftReason.UNCONFIRMED)
    assert _judge(part(CALM, 1_000, 1_250), DriftNull.of(training, draws=50)).reason is (
        DriftReason.FEATURES_UNDEFINED
    )


def test_a_snapshot_without_features_is_nobodys_neighbour() -> None:
    empty = TrainingWindow(NEW_KEY, np.full(8, np.nan), 5_000, 5_001, None)
    null = DriftNull.of([*training_windows(CALM, TUNED_AT), empty], draws=300)
    assert _judge(WILD, null).distance == pytest.approx(_judge(WILD).distance)


# --- Rate and delay ------------------------------------------------------------------------------


def _heavy_tailed(bars: int, seed: int) -> PriceBars:
    """Return bars whose volatility comes in spells, the same from end to end."""
    rng = np.random.default_rng([7, seed])
    spells = rng.choice([0.7, 1.0, 1.5], size=bars // 20 + 1).repeat(20)[:bars]
    return series_bars(0.01 * spells, seed=seed)


def test_unchanged_series_hardly_ever_alarm() -> None:
    # 40 series, each evaluated at five bars far apart: 200 evaluations, of which 1 % is 2. Each counts
    # as the third in a row, so that a key needs to have left only once: more alarms than there would be.
    alarms = 0
    for seed in range(40):
        bars = _heavy_tailed(2_250, seed)
        null = DriftNull.of(training_windows(bars, TUNED_AT), draws=150)
        newest = [_judge(part(bars, 0, end), null, departed_before=2) for end in range(1_450, 2_251, 200)]
        alarms += sum(verdict.is_alarm for verdict in newest)
    assert alarms <= 2 * 200 * DRIFT_RARE_SHARE


def test_a_switch_is_found_in_half_of_the_series_within_forty_bars() -> None:
    delays = []
    for seed in range(13):
        std = np.concatenate((np.full(1_450, 0.01), np.full(120, 0.03)))
        bars = series_bars(std, seed=100 + seed)
        null = DriftNull.of(training_windows(bars, TUNED_AT), draws=200)
        found = (age for age in range(1, 121) if _judge(part(bars, 0, 1_450 + age), null).is_alarm)
        delays.append(next(found, 999))
    assert 10 <= np.median(delays) <= 40
    assert sum(delay < 999 for delay in delays) >= 11
