"""Features against hand-worked numbers, and against an exact computation of the same definitions."""

import math
from collections.abc import Sequence
from random import Random

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kb_pipeline.domain import features
from kb_pipeline.domain.features import WindowFeatures, compute_features, distinct_windows
from kb_pipeline_tests.unit.slow_regime import slow_features, slow_warnings

Numbers = Sequence[float]


def compute(close: Numbers, high: Numbers | None = None, low: Numbers | None = None) -> WindowFeatures:
    """Compute one window; highs and lows are the closes unless given."""
    columns = [np.array(close if column is None else column, dtype=float) for column in (high, low, close)]
    return compute_features(*columns, starts=np.array([0]), ends=np.array([len(close)]))


def feature(name: str, close: Numbers, high: Numbers | None = None, low: Numbers | None = None) -> float:
    return float(compute(close, high, low).values[name][0])


# --- ATR and range -----------------------------------------------------------------------------


def test_the_first_true_range_is_the_bars_own_range() -> None:
    assert feature("atr_pct", [10.0], [12.0], [9.0]) == 3.0 / 10.0


def test_atr_moves_two_fifteenths_of_the_way_to_the_next_true_range() -> None:
    # The second bar gaps up: 19 - 10 = 9 from the close before it, more than its own range of 1.
    # ATR = 13/15 * 3 + 2/15 * 9 = 3.8. Wilder's 1/14 would give 3.43.
    assert feature("atr_pct", [10.0, 19.0], [12.0, 19.0], [9.0, 18.0]) == pytest.approx(3.8 / 19.0, rel=1e-15)


def test_a_gap_down_counts_from_the_close_before_it() -> None:
    # 10 - 4 = 6; ATR = 13/15 * 3 + 2/15 * 6 = 3.4
    assert feature("atr_pct", [10.0, 4.0], [12.0, 5.0], [9.0, 4.0]) == pytest.approx(3.4 / 4.0, rel=1e-15)


def test_range_is_highest_high_to_lowest_low_wherever_they_lie() -> None:
    close = [100.0] * 7
    for top in range(7):
        for bottom in range(7):
            high = [109.0 if bar == top else 101.0 for bar in range(7)]
            low = [94.0 if bar == bottom else 99.0 for bar in range(7)]
            assert feature("range_pct", close, high, low) == 0.15


# --- Bands and z-score -------------------------------------------------------------------------


def test_bands_of_the_numbers_one_to_twenty() -> None:
    # Mean 10.5; squares deviate by 665 in all, so the sample variance is 665/19 = 35.
    close = [float(price) for price in range(1, 21)]
    assert feature("std_pct", close) == pytest.approx(math.sqrt(35) / 20, rel=1e-15)
    assert feature("bb_width_pct", close) == pytest.approx(4 * math.sqrt(35) / 10.5, rel=1e-15)
    assert feature("zscore", close) == pytest.approx(9.5 / math.sqrt(35), rel=1e-15)


def test_nineteen_closes_have_no_bands() -> None:
    values = compute([float(price) for price in range(1, 20)]).values
    assert all(math.isnan(values[name][0]) for name in ("std_pct", "bb_width_pct", "zscore"))


@pytest.mark.parametrize("price", [0.1, 100.1, 1e9 + 0.1, 1e-6])
def test_equal_closes_have_a_variance_of_exactly_zero(price: float) -> None:
    # The mean of twenty times 0.1 is not 0.1 in floating point.
    computed = compute([price] * 60)
    assert computed.zero_variance[0]
    assert computed.values["std_pct"][0] == 0.0
    assert math.isnan(computed.values["zscore"][0])
    assert math.isnan(computed.values["trend_strength"][0])


def test_one_close_that_differs_in_its_last_digit_is_a_variance() -> None:
    computed = compute([100.1] * 59 + [math.nextafter(100.1, 101.0)])
    assert not computed.zero_variance[0]
    # The last of 20 alone deviates: z = (1 - 1/20) / sqrt(1/20), whatever the size of the step.
    assert computed.values["zscore"][0] == pytest.approx(0.95 / math.sqrt(0.05), rel=1e-12)


