"""What holds for any file: one clear answer, and the same one whichever way it is read."""

import json
import math
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from kb_pipeline.domain.ohlcv import OHLCV_SCHEMA, bar_times_ns
from kb_pipeline.errors import OhlcvFileError
from kb_pipeline.storage import ohlcv_csv
from kb_pipeline.storage.ohlcv_cells import BadCell, read_numbers, read_times
from kb_pipeline.storage.ohlcv_files import OhlcvFile, bars_from_source, read_ohlcv_file
from kb_pipeline.storage.ohlcv_source import Source
from kb_pipeline.storage.ohlcv_table import Bars

HEADER = "timestamp,open,high,low,close,volume"
WIDE_HEADER = f"{HEADER},ticker,note"
ROWS = ["2024-01-01T00:00:00Z,1,2,0.5,1.5,100", "2024-01-02T00:00:00Z,1.5,2.5,1,2,110"]
NEW_YORK = ZoneInfo("America/New_York")

ODD_NUMBERS = r"""
1 1.5 +1.5 .5 1. 2e0 1111111111111111111111111 0.1000000000000000055 0 -1 1e400 1e-400 nan inf -Infinity
0x10 1_0 1,5 "1,5" "1" true \u0661 \u22121
"""
ODD_TIMES = """
2024-01-01 2024-01-02 2024-01-01T00:00:00Z 2024-01-01T02:00+02:00 2024-01-01T05 1704067200 1704067200000
0x12345678 2024-03-10T02:30 2024-11-03T01:30 2024-02-30 9999-01-01Z 1900-01-01 2200-12-31 2263-01-01T00:00Z
0000-01-01 2024-01-01T00:00:60Z 2024-01-01T00:00:00.000000001 2024-01-01t00:00z 2024-01-01T00:00+24:00
"""
decoded_numbers = ODD_NUMBERS.encode().decode("unicode_escape").split()
numbers = st.sampled_from([*decoded_numbers, "", " 1 ", "1\t", "\xa01"])
times = st.sampled_from([*ODD_TIMES.split(), "", " 2024-01-03", "2024-01-01 02:00"])
tickers = st.sampled_from(["A", "A", '"A"', " a", "B"])
notes = st.sampled_from(["", "x", '"x"', '"x', '"a,b"', "é", "\x1b", "\r"])
rows_of_a_file = st.lists(st.tuples(times, *[numbers] * 5, tickers, notes), min_size=1, max_size=6)
sound_rows = st.lists(
    st.tuples(times, *[st.sampled_from(["1", " 1", "1.0", "+1", "1e0", '"1"'])] * 5, tickers, notes),
    min_size=1,
    max_size=4,
)
plain_times = st.sampled_from([f"2024-01-{day:02}" for day in range(1, 9)])
plain_prices = st.sampled_from(["1.5", "2", "1.75e0", "+2.5", "1.6666666666666667", "2." + "1" * 30])
plain_rows = st.lists(
    st.tuples(
        plain_times,
        plain_prices,
        st.just("3"),
        st.just("1"),
        plain_prices,
        plain_prices,
        st.just("A"),
        st.just("é"),
    ),
    min_size=1,
    max_size=8,
    unique_by=lambda row: row[0],
)


def outcome(data: bytes, zone: ZoneInfo | None, *, exact: bool) -> Bars | str:
    try:
        return bars_from_source(Source(Path("x.csv"), "csv", data, str), zone, exact=exact)
    except OhlcvFileError as error:
        return f"{error.reason} {error.total} {error}"


def assert_same(left: Bars | str, right: Bars | str) -> None:
    if isinstance(left, str) or isinstance(right, str):
        assert left == right
    else:
        pd.testing.assert_frame_equal(left.frame, right.frame, check_exact=True)
        assert left[1:] == right[1:]


@given(
    rows_of_a_file | sound_rows | plain_rows,
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from([None, NEW_YORK]),
    st.sampled_from([1, 100, ohlcv_csv.PART_BYTES]),
)
@example([("2024-01-01T00:00:00Z", "1" * 25, "2" * 25, "1", "1" * 25, "0", "A", "")], "\n", None, 1)
@example([("2024-01-01", *"1211", "0", "A", ""), ("2024-01-02T00Z", *"1211", "0", "A", "")], "\n", None, 1)
@example([("2024-01-01", *"1211", "0", "A", ""), ("2024-01-02", *"1211", "0", "B", "")], "\n", None, 1)
@example([("2024-01-01", "1\t", *"211", "0", "A", "")], "\n", None, 100)
@settings(max_examples=300, deadline=None)
def test_both_ways_of_reading_agree(
    rows: list[tuple[str, ...]], end: str, zone: ZoneInfo | None, part_bytes: int
) -> None:
    # With parts of one byte every line is a part of its own.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ohlcv_csv, "PART_BYTES", part_bytes)
        assert_both_ways_agree(rows, end, zone)


def assert_both_ways_agree(rows: list[tuple[str, ...]], end: str, zone: ZoneInfo | None) -> None:
    data = "".join(line + end for line in [WIDE_HEADER, *(",".join(row) for row in rows)]).encode()
    assert_same(outcome(data, zone, exact=False), outcome(data, zone, exact=True))


@given(st.data())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_sound_bars_or_one_clear_error(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray("\n".join([HEADER, *ROWS, ""]).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content)))
        content[at : at + data.draw(st.integers(0, 3))] = data.draw(
            st.binary(max_size=4) | st.sampled_from([b'"', b",", b"\n"])
        )
    assert_sound_or_refused(tmp_path / "any.csv", bytes(content))


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3),
    ),
    st.sampled_from([".json", ".ndjson"]),
)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_json_value_is_sound_or_one_clear_error(tmp_path: Path, value: object, suffix: str) -> None:
    record = {"timestamp": "2024-01-01", "open": 1, "high": 2, "low": 0.5, "close": value}
    for document in (
        record,
        [record],
        value,
        [value, record],
        {"close": value},
        {name: [cell] for name, cell in record.items()},
    ):
        assert_sound_or_refused(tmp_path / f"any{suffix}", json.dumps(document).encode())


