"""What a reader of price files is told beside the bars: symbol, timeframe, notices, columns."""

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kb_pipeline import rules
from kb_pipeline.errors import BadArgumentError, OhlcvFileError
from kb_pipeline.storage import ohlcv_files, ohlcv_source
from kb_pipeline.storage.ohlcv_files import OhlcvFile, read_ohlcv_file

HEADER = "timestamp,open,high,low,close,volume\n"


def written(directory: Path, times: list[str], name: str = "x.csv") -> Path:
    path = directory / name
    path.write_text(HEADER + "".join(f"{time},1,2,0.5,1.5,100\n" for time in times), encoding="utf-8")
    return path


def refusal(path: Path, **options: str) -> OhlcvFileError:
    with pytest.raises(OhlcvFileError) as caught:
        read_ohlcv_file(path, **options)  # type: ignore[arg-type]
    return caught.value


@pytest.mark.parametrize(
    ("name", "symbol"),
    [
        ("AAPL.csv", "AAPL"),
        ("aapl_1d.csv", "AAPL"),
        ("BTC-USD_1h.csv", "BTC-USD"),
        ("BRK.B_1d.csv", "BRK.B"),
        ("^GSPC.csv", "^GSPC"),
        ("EURUSD=X_15m.csv", "EURUSD=X"),
        ("AAPL_daily.csv", None),
        ("my prices.csv", None),
        ("averyveryverylongname.csv", None),
        ("_1d.csv", None),
    ],
)
def test_the_name_of_a_file_says_its_symbol(name: str, symbol: str | None, tmp_path: Path) -> None:
    assert read_ohlcv_file(written(tmp_path, ["2024-01-02"], name)).symbol == symbol


def test_a_given_symbol_comes_before_a_column_and_a_column_before_the_name(tmp_path: Path) -> None:
    path = tmp_path / "AAPL_1d.csv"
    path.write_text("ticker," + HEADER + "msft,2024-01-02,1,2,0.5,1.5,9\n", encoding="utf-8")
    assert read_ohlcv_file(path).symbol == "MSFT"
    assert read_ohlcv_file(path, symbol="msft").symbol == "MSFT"
    assert refusal(path, symbol="AAPL").reason == "symbol_mismatch"
    assert read_ohlcv_file(written(tmp_path, ["2024-01-02"], "MSFT.csv"), symbol="aapl").symbol == "AAPL"


@pytest.mark.parametrize(
    ("times", "timeframe"),
    [
        # A night between two hours, and a weekend between days.
        (["2024-01-02T15:00", "2024-01-02T16:00", "2024-01-02T17:00", "2024-01-03T15:00"], "1h"),
        (["2024-01-04", "2024-01-05", "2024-01-08"], "1d"),
        # A half day stamped at its close, three hours early.
        (["2024-11-27T21:00", "2024-11-29T18:00", "2024-12-02T21:00"], "1d"),
        # Two bars a night apart may be hourly; one bar may be anything.
        (["2024-01-02T20:00", "2024-01-03T15:00"], "1h"),
        (["2024-01-02"], "1m"),
    ],
)
def test_bars_that_fit_their_timeframe_are_read(times: list[str], timeframe: str, tmp_path: Path) -> None:
    assert len(read_ohlcv_file(written(tmp_path, times), timeframe=timeframe).frame) == len(times)


@pytest.mark.parametrize(
    ("times", "timeframe"),
    [
        (["2024-01-02T15:00", "2024-01-02T16:00"], "1d"),
        (["2024-01-02T15:00", "2024-01-02T15:30"], "1h"),
        (["2024-01-02T15:00", "2024-01-02T17:00", "2024-01-02T19:00"], "1h"),
        (["2024-01-02", "2024-01-03", "2024-01-04"], "4h"),
        # One session with two bars among many with one.
        (["2024-01-02", "2024-01-03", "2024-01-03T09:00", "2024-01-04", "2024-01-05"], "1d"),
    ],
)
def test_bars_that_contradict_their_timeframe_are_refused(
    times: list[str], timeframe: str, tmp_path: Path
) -> None:
    error = refusal(written(tmp_path, times), timeframe=timeframe)
    assert error.reason == "timeframe_mismatch"
    assert f"needed bars of {timeframe}" in str(error)