# --- Trend -------------------------------------------------------------------------------------


def test_a_straight_line_is_the_strongest_trend() -> None:
    rising = [100.0 + bar for bar in range(50)]
    assert feature("trend_strength", rising) == 1.0
    assert feature("trend_dir", rising) == 1.0
    assert feature("trend_dir", rising[::-1]) == -1.0


def test_a_slope_of_a_thousandth_of_the_mean_has_no_direction_yet() -> None:
    # Mean 1000 and slope 1 per bar: both are exact, and so is their ratio.
    at_threshold = [1000.0 + bar - 24.5 for bar in range(50)]
    assert feature("trend_dir", at_threshold) == 0.0
    assert feature("trend_dir", [price - 0.5 for price in at_threshold]) == 1.0
    assert feature("trend_dir", [price + 0.5 for price in at_threshold]) == 0.0


def test_strength_of_a_trend_with_one_step() -> None:
    # A step in the middle: covariation 25*25/2 = 312.5, variations 12.5 and 10412.5.
    stepped = [1.0] * 25 + [2.0] * 25
    assert feature("trend_strength", stepped) == pytest.approx(312.5**2 / (12.5 * 10412.5), rel=1e-15)


def test_a_mean_of_zero_has_no_direction() -> None:
    values = compute([bar - 24.5 for bar in range(50)]).values
    assert values["trend_strength"][0] == 1.0
    assert math.isnan(values["trend_dir"][0])


def test_rounding_never_lifts_a_share_above_one() -> None:
    # Without the clip, many of these lines would come out above 1.
    for thousandths in range(1, 200):
        assert (
            1.0 - 1e-12
            < feature("trend_strength", [100.0 + bar * thousandths / 1000 for bar in range(60)])
            <= 1.0
        )
    # And this growth would be more than perfectly efficient.
    assert feature("efficiency_ratio", [100.0 * 1.055**bar for bar in range(60)]) == 1.0


def test_forty_nine_closes_have_no_trend() -> None:
    values = compute([100.0 + bar for bar in range(49)]).values
    assert math.isnan(values["trend_strength"][0])
    assert math.isnan(values["trend_dir"][0])


# --- RSI, return, efficiency -------------------------------------------------------------------


def test_rsi_of_one_gain_and_one_equal_loss() -> None:
    # The gain is a bar older and has decayed to 13/15 of the loss: 13 / (13 + 15).
    assert feature("rsi", [100.0, 101.0, 100.0]) == pytest.approx(100 * 13 / 28, rel=1e-15)


def test_rsi_is_a_real_hundred_without_losses_and_a_real_zero_without_gains() -> None:
    assert feature("rsi", [100.0, 100.0, 101.7]) == 100.0
    assert feature("rsi", [101.7, 100.0, 100.0]) == 0.0


def test_rsi_is_undefined_where_nothing_moved() -> None:
    assert math.isnan(feature("rsi", [100.0]))
    assert math.isnan(feature("rsi", [100.0] * 80))


def test_return_and_drift_are_from_the_first_close_to_the_last() -> None:
    assert feature("return_pct", [80.0, 500.0, 100.0]) == 0.25
    assert feature("drift_bps_per_bar", [80.0, 500.0, 100.0]) == 1250.0
    assert math.isnan(feature("return_pct", [80.0]))
    assert math.isnan(feature("drift_bps_per_bar", [80.0]))


def test_a_straight_line_is_perfectly_efficient() -> None:
    assert feature("efficiency_ratio", [100.0, 101.0, 102.0, 103.0]) == 1.0


def test_efficiency_looks_back_over_half_of_the_window() -> None:
    # Of 5 bars the last 2 changes count: +2 and -1, net 1 of a path of 3.
    assert feature("efficiency_ratio", [100.0, 102.0, 100.0, 102.0, 101.0]) == pytest.approx(1 / 3)


