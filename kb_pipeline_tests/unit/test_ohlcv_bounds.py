"""No price file costs more than half a gigabyte or five seconds, whatever is in it.

They are read one after the other by a process of their own, whose peak is taken for each anew. Peak and
processor time are the kernel's own figures; what an earlier file left in memory counts as well.
"""

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

MOST_BYTES: Final = 512 << 20
MOST_SECONDS: Final = 5
HEADER: Final = "timestamp,open,high,low,close,volume\n"
ROW: Final = "2024-01-01T00:00:00Z,1,2,0.5,1.5,100\n"

_READ: Final = """
import re, sys, time
from pathlib import Path
from kb_pipeline.errors import OhlcvFileError
from kb_pipeline.storage.ohlcv_files import read_ohlcv_file

for line in sys.stdin:
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    begin = time.process_time()
    try:
        read_ohlcv_file(line.strip())
        said = "read"
    except OhlcvFileError as error:
        said = error.reason
        assert len(str(error)) < 10_000, len(str(error))
    seconds = time.process_time() - begin
    peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]
    print(said, peak, seconds, flush=True)
"""


class Cost(NamedTuple):
    """What reading a file came to."""

    said: str
    peak_bytes: int
    seconds: float


Reader = Callable[[Path], Cost]


@pytest.fixture(scope="module")
def cost_of() -> Iterator[Reader]:
    """Return what reads a file in the other process and tells what it cost."""
    with subprocess.Popen(
        [sys.executable, "-c", _READ], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as reader:
        assert reader.stdin
        assert reader.stdout
        to_reader, from_reader = reader.stdin, reader.stdout

        def read(path: Path) -> Cost:
            print(path, file=to_reader, flush=True)
            said, kilobytes, seconds = from_reader.readline().split()
            return Cost(said, int(kilobytes) << 10, float(seconds))

        yield read
        to_reader.close()


def gzip_bomb(directory: Path) -> Path:
    path = directory / "bomb.csv.gz"
    # A gzip file may be many in a row: 1 MB of rows is packed once and written 500 times.
    packed = gzip.compress(ROW.encode() * (2**20 // len(ROW)), compresslevel=1)
    path.write_bytes(gzip.compress(HEADER.encode()) + packed * 500)
    return path


def cell_of_200_mb(directory: Path) -> Path:
    path = directory / "cell.csv"
    path.write_text(HEADER + ROW + "2024-01-04T00:00:00Z,1", encoding="utf-8")
    # The hole in the file is read as one field of 200 MB and takes no room on disk.
    os.truncate(path, 200 << 20)
    return path


def text_of_200_mb_in_json(directory: Path) -> Path:
    path = directory / "cell.json"
    path.write_text('[{"timestamp":"2024-01-01","open":"', encoding="utf-8")
    os.truncate(path, 200 << 20)
    return path


def text_of_30_mb_in_json(directory: Path) -> Path:
    path = directory / "long.json"
    path.write_text('[{"timestamp":"2024-01-01","open":"' + "1" * (30 << 20) + '"}]', encoding="utf-8")
    return path


def columns_200_000(directory: Path) -> Path:
    path = directory / "wide.csv"
    names = ",".join(f"c{at}" for at in range(200_000))
    path.write_text(f"{HEADER.strip()},{names}\n{ROW.strip()}{',1' * 200_000}\n", encoding="utf-8")
    return path


def columns_200_000_in_json(directory: Path) -> Path:
    path = directory / "wide.json"
    record = {"timestamp": "2024-01-01", "open": 1, "high": 2, "low": 0.5, "close": 1.5}
    path.write_text(json.dumps([record | {f"c{at}": 1 for at in range(200_000)}]), encoding="utf-8")
    return path


def columns_200_000_in_parquet(directory: Path) -> Path:
    path = directory / "wide.parquet"
    names = ["timestamp", "open", "high", "low", "close", *(f"c{at}" for at in range(20_000))]
    pq.write_table(pa.table({name: pa.array([1], pa.int8()) for name in names}), path)
    return path


def integers_of_5_000_digits(directory: Path) -> Path:
    path = directory / "digits.json"
    record = f'{{"timestamp":"2024-01-01","open":1,"high":{"9" * 5_000},"low":1,"close":1}}'
    path.write_text(f"[{','.join([record] * 500)}]", encoding="utf-8")
    return path


def deep_json(directory: Path) -> Path:
    path = directory / "deep.json"
    path.write_text("[0," * 600_000, encoding="utf-8")
    return path


def deep_json_inside_a_record(directory: Path) -> Path:
    path = directory / "inside.json"
    path.write_text('[{"timestamp":' + '{"a":0,"b":' * 600_000, encoding="utf-8")
    return path


def values_without_end(directory: Path) -> Path:
    path = directory / "values.json"
    path.write_text('{"open":[' + "12," * 5_000_000 + "12]}", encoding="utf-8")
    return path


def as_many_records_as_are_read(directory: Path) -> Path:
    path = directory / "most.json"
    record = '{"timestamp":%d,"open":101.25,"high":102.75,"low":100.125,"close":101.5,"volume":10000}'
    path.write_text(f"[{','.join(record % (10**9 + at) for at in range(285_000))}]", encoding="utf-8")
    return path


def cut_wrong_in_every_line(directory: Path) -> Path:
    path = directory / "cut.csv"
    path.write_text(HEADER + "1,2,3\n" * 300_000, encoding="utf-8")
    return path


def conflicts_in_every_line(directory: Path) -> Path:
    path = directory / "conflicts.csv"
    rows = (f"2024-01-01T00:00:00Z,1,2,0.5,1.5,{at}\n" for at in range(150_000))
    path.write_text(HEADER + "".join(rows), encoding="utf-8")
    return path


def bad_in_every_cell(directory: Path) -> Path:
    path = directory / "bad.csv"
    path.write_text(HEADER + "x,x,x,x,x,x\n" * 100_000, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (gzip_bomb, "too_large"),
        (cell_of_200_mb, "line_too_long"),
        (text_of_200_mb_in_json, "too_large"),
        (text_of_30_mb_in_json, "line_too_long"),
        (columns_200_000, "line_too_long"),
        (columns_200_000_in_json, "too_many_columns"),
        (columns_200_000_in_parquet, "too_many_columns"),
        (integers_of_5_000_digits, "not_finite"),
        (deep_json, "json_shape"),
        (deep_json_inside_a_record, "json_shape"),
        (values_without_end, "too_large"),
        (as_many_records_as_are_read, "read"),
        (cut_wrong_in_every_line, "field_count"),
        (conflicts_in_every_line, "conflicting_duplicate"),
        (bad_in_every_cell, "not_a_timestamp"),
    ],
)
def test_no_file_costs_more_than_half_a_gigabyte_and_five_seconds(
    build: Callable[[Path], Path], said: str, tmp_path: Path, cost_of: Reader
) -> None:
    path = build(tmp_path)
    cost = cost_of(path)
    path.unlink()
    assert cost.said == said
    assert cost.peak_bytes <= MOST_BYTES, f"{cost.peak_bytes >> 20} MB"
    assert cost.seconds <= MOST_SECONDS
