"""What a frame of bars may look like."""

from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest

from kb_pipeline.domain.price_bars import PriceBars, time_texts
from kb_pipeline.errors import BadArgumentError

PRICES = {"high": [3.0, 4.0], "low": [1.0, 2.0], "close": [2.0, 3.0]}


def bars_of(columns: dict[Any, Any], index: Any = None) -> PriceBars:
    return PriceBars.from_frame(pd.DataFrame(columns, index=index))


@pytest.mark.parametrize(
    "names", [("high", "low", "close"), ("High", " LOW ", "Close"), ("h", "l", "c"), ("H", "Low", "c")]
)
def test_prices_are_found_under_their_names_in_any_case(names: tuple[str, str, str]) -> None:
    bars = bars_of(
        dict(zip(names, PRICES.values(), strict=True)) | {"Adj Close": [9.0, 9.0], "open": [1.0, 1.0]}
    )
    assert (bars.high.tolist(), bars.low.tolist(), bars.close.tolist()) == tuple(PRICES.values())
    assert len(bars) == 2


@pytest.mark.parametrize(
    "close", [[2, 3], [Decimal(2), Decimal(3)], pd.array([2, 3], dtype="Int64"), ["2", "3"]]
)
def test_prices_of_any_kind_of_number_are_read(close: Any) -> None:
    assert bars_of(PRICES | {"close": close}).close.tolist() == [2.0, 3.0]


@pytest.mark.parametrize("close", [[2.0, None], pd.array([2, None], dtype="Int64")])
def test_a_missing_price_is_nan(close: Any) -> None:
    assert np.isnan(bars_of(PRICES | {"close": close}).close).tolist() == [False, True]


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        ({"low": [1.0], "close": [2.0]}, "0 columns named 'high'"),
        ({"high": [1.0], "low": [1.0], "close": [2.0], "CLOSE": [3.0]}, "2 columns named 'close'"),
        ({"high": [1.0], "low": [1.0], "close": ["n/a"]}, "'close' does not hold numbers only"),
    ],
)
def test_a_price_column_that_cannot_be_used_is_refused_by_name(columns: dict[str, Any], found: str) -> None:
    with pytest.raises(BadArgumentError, match=found):
        bars_of(columns)


def test_times_come_from_the_index_before_a_column() -> None:
    index = pd.DatetimeIndex(["2024-01-01 09:00", "2024-01-02 09:00"], tz="America/New_York")
    bars = bars_of(PRICES | {"date": ["a", "b"]}, index)
    assert time_texts(bars.times) == ["2024-01-01T14:00:00+00:00", "2024-01-02T14:00:00+00:00"]


def test_a_column_of_instants_comes_before_a_column_of_texts() -> None:
    instants = pd.to_datetime(["2024-01-01", "2024-01-02"])
    bars = bars_of(PRICES | {"date": ["a", "b"], "Timestamp": instants})
    assert time_texts(bars.times) == ["2024-01-01T00:00:00+00:00", "2024-01-02T00:00:00+00:00"]


def test_texts_are_kept_as_they_were_given() -> None:
    assert time_texts(bars_of(PRICES | {"Date": ["2024-01-01", "2024-01-02"]}).times) == [
        "2024-01-01",
        "2024-01-02",
    ]


def test_bars_without_times_have_empty_ones() -> None:
    assert time_texts(bars_of(PRICES | {"ts": [1, 2]}).times) == ["", ""]
    assert time_texts(bars_of(PRICES, pd.DatetimeIndex(["2024-01-01", pd.NaT])).times)[1] == ""