def assert_sound_or_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    read = read_or_refusal(path)
    if isinstance(read, OhlcvFileError):
        assert read.total >= len(read.failures) >= 1
        assert all(failure.startswith(str(path)) and failure.isprintable() for failure in read.failures)
    else:
        OHLCV_SCHEMA.validate(read.frame, lazy=True)
        assert np.isfinite(read.frame.to_numpy()).all()
        assert len(read.frame)


def read_or_refusal(path: Path) -> OhlcvFile | OhlcvFileError:
    try:
        return read_ohlcv_file(path)
    except OhlcvFileError as error:
        return error


def texts(values: list[str]) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(values, pa.string())])


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=20), st.booleans())
@settings(max_examples=200, deadline=None)
def test_every_float_is_read_as_itself(values: list[float], exact: bool) -> None:
    # 55 digits name a float exactly; the nearest float to them is the float itself.
    assert read_numbers(texts([repr(value) for value in values]), exact=exact).values.tolist() == values
    assert read_numbers(texts([f"{value:.55e}" for value in values]), exact=exact).values.tolist() == values


@given(st.text(max_size=8) | st.from_regex(r"[0-9.,eE+-]{1,9}", fullmatch=True))
@settings(max_examples=300, deadline=None)
def test_both_ways_of_reading_a_number_agree(text: str) -> None:
    at_once, by_cell = read_numbers(texts([text])), read_numbers(texts([text]), exact=True)
    assert at_once[1:] == by_cell[1:]
    assert at_once.values.tobytes() == by_cell.values.tobytes() or math.isnan(by_cell.values[0])


offsets = st.integers(-23 * 60 - 59, 23 * 60 + 59).map(lambda minutes: timezone(timedelta(minutes=minutes)))
instants = st.datetimes(datetime(1900, 1, 3), datetime(2200, 12, 29), timezones=offsets)  # noqa: DTZ001


@given(st.lists(instants, min_size=1, max_size=10), st.booleans())
@settings(max_examples=200, deadline=None)
def test_an_iso_time_with_an_offset_is_its_instant(moments: list[datetime], exact: bool) -> None:
    read = read_times(texts([moment.isoformat() for moment in moments]), None, exact=exact)
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    assert read.values.tolist() == [
        (moment - epoch) // timedelta(microseconds=1) * 1000 for moment in moments
    ]


CLOCK = r"[T t][0-2][0-9](:[0-6][0-9](:[0-6][0-9](\.[0-9]{1,10})?)?)?"
ZONE = r"Z|z|[+-][0-9]{2}(:?[0-9]{2})?"


@given(st.from_regex(rf"20(24|99)-[0-3][0-9]-[0-3][0-9]({CLOCK})?({ZONE})?", fullmatch=True))
@settings(max_examples=300, deadline=None)
def test_both_ways_of_reading_a_time_agree(text: str) -> None:
    at_once, by_cell = read_times(texts([text]), NEW_YORK), read_times(texts([text]), NEW_YORK, exact=True)
    assert (at_once.values.tolist(), at_once.bad) == (by_cell.values.tolist(), by_cell.bad)


@pytest.mark.parametrize("exact", [False, True])
def test_local_times_are_read_in_their_zone_and_impossible_ones_refused(exact: bool) -> None:
    local = texts(["2024-03-10T01:30", "2024-03-10T02:30", "2024-03-10T03:30", "2024-11-03T01:30"])
    read = read_times(local, NEW_YORK, exact=exact)
    # New York is UTC-5 before and UTC-4 after 2 o'clock of 10 March 2024.
    assert read.values[[0, 2]].tolist() == [1_710_052_200 * 10**9, 1_710_055_800 * 10**9]
    assert [(cell.row, cell.reason) for cell in read.bad] == [(1, "nonexistent_time"), (3, "ambiguous_time")]
    assert isinstance(read.bad[0], BadCell)


def test_the_same_bars_come_out_of_every_format(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "timestamp": pd.date_range("2024-01-01", periods=4, freq="D", tz="UTC", unit="ns"),
            "open": [1.1, 2.0, 0.1 + 0.2, 1e-7],
            "high": [9.0, 9.0, 9.0, 9.0],
            "low": [1.0, 1.0, 0.1, 1e-8],
            "close": [2.0, 3.0, 4.0, 5.0],
            "volume": [0.0, 1.0, 2.0, 3.0],
        }
    )
    texts_of_times = frame.assign(timestamp=frame["timestamp"].dt.strftime("%Y-%m-%dT%H:%M:%SZ"))
    frame.to_parquet(tmp_path / "bars.parquet", index=False)
    texts_of_times.to_csv(tmp_path / "bars.csv", index=False)
    texts_of_times.to_csv(tmp_path / "bars.csv.gz", index=False)
    records = [json.dumps(record) for record in texts_of_times.to_dict("records")]
    (tmp_path / "bars.json").write_text(f"[{','.join(records)}]", encoding="utf-8")
    (tmp_path / "bars.ndjson").write_text("\n".join(records), encoding="utf-8")
    read = [read_ohlcv_file(path) for path in sorted(tmp_path.iterdir())]
    assert len(read) == 5
    for file in read:
        assert bar_times_ns(file.frame).tolist() == bar_times_ns(read[0].frame).tolist()
        pd.testing.assert_frame_equal(file.frame, read[0].frame, check_exact=True)
