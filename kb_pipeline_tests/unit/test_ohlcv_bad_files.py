"""Every file of the golden list is read as it must be, or refused for the reason and at the place it names.

The list holds small files as text, or the name of a builder below for those that are large, special
or not files at all.
"""

import base64
import gzip
import json
import os
import pickle
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kb_pipeline import rules
from kb_pipeline.domain.ohlcv import OHLCV_SCHEMA
from kb_pipeline.errors import OhlcvFileError
from kb_pipeline.storage.ohlcv_files import read_ohlcv_file

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "bad_ohlcv.json").read_text(encoding="utf-8"))
CONTROL: str = GOLDEN["control"]
WRITTEN = [case for case in GOLDEN["cases"] if "generator" not in case]
BUILT = {case["generator"]: case for case in GOLDEN["cases"] if "generator" in case}

Case = dict[str, Any]


def write(case: Case, directory: Path) -> Path:
    content = base64.b64decode(case["content_b64"]) if "content_b64" in case else case["content"].encode()
    path = directory / f"{case['id']}{case['suffix']}"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("case", [case for case in WRITTEN if "bars" in case], ids=lambda case: case["title"])
def test_an_odd_but_sound_file_is_read(case: Case, tmp_path: Path) -> None:
    file = read_ohlcv_file(write(case, tmp_path), **case.get("options", {}))
    assert len(file.frame) == case["bars"]
    assert file.notices == case["notices"]
    OHLCV_SCHEMA.validate(file.frame, lazy=True)


@pytest.mark.parametrize(
    "case", [case for case in WRITTEN if "reason" in case], ids=lambda case: case["title"]
)
def test_a_bad_file_is_refused_for_its_reason_and_place(case: Case, tmp_path: Path) -> None:
    path = write(case, tmp_path)
    with pytest.raises(OhlcvFileError) as caught:
        read_ohlcv_file(path, **case.get("options", {}))
    message = str(caught.value)
    assert caught.value.reason == case["reason"], message
    place = f"{path}:{case['place']} " if "place" in case else f"{path}: "
    assert caught.value.failures[0].startswith(place), message
    assert all(name in message for name in case.get("names", [])), message


def test_the_list_covers_two_hundred_files_most_of_them_our_own() -> None:
    assert len(GOLDEN["cases"]) >= 200
    assert len({case["id"] for case in GOLDEN["cases"]}) == len(GOLDEN["cases"])
    assert len([case for case in WRITTEN if case["id"].startswith("B")]) >= 100


def test_the_control_file_is_read_without_a_notice(tmp_path: Path) -> None:
    path = tmp_path / "AAPL_1d.csv"
    path.write_text(CONTROL, encoding="utf-8")
    file = read_ohlcv_file(path, timeframe="1d")
    assert (len(file.frame), file.symbol, file.notices) == (3, "AAPL", {})


# --- Files that must be built ------------------------------------------------------------------


def refusal(path: str | Path, **options: Any) -> OhlcvFileError:
    with pytest.raises(OhlcvFileError) as caught:
        read_ohlcv_file(path, **options)
    return caught.value


