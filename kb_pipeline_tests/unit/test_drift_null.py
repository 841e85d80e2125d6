"""What chance makes of training windows: resampled bars, scales, shares of keys."""

import numpy as np
import pytest

from kb_pipeline.domain.drift_null import DriftNull, TrainingWindow, resampled_snapshots, windows_apart
from kb_pipeline.domain.price_bars import PriceBars
from kb_pipeline.rules import DISTANCE_SCALE_FLOORS
from kb_pipeline_tests.unit.drift_series import series_bars, training_windows

FLAT = "regime_v1_1|default_v1|flat|low_vol|noisy"


def _window(start: int, end: int) -> TrainingWindow:
    return TrainingWindow(FLAT, np.zeros(8), start, end, None)


def test_windows_that_share_a_bar_are_not_apart() -> None:
    # 0-9 and 10-19 are apart; 5-14 touches both; 19-30 shares the bar at 19 with the second.
    windows = [_window(5, 14), _window(0, 9), _window(19, 30), _window(10, 19)]
    assert windows_apart(windows) == 2
    assert windows_apart([*windows, _window(20, 25)]) == 3
    assert windows_apart([]) == 0


def test_a_long_window_hides_none_of_the_short_ones_in_it() -> None:
    assert windows_apart([_window(0, 100), _window(10, 20), _window(30, 40)]) == 2


def test_bars_that_all_move_alike_are_resampled_into_the_same_bars() -> None:
    # Each close is 1 % above the last, each high 2 % and each low 1 % below: order cannot matter.
    close = 1.01 ** np.arange(60)
    bars = PriceBars(close / 1.01 * 1.02, close / 1.01 * 0.99, close, np.full(60, ""))
    found = resampled_snapshots(bars, 3, np.random.default_rng(1))
    # The true range is 3 % of the close before, and each range before it smaller by 1 %: the mean with
    # weight 2/15 is 2/15 / (1 - 13/15 / 1.01) = 0.9396 of the last. Efficiency and rsi are full.
    assert found.features["atr_pct"] == pytest.approx(0.03 / 1.01 * 2 / 15 / (1 - 13 / 15 / 1.01))
    assert found.features["efficiency_ratio"] == pytest.approx(1.0)
    assert found.features["rsi"] == pytest.approx(100.0)
    assert found.features["return_pct"] == pytest.approx(1.01**99 - 1)
    assert found.n_bars.tolist() == [100, 100, 100]


def test_a_quiet_spell_stays_whole_where_bars_drawn_one_by_one_would_mix() -> None:
    # 100 bars that move by 1 % and 100 that move by 3 %: single draws give ranges near the mean of the
    # two; blocks of 20 leave many of the last 14 bars in one spell or the other.
    bars = series_bars(np.repeat([0.01, 0.03], 100), seed=4)
    ranges = resampled_snapshots(bars, 400, np.random.default_rng(1)).features["atr_pct"]
    calm, wild = np.quantile(ranges, [0.1, 0.9])
    assert wild / calm > 2.5


def test_the_same_seed_gives_the_same_null_and_another_seed_another() -> None:
    training = training_windows(series_bars(np.full(1_000, 0.01)), ends=(250, 500, 750, 1_000))
    first, again, other = (DriftNull.of(training, draws=50, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first.by_chance, again.by_chance)
    assert not np.array_equal(first.by_chance, other.by_chance)


def test_the_order_of_the_windows_does_not_matter() -> None:
    training = training_windows(series_bars(np.full(1_000, 0.01)), ends=(250, 500, 750, 1_000))
    forward, backward = DriftNull.of(training, draws=50), DriftNull.of(training[::-1], draws=50)
    assert forward.limit == backward.limit
    assert forward.scales.tolist() == backward.scales.tolist()


def test_one_in_a_hundred_of_the_resampled_windows_lies_beyond_the_limit() -> None:
    training = training_windows(series_bars(np.full(1_000, 0.01)), ends=(250, 500, 750, 1_000))
    null = DriftNull.of(training, draws=100)
    assert null.by_chance.size == 400
    assert np.sum(null.by_chance > null.limit) == 3
    beyond, at, below = null.share_nearer(np.array([null.limit + 1e-9, null.limit, 0.0]))
    assert (beyond, at, below) == (397 / 401, 396 / 401, 0.0)
    assert beyond >= 0.99 > at


def test_scales_are_robust_deviations_over_all_resampled_windows() -> None:
    training = training_windows(series_bars(np.repeat([0.01, 0.03], 250)), ends=(250, 500))
    ranges = [
        resampled_snapshots(it.bars, 80, np.random.default_rng([9, it.end_ns])).features["atr_pct"]
        for it in training
        if it.bars is not None
    ]
    values = np.concatenate(ranges)
    expected = 1.4826 * np.median(np.abs(values - np.median(values)))
    assert DriftNull.of(training, draws=80, seed=9).scales[0] == pytest.approx(expected)


def test_shares_of_keys_are_those_of_the_window_where_they_are_largest() -> None:
    null = DriftNull(
        training=[_window(0, 9)],
        windows_apart=2,
        scales=np.ones(8),
        by_chance=np.zeros(1),
        key_shares=[{"a": 0.9, "b": 0.1}, {"b": 0.4, "c": 0.002, "d": 0.0021}],
        seed=1,
    )
    assert [null.key_share(key) for key in "abcx"] == [0.9, 0.4, 0.002, 0.0]
    # b is common by chance, c at most 2 in 1,000, d is just above that, x never seen; FLAT was trained in.
    assert [null.has_left(key) for key in ("b", "c", "d", "x", FLAT)] == [False, True, False, True, False]


def test_without_bars_any_other_key_has_left_and_its_share_is_unknown() -> None:
    null = DriftNull.of([_window(0, 9)])
    assert null.key_share("other") is None
    assert null.has_left("other")
    assert not null.has_left(FLAT)
    assert null.by_chance.size == 0


def test_a_feature_that_hardly_varies_keeps_the_least_scale() -> None:
    # A price that stands still: no feature varies, most are undefined, none divides by zero.
    still = np.full(200, 10.0)
    window = TrainingWindow(FLAT, np.zeros(8), 0, 199, PriceBars(still, still, still, np.full(200, "")))
    assert DriftNull.of([window], draws=5).scales.tolist() == list(DISTANCE_SCALE_FLOORS)