@pytest.mark.parametrize(
    "options", [{"timeframe": "2h"}, {"timezone": "Mars/Phobos"}, {"timezone": "../etc/passwd"}]
)
def test_an_unknown_timeframe_or_zone_is_a_bad_argument(options: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(BadArgumentError, match="needed"):
        read_ohlcv_file(written(tmp_path, ["2024-01-02"]), **options)  # type: ignore[arg-type]


def test_naive_times_are_utc_or_in_the_zone_given(tmp_path: Path) -> None:
    path = written(tmp_path, ["2024-01-02T09:30", "2024-07-02T09:30"])
    assert [time.hour for time in read_ohlcv_file(path).frame.index] == [9, 9]
    # New York is five hours behind UTC in January and four in July.
    assert [time.hour for time in read_ohlcv_file(path, timezone="America/New_York").frame.index] == [14, 13]


def test_close_is_close_and_the_adjusted_one_stays_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("Date,Adj Close,Close,Low,High,Open\n2024-01-02,0.7,1.5,0.5,2,1\n", encoding="utf-8")
    frame = read_ohlcv_file(path).frame
    assert frame.columns.tolist() == ["open", "high", "low", "close", "adj_close"]
    assert frame.iloc[0].tolist() == [1.0, 2.0, 0.5, 1.5, 0.7]


@pytest.mark.parametrize("part_bytes", [80, 400, 10_000])
def test_a_file_is_read_alike_in_parts_of_any_size(
    part_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Lines become shorter: more rows come than the first part lets expect.
    times = [f"2024-01-{day:02}T{hour:02}:00:00Z" for day in range(1, 10) for hour in range(24)]
    lines = [f"{time},1,2,0.5,{1 + 1 / (at + 3):.{max(2, 17 - at)}f},9\n" for at, time in enumerate(times)]
    path = tmp_path / "AAPL_1h.csv"
    path.write_text("\ufeff" + HEADER + "".join(lines), encoding="utf-8")
    monkeypatch.setattr(ohlcv_files, "PART_BYTES", part_bytes)
    monkeypatch.delattr(ohlcv_files, "cut_by_line")
    file = read_ohlcv_file(path, timeframe="1h")
    assert [f"{time:%Y-%m-%dT%H:%M:%SZ}" for time in file.frame.index] == times
    assert file.frame["close"].tolist() == [float(line.split(",")[4]) for line in lines]
    assert file.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("bars_at_once", [1, 2, 3, 100])
def test_distances_are_counted_over_the_seams_of_parts(
    bars_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ohlcv_files, "_BARS_AT_ONCE", bars_at_once)
    times_ns = np.array([0, 60, 120, 420, 480, 3_600], dtype=np.int64) * 10**9
    assert ohlcv_files._step_uses(times_ns) == {60: 3, 300: 1, 3_120: 1}


def test_a_newest_first_file_is_turned_with_its_values(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text(
        HEADER + "2024-01-03,3,3,3,3,3\n2024-01-02,2,2,2,2,2\n2024-01-02,2,2,2,2,2.0\n", encoding="utf-8"
    )
    file = read_ohlcv_file(path)
    assert file.frame["close"].tolist() == [2.0, 3.0]
    assert file.notices == {"sorted_on_load": 1, "dropped_duplicates": 1}


def test_the_hash_is_that_of_the_bytes_on_disk(tmp_path: Path) -> None:
    plain = written(tmp_path, ["2024-01-02"])
    packed = tmp_path / "x.csv.gz"
    # Two members, as `cat a.gz b.gz` makes them, are one file.
    half = len(plain.read_bytes()) // 2
    packed.write_bytes(gzip.compress(plain.read_bytes()[:half]) + gzip.compress(plain.read_bytes()[half:]))
    for path in (plain, packed):
        assert read_ohlcv_file(path).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert len(read_ohlcv_file(path).frame) == 1


@pytest.mark.parametrize("cut", [1, 9, 20])
def test_a_gzip_file_that_was_cut_short_is_refused(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "x.csv.gz"
    path.write_bytes(gzip.compress((HEADER + "2024-01-02,1,2,0.5,1.5,9\n").encode())[:-cut])
    assert refusal(path).reason == "bad_compression"


def test_a_file_larger_than_allowed_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.touch()
    with path.open("r+b") as file:
        file.truncate(rules.MAX_OHLCV_FILE_BYTES + 1)
    assert refusal(path).reason == "too_large"


@pytest.mark.parametrize("before", [0, 100, ohlcv_source._CHUNK_BYTES])
def test_a_line_is_measured_wherever_it_stands(before: int, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    # Lines of 25 bytes, then one of exactly the longest length, then one a byte longer.
    lines = HEADER + "2024-01-02,1,2,0.5,1.5,9\n" * (before // 25)
    longest = "9" * rules.MAX_OHLCV_LINE_BYTES
    path.write_text(f"{lines}{longest}\n2024-01-02,1,2,0.5,1.5,9\n", encoding="utf-8")
    assert refusal(path).reason == "field_count"
    path.write_text(f"{lines}{longest}9\n2024-01-02,1,2,0.5,1.5,9\n", encoding="utf-8")
    error = refusal(path)
    assert error.reason == "line_too_long"
    assert f"line {lines.count(chr(10)) + 1} " in str(error)


def test_a_message_shows_no_control_characters_and_no_long_values(tmp_path: Path) -> None:
    path = tmp_path / "x\x1b[2J.csv"
    path.write_text(HEADER + f"2024-01-02,{'A' * 5000},2,0.5,1.5,9\n", encoding="utf-8")
    message = str(refusal(path))
    assert message.isprintable()
    assert len(message) < 300


# --- Parquet -----------------------------------------------------------------------------------


def stored(directory: Path, **changes: pa.Array) -> Path:
    prices = {"open": [1.0], "high": [2.0], "low": [0.5], "close": [1.5]}
    times = pa.array([pd.Timestamp("2024-01-02")], pa.timestamp("ms"))
    columns = {"Date": times, **{name: pa.array(values) for name, values in prices.items()}, **changes}
    path = directory / "x.parquet"
    pq.write_table(pa.table(columns), path)
    return path


@pytest.mark.parametrize(
    "times",
    [
        pa.array([19_724], pa.date32()),
        pa.array([1_704_153_600_000], pa.timestamp("ms")),
        pa.array([1_704_153_600_000_000_000], pa.timestamp("ns", "America/New_York")),
        pa.array([1_704_153_600]),
        pa.array(["2024-01-02"]),
        pa.array(["2024-01-02"]).dictionary_encode(),
    ],
)
def test_times_of_every_plain_type_are_read(times: pa.Array, tmp_path: Path) -> None:
    assert read_ohlcv_file(stored(tmp_path, Date=times)).frame.index.tolist() == [
        pd.Timestamp("2024-01-02", tz="UTC")
    ]


def test_a_frame_is_read_as_pandas_stores_it_with_an_index_of_times_or_another(tmp_path: Path) -> None:
    times = pd.date_range("2024-01-02", periods=3, tz="UTC")
    prices = pd.DataFrame({"open": 1.0, "high": 2.0, "low": 0.5, "close": 1.5}, index=times)
    prices.to_parquet(tmp_path / "index.parquet")
    prices.reset_index(names="date").iloc[::2].to_parquet(
        tmp_path / "rows.parquet"
    )  # an index of whole numbers
    prices.reset_index(drop=True).iloc[::2].to_parquet(tmp_path / "timeless.parquet")
    assert list(read_ohlcv_file(tmp_path / "index.parquet").frame.index) == list(times)
    assert list(read_ohlcv_file(tmp_path / "rows.parquet").frame.index) == list(times[::2])
    with pytest.raises(OhlcvFileError, match="needed also time"):
        read_ohlcv_file(tmp_path / "timeless.parquet")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"close": pa.array([None], pa.float64())}, "not_a_number"),
        ({"close": pa.array([float("nan")])}, "not_a_number"),
        ({"close": pa.array([float("inf")])}, "not_finite"),
        ({"close": pa.array([True])}, "not_a_number"),
        ({"close": pa.array([b"1,5"], pa.binary())}, "not_a_number"),
        ({"close": pa.array([b"\xff"], pa.binary())}, "binary_file"),
        ({"Date": pa.array([None], pa.timestamp("ms"))}, "not_a_timestamp"),
        ({"Date": pa.array([1_704_153_600.5])}, "not_a_timestamp"),
        ({"Date": pa.array([2**34], pa.timestamp("s"))}, "timestamp_out_of_range"),
        ({"Date": pa.array([2**62], pa.timestamp("us"))}, "not_a_timestamp"),
        ({"close": pa.array([[1.5]])}, "binary_file"),
        ({"note": pa.array([{"a": 1}])}, "binary_file"),
    ],
)
def test_a_bad_parquet_cell_is_refused_by_row(
    changes: dict[str, pa.Array], reason: str, tmp_path: Path
) -> None:
    path = stored(tmp_path, **changes)
    error = refusal(path)
    assert error.reason == reason, str(error)
    assert reason == "binary_file" or str(error).startswith(f"{path}: row 1, column ")


def test_numbers_of_every_plain_type_are_read(tmp_path: Path) -> None:
    halves = pa.array([1.5], pa.float32())
    decimals = pa.array(["1.5"]).cast(pa.decimal128(9, 2))
    changes = {"open": halves, "close": decimals, "volume": pa.array([2**53 + 1], pa.int64())}
    file: OhlcvFile = read_ohlcv_file(stored(tmp_path, **changes))
    assert file.frame[["open", "close"]].iloc[0].tolist() == [1.5, 1.5]
    assert file.notices == {"rounded_to_float64": 1}


def test_a_parquet_file_that_unpacks_to_too_much_is_refused(tmp_path: Path) -> None:
    # Runs of one value: 40 million rows in a few kilobytes, more than a gigabyte unpacked.
    rows = 40_000_000
    ones = pa.RunEndEncodedArray.from_arrays(pa.array([rows], pa.int32()), pa.array([1], pa.int8()))
    column = pa.compute.run_end_decode(ones)
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table(dict.fromkeys(["ts", "open", "high", "low", "close"], column)), path)
    assert path.stat().st_size < 2**20
    assert refusal(path).reason == "too_large"