def gzip_bomb(directory: Path) -> Path:
    path = directory / "bomb.csv.gz"
    header, row = CONTROL.encode().split(b"\n")[:2]
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(header + b"\n")
        for _ in range(500):
            file.write((row + b"\n") * (2**20 // (len(row) + 1)))
    return path


def plain_as_gz(directory: Path) -> Path:
    path = directory / "plain.csv.gz"
    path.write_text(CONTROL, encoding="utf-8")
    return path


def zip_two(directory: Path) -> Path:
    path = directory / "two.csv"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("good.csv", CONTROL)
        archive.writestr("../../evil.csv", CONTROL)
    return path


def long_field(directory: Path) -> Path:
    path = directory / "long.csv"
    path.write_text(CONTROL + "2024-01-04T00:00:00Z,1", encoding="utf-8")
    # The hole in the file is read as 200 MB of one field and takes no room on disk.
    os.truncate(path, 200 * 2**20)
    return path


def pickle_canary(directory: Path) -> Path:
    class Canary:
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
            return os.mkdir, (str(directory / "unpickled"),)

    path = directory / "canary.csv"
    path.write_bytes(pickle.dumps(Canary()))
    return path


def parquet_ext_pickle(directory: Path) -> Path:
    path = directory / "extension.parquet"
    extension = {
        b"ARROW:extension:name": b"arrow.py_extension_type",
        b"ARROW:extension:metadata": b"\x80\x04.",
    }
    columns = ("timestamp", "open", "high", "low", "close")
    schema = pa.schema([pa.field(name, pa.int64(), metadata=extension) for name in columns])
    pq.write_table(pa.table({name: [1_704_067_200] for name in columns}, schema=schema), path)
    return path


def json_digits(directory: Path) -> Path:
    path = directory / "digits.json"
    prices = f'"open":1,"high":{"9" * 5000},"low":1,"close":1'
    path.write_text(f'[{{"timestamp":"2024-01-01",{prices}}}]', encoding="utf-8")
    return path


def hourly_as_daily(directory: Path) -> Path:
    path = directory / "AAPL_1d.csv"
    rows = [f"2024-01-02T{hour:02}:00:00Z,1,2,0.5,1.5,100\n" for hour in range(14, 21)]
    path.write_text(CONTROL.split("\n")[0] + "\n" + "".join(rows), encoding="utf-8")
    return path


def two_symbols(directory: Path) -> Path:
    path = directory / "two.csv"
    header, first, second, _, _ = CONTROL.split("\n")
    path.write_text(f"{header},ticker\n{first},AAPL\n{second},MSFT\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("generator", "build", "options", "place"),
    [
        ("gzip_bomb:500MB", gzip_bomb, {}, ": "),
        ("plain_as_gz", plain_as_gz, {}, ": "),
        ("zip_two", zip_two, {}, ": "),
        ("long_field:200MB", long_field, {}, ": found line 5"),
        ("pickle_canary", pickle_canary, {}, ": "),
        ("parquet_ext_pickle", parquet_ext_pickle, {}, ": "),
        ("json_digits:5000", json_digits, {}, ":1:44 high: found '9999"),
        ("hourly_as_daily", hourly_as_daily, {"timeframe": "1d"}, ": found bars only 1h apart"),
        ("two_symbols", two_symbols, {}, ":3:7 ticker: found 'MSFT'"),
    ],
)
def test_a_built_file_is_refused(
    generator: str, build: Callable[[Path], Path], options: dict[str, Any], place: str, tmp_path: Path
) -> None:
    path = build(tmp_path)
    error = refusal(path, **options)
    assert error.reason == BUILT[generator]["reason"], str(error)
    assert error.failures[0].startswith(f"{path}{place}")
    assert len(str(error)) < 400
    assert not (tmp_path / "unpickled").exists()


def test_a_row_that_contradicts_itself_shows_the_cells_it_is_held_against(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text(
        "date,open,high,low,close\n2024-01-01,1,4.1,99999,1\n2024-01-02,9,3,1,2\n", encoding="utf-8"
    )
    assert refusal(path).failures == [
        f"{path}:2:3 high: found '4.1', needed a high not below the low (low '99999')",
        f"{path}:3:2 open: found '9', needed an open between low and high (low '1', high '3')",
    ]


def test_a_missing_column_is_named_with_each_other_name_it_may_have(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("2024-01-01,1,2,0.5,1.5\n", encoding="utf-8")
    wanted = "needed also time (or datetime, date, timestamp, ts), open (or o), high (or h), "
    assert wanted in str(refusal(path))


def test_a_record_a_line_in_a_json_file_is_told_its_own_name(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    record = '{"time": "2024-01-01", "open": 1, "high": 2, "low": 0.5, "close": 1.5}\n'
    path.write_text(record + record.replace("-01-01", "-01-02"), encoding="utf-8")
    error = refusal(path)
    assert (error.reason, str(error).count(f"{path}:2:1 ")) == ("json_syntax", 1)
    assert ".ndjson or .jsonl" in str(error)
    path = path.rename(tmp_path / "x.ndjson")
    assert len(read_ohlcv_file(path).frame) == 2


def test_what_cannot_be_a_price_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.csv"
    os.mkfifo(pipe)
    assert refusal("/dev/zero").reason == BUILT["/dev/zero"]["reason"]
    assert refusal(pipe).reason == "not_a_regular_file"
    assert refusal(tmp_path).reason == "not_a_regular_file"
    assert refusal("~/x.csv").reason == BUILT["path:~/x.csv"]["reason"]
    assert refusal("a\0b.csv").reason == "not_found"
    assert refusal("a" * 5000).reason == "not_found"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_without_read_permission_is_refused(tmp_path: Path) -> None:
    path = plain_as_gz(tmp_path)
    path.chmod(0)
    assert refusal(path).reason == BUILT["chmod000"]["reason"]


def test_a_path_that_leaves_the_data_root_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    (tmp_path / "outside.csv").write_text(CONTROL, encoding="utf-8")
    (root / "inside.csv").write_text(CONTROL, encoding="utf-8")
    (root / "link.csv").symlink_to("/etc/passwd")
    (root / "loop.csv").symlink_to("loop.csv")
    (root / "inner.csv").symlink_to("inside.csv")
    escapes = [root / "link.csv", root / ".." / "outside.csv", tmp_path / "outside.csv", Path("/dev/zero")]
    for path in escapes:
        error = refusal(path, data_root=root)
        assert error.reason == BUILT["symlink:/etc/passwd"]["reason"]
        assert "root:" not in str(error)
    assert refusal(root / "loop.csv", data_root=root).reason == "not_found"
    assert len(read_ohlcv_file(root / "inner.csv", data_root=root).frame) == 3


def replace_once_opened(path: Path, replacement: Path, give_up: threading.Event) -> None:
    own_files = Path("/proc/self/fd")
    while not give_up.is_set():
        for descriptor in own_files.iterdir():
            try:
                opened = descriptor.readlink()
            except OSError:
                continue
            if opened == path:
                replacement.replace(path)
                return


def test_a_file_that_is_replaced_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path, replacement = tmp_path / "swapped.csv", tmp_path / "new.csv"
    times = np.datetime_as_string(np.datetime64("2000-01-01", "m") + np.arange(1_000_000))
    path.write_text("timestamp,open,high,low,close\n" + "".join(f"{time},1,2,0.5,1.5\n" for time in times))
    replacement.write_text(CONTROL, encoding="utf-8")
    give_up = threading.Event()
    swap = threading.Thread(target=replace_once_opened, args=(path, replacement, give_up))
    swap.start()
    try:
        assert refusal(path).reason == BUILT["swap_during_read"]["reason"]
    finally:
        give_up.set()
        swap.join()
    assert len(read_ohlcv_file(path).frame) == 3


def test_the_first_twenty_failures_are_listed_and_the_rest_counted(tmp_path: Path) -> None:
    path = tmp_path / "many.csv"
    rows = [f"2024-01-{day:02},0,2,0.5,x\n" for day in range(1, 31)]
    path.write_text("timestamp,open,high,low,close\n" + "".join(rows), encoding="utf-8")
    error = refusal(path)
    # The zero open of a row whose close cannot be read is not looked at.
    assert (error.total, len(error.failures)) == (30, rules.MAX_FILE_ERRORS_LISTED)
    assert error.failures[19].startswith(f"{path}:21:5 close: found 'x'")
    assert str(error).endswith("... and 10 more (30 in all)")


def test_failures_of_every_kind_are_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "kinds.csv"
    rows = [
        "2024-01-01,1,2,0.5,1.5,9",
        "2024-01-02,1,2",
        "2024-01-03,nan,2,0.5,1.5,9",
        "2024-01-04,1,2,0.5,3,-1",
    ]
    rows += ["2024-01-01,1,2,0.5,1.6,9", "2024-13-01,1,2,0.5,1.5,9"]
    path.write_text(CONTROL.split("\n")[0] + "\n" + "\n".join(rows) + "\n", encoding="utf-8")
    places = [failure.removeprefix(f"{path}:").partition(" ")[0] for failure in refusal(path).failures]
    assert places == ["3:3", "4:2", "5:5", "5:6", "6:1", "7:1"]
