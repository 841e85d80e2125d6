"""The rules a bars frame obeys, on frames worked by hand."""

import numpy as np
import numpy.typing as npt
import pandas as pd
import pandera.errors
import pytest

from kb_pipeline.domain.ohlcv import OHLCV_SCHEMA, bar_times_ns, violations

TIMES = pd.DatetimeIndex(["2024-01-01", "2024-01-02"], tz="UTC", name="ts").as_unit("ns")


def arrays(frame: pd.DataFrame) -> dict[str, npt.NDArray[np.float64]]:
    return {str(name): column.to_numpy() for name, column in frame.items()}


def bars(**changes: list[float]) -> pd.DataFrame:
    columns = {
        "open": [1.0, 2.0],
        "high": [3.0, 3.0],
        "low": [0.5, 1.0],
        "close": [2.0, 2.5],
        "volume": [0.0, 9.0],
    }
    return pd.DataFrame(columns | changes, index=TIMES)


@pytest.mark.parametrize(
    ("changes", "reason", "column"),
    [
        ({"open": [1.0, np.nan]}, "not_finite", "open"),
        ({"high": [3.0, np.inf]}, "not_finite", "high"),
        ({"low": [0.5, 0.0]}, "not_positive", "low"),
        ({"open": [1.0, 3.5]}, "ohlc_inconsistent", "open"),
        ({"close": [2.0, 0.9]}, "ohlc_inconsistent", "close"),
        ({"high": [3.0, 0.9]}, "ohlc_inconsistent", "high"),
        ({"volume": [0.0, -1.0]}, "negative_volume", "volume"),
        ({"adj_close": [1.0, np.nan]}, "not_finite", "adj_close"),
    ],
)
def test_one_bad_value_breaks_one_rule(changes: dict[str, list[float]], reason: str, column: str) -> None:
    frame = bars(**changes)
    [broken] = violations(arrays(frame))
    assert (broken.reason, broken.column, broken.positions.tolist()) == (reason, column, [1])
    with pytest.raises(pandera.errors.SchemaErrors):
        OHLCV_SCHEMA.validate(frame, lazy=True)


def test_prices_may_touch_and_volume_may_be_zero() -> None:
    same = [1.0, 1.0]
    frame = bars(open=same, high=same, low=same, close=same, volume=[0.0, 0.0], adj_close=[-1.0, 0.0])
    assert violations(arrays(frame)) == []
    OHLCV_SCHEMA.validate(frame, lazy=True)


def test_the_schema_tells_every_failure_at_once() -> None:
    with pytest.raises(pandera.errors.SchemaErrors) as caught:
        OHLCV_SCHEMA.validate(bars(open=[-1.0, 2.0], volume=[0.0, -1.0]), lazy=True)
    told = set(caught.value.failure_cases["check"])
    # An open of -1 is below the low as well.
    assert told == {
        "needed a price above 0",
        "needed a volume of 0 or more",
        "needed an open between low and high",
    }


def test_volume_may_be_absent_but_a_price_may_not() -> None:
    OHLCV_SCHEMA.validate(bars().drop(columns="volume"), lazy=True)
    with pytest.raises(pandera.errors.SchemaErrors):
        OHLCV_SCHEMA.validate(bars().drop(columns="close"), lazy=True)


@pytest.mark.parametrize(
    "index",
    [TIMES[::-1], TIMES[[0, 0]], TIMES.tz_localize(None), TIMES.rename("date"), pd.RangeIndex(2, name="ts")],
)
def test_times_increase_in_utc_under_their_name(index: pd.Index) -> None:
    with pytest.raises(pandera.errors.SchemaErrors):
        OHLCV_SCHEMA.validate(bars().set_axis(index), lazy=True)


def test_times_further_apart_than_64_bits_of_nanoseconds_increase() -> None:
    far = pd.DatetimeIndex(["1900-01-01", "2200-12-31"], tz="UTC", name="ts").as_unit("ns")
    OHLCV_SCHEMA.validate(bars().set_axis(far), lazy=True)


def test_bar_times_are_nanoseconds_whatever_the_unit() -> None:
    expected = [1_704_067_200 * 10**9, 1_704_153_600 * 10**9]
    assert bar_times_ns(bars()).tolist() == expected
    assert bar_times_ns(bars().set_axis(TIMES.as_unit("s"))).tolist() == expected
    with pytest.raises(TypeError, match="RangeIndex"):
        bar_times_ns(bars().reset_index())