def test_efficiency_looks_back_over_no_more_than_fifty_changes() -> None:
    # 101 changes: 51 steps down that are too old, then 50 steps up.
    close = [200.0 - bar for bar in range(51)] + [150.0 + bar for bar in range(51)]
    assert feature("efficiency_ratio", close) == 1.0


def test_efficiency_is_undefined_for_one_bar_and_where_nothing_moved() -> None:
    assert math.isnan(feature("efficiency_ratio", [100.0]))
    assert math.isnan(feature("efficiency_ratio", [90.0, 100.0, 100.0, 100.0]))


def test_a_last_close_of_zero_leaves_its_fractions_undefined() -> None:
    values = compute([100.0] * 59 + [0.0]).values
    undefined = {name for name, value in values.items() if math.isnan(value[0])}
    assert undefined == {"atr_pct", "std_pct", "range_pct"}


# --- Conditions of warnings --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("after", "is_bad"), [(150.0, False), (150.0001, True), (50.0, False), (49.9999, True)]
)
def test_a_move_of_more_than_half_is_a_possible_bad_tick(after: float, is_bad: bool) -> None:
    assert compute([100.0, 100.0, after, after]).possible_bad_ticks[0] == is_bad


def test_no_range_at_a_price_of_zero_is_an_atr_of_zero() -> None:
    assert compute([0.0] * 60).zero_atr[0]
    assert not compute([1.0, 0.0]).zero_atr[0]


def test_what_happened_before_the_window_is_not_seen() -> None:
    close = np.array([1.0, 100.0, 100.0, 101.0])
    inside = compute_features(close, close, close, starts=np.array([1]), ends=np.array([4]))
    alone = compute([100.0, 100.0, 101.0])
    assert not inside.possible_bad_ticks[0]
    assert {name: value.tolist() for name, value in inside.values.items() if not math.isnan(value[0])} == {
        name: value.tolist() for name, value in alone.values.items() if not math.isnan(value[0])
    }


# --- Many windows ------------------------------------------------------------------------------


def test_full_windows_with_the_same_end_are_computed_once() -> None:
    starts, ends, row = distinct_windows(np.array([100, 0, 5, 100]), np.array([300, 200, 60, 300]))
    assert list(zip(starts.tolist(), ends.tolist(), strict=True)) == [(0, 200), (100, 300), (5, 60)]
    assert row.tolist() == [1, 0, 2, 1]


def test_no_windows_are_no_rows() -> None:
    close = np.array([1.0, 2.0])
    nothing = np.array([], dtype=np.int64)
    assert all(
        value.shape == (0,)
        for value in compute_features(close, close, close, nothing, nothing).values.values()
    )


def random_bars(seed: int, count: int, price: float, shift: float) -> np.ndarray:
    """Return highs, lows, closes of a random walk whose price is multiplied at one bar, shape (3, count)."""
    numbers = np.random.default_rng(seed)
    close = price * np.exp(np.cumsum(numbers.normal(0, 0.01, count)))
    close[numbers.integers(count) :] *= shift
    # Repeated closes make ties, moves of nothing and constant stretches.
    close = close[np.maximum.accumulate(np.where(numbers.random(count) < 0.7, np.arange(count), 0))]
    upper, lower = 1 + np.abs(numbers.normal(0, 0.01, (2, count)))
    return np.stack((close * upper, close / lower, close))


walks = st.builds(
    random_bars,
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, 400),
    price=st.sampled_from([1e-6, 1.0, 100.0, 1e9]),
    shift=st.sampled_from([1.0, 1.0, 1.5, 1e-6, 1e6]),
)
small_prices = st.lists(st.integers(1, 4), min_size=1, max_size=70)


def assert_equal_to_slow(bars: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> None:
    computed = compute_features(*bars, starts, ends)
    for row, (start, end) in enumerate(zip(starts, ends, strict=True)):
        window = list(zip(*bars[:, start:end].tolist(), strict=True))
        expected = slow_features(window)
        for name, values in computed.values.items():
            value = expected[name]
            assert np.isclose(
                values[row], math.nan if value is None else value, rtol=1e-9, atol=1e-12, equal_nan=True
            ), (name, values[row], value)
        warnings = slow_warnings(window)
        assert computed.possible_bad_ticks[row] == ("possible_bad_ticks" in warnings)
        assert computed.zero_atr[row] == ("zero_atr" in warnings)
        assert computed.zero_variance[row] == ("zero_variance" in warnings)


@settings(max_examples=150, deadline=None)
@given(walks, st.randoms(use_true_random=False))
def test_every_feature_equals_its_definition_in_exact_fractions(bars: np.ndarray, random: Random) -> None:
    count = bars.shape[1]
    ends = np.array([count, *(random.randint(1, count) for _ in range(3))])
    starts = np.array([max(0, end - random.randint(1, 200)) for end in ends])
    assert_equal_to_slow(bars, starts, ends)


@settings(max_examples=150, deadline=None)
@given(small_prices)
@example([1] * 50)
@example([1] * 30 + [2] * 20)
def test_ties_and_standstills_equal_their_definitions(prices: list[int]) -> None:
    close = np.array(prices, dtype=float)
    assert_equal_to_slow(np.stack((close, close, close)), np.array([0]), np.array([len(prices)]))


@settings(max_examples=30, deadline=None)
@given(walks, st.integers(0, 2**32 - 1))
def test_a_window_has_the_same_bits_in_any_company(bars: np.ndarray, seed: int) -> None:
    numbers = np.random.default_rng(seed)
    ends = numbers.integers(1, bars.shape[1] + 1, 40)
    starts = np.maximum(0, ends - numbers.integers(1, 201, 40))
    together = compute_features(*bars, starts, ends)
    for row, (start, end) in enumerate(zip(starts, ends, strict=True)):
        alone = compute_features(*bars[:, start:end], np.array([0]), np.array([end - start]))
        for name, values in together.values.items():
            assert np.array_equal(values[[row]], alone.values[name], equal_nan=True), name


def test_more_windows_than_are_computed_at_once_come_back_in_their_own_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bars = random_bars(seed=5, count=1_000, price=100.0, shift=0.2)
    bars[:, 400:700] = 100.0
    numbers = np.random.default_rng(5)
    ends = numbers.integers(1, 1_001, 300)
    starts = np.maximum(0, ends - numbers.integers(1, 201, 300))
    at_once = compute_features(*bars, starts, ends)
    monkeypatch.setattr(features, "_WINDOWS_PER_PART", 7)
    in_parts = compute_features(*bars, starts, ends)
    for name, values in at_once.values.items():
        assert np.array_equal(values, in_parts.values[name], equal_nan=True), name
    for name in ("possible_bad_ticks", "zero_atr", "zero_variance"):
        flags = getattr(at_once, name)
        assert 0 < flags.sum() < flags.size, name
        assert np.array_equal(flags, getattr(in_parts, name)), name


@pytest.mark.parametrize("exponent", [-1030, -300, 300, 1000])
def test_no_feature_knows_the_unit_of_price(exponent: int) -> None:
    # Squares of these prices are beyond what a float holds.
    bars = random_bars(seed=7, count=200, price=100.0, shift=1.5)
    window = np.array([0]), np.array([200])
    expected = compute_features(*bars, *window).values
    for name, values in compute_features(*np.ldexp(bars, exponent), *window).values.items():
        assert values[0] == pytest.approx(expected[name][0], rel=1e-9), name


def test_what_overflows_is_undefined() -> None:
    close = [1e308 if bar % 2 else -1e308 for bar in range(60)]
    values = compute(close).values
    assert not any(np.isinf(value[0]) for value in values.values())
    assert {"range_pct", "return_pct", "rsi", "efficiency_ratio"} <= {
        name for name, value in values.items() if math.isnan(value[0])
    }


def test_a_loss_that_overflows_is_not_an_rsi_of_zero() -> None:
    assert math.isnan(feature("rsi", [0.0, 1.7e308, -1.7e308]))
