"""Open a price file safely, and hold its bytes or pass its lines on.

Holds every check that comes before a parser sees anything: what the path is, where it leads, how
large it grows, what kind of bytes it holds, and that nobody replaced it meanwhile. What the bytes
mean is the work of `ohlcv_csv`, `ohlcv_json` and `ohlcv_parquet`.
"""

import errno
import gzip
import hashlib
import io
import os
import stat
import zlib
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from typing_extensions import Buffer

from kb_pipeline import rules
from kb_pipeline.errors import OhlcvFileError
from kb_pipeline.storage.ohlcv_failures import Refusal, refuse, shown

_FORMATS: Final = {
    ".csv": "csv",
    ".txt": "csv",
    ".json": "json",
    ".ndjson": "ndjson",
    ".jsonl": "ndjson",
    ".parquet": "parquet",
}

_CHUNK_BYTES: Final = 1 << 20
"""Between two looks at whether it is too much."""

_MOST_GROWTH_BYTES: Final = 32 << 20

_GZIP_MAGIC: Final = b"\x1f\x8b"
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"

_PACKED: Final = {
    b"PK": "a zip archive",
    _GZIP_MAGIC: "gzip data",
    b"BZh": "bzip2 data",
    b"\xfd7zXZ": "xz data",
    b"\x28\xb5\x2f\xfd": "zstandard data",
    b"7z\xbc\xaf": "a 7z archive",
}
_BINARY: Final = {
    b"PAR1": "Parquet data",
    b"ARROW1": "Arrow data",
    b"SQLite format 3\0": "an SQLite database",
    b"\x89HDF": "an HDF5 file",
    b"\xd0\xcf\x11\xe0": "an Excel workbook",
    b"%PDF": "a PDF",
    **{bytes([0x80, protocol]): "Python pickle data, which is never loaded" for protocol in range(2, 6)},
}
"""First bytes of files that are often given for text, and what to call them."""


class Source(NamedTuple):
    """The unpacked bytes of a price file. `sha256` gives that of the bytes on disk, once it is computed."""

    path: Path
    format: str
    data: bytes | bytearray
    sha256: Callable[[], str]


class _HashingReader(io.RawIOBase):
    """Reads a file and hashes what passes."""

    def __init__(self, file: io.FileIO) -> None:
        self._file = file
        self.hash = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer, /) -> int:
        count = self._file.readinto(buffer)
        self.hash.update(memoryview(buffer)[:count])
        return count


class _Opened(NamedTuple):
    """A file whose kind and size are such as may be read."""

    path: Path
    file: io.FileIO
    format: str
    is_gzip: bool
    size: int


def read_source(path: str | Path, data_root: Path | None) -> Source:
    """Return the bytes of a price file, unpacked.

    Args:
        path: Taken as it stands; `~` is not expanded.
        data_root: The file must lie under this directory once all links are followed.

    Raises:
        OhlcvFileError: The file may not be read, or holds what no price file holds.
    """
    with _os_errors_as_refusals(path):
        with _opened(path, data_root) as opened:
            data, sha256 = _read(opened)
        return Source(opened.path, opened.format, _text(opened, data), sha256)


def read_lines(
    path: str | Path, data_root: Path | None, part_bytes: int, hashed: Callable[[bytes], object]
) -> Generator[bytes]:
    """Yield the lines of a text file that is not packed, many at a time.

    For a first look, of which no text is kept. A part without a line end at its end holds a line that is
    too long or cut short.

    Args:
        path: As of `read_source`.
        data_root: As of `read_source`.
        part_bytes: So much is read at a time, more than the longest line.
        hashed: Is called with all bytes of the file, as they are read.

    Raises:
        OhlcvFileError: As `read_source`, which alone knows in what line.
    """
    with _os_errors_as_refusals(path), _opened(path, data_root) as opened:
        rest = b""
        for number, chunk in enumerate(iter(partial(opened.file.read, part_bytes), b"")):
            hashed(chunk)
            _refuse_size(opened.path, opened.file.tell(), rules.MAX_OHLCV_FILE_BYTES)
            end = chunk.rfind(b"\n") + 1
            lines = b"".join((rest, memoryview(chunk)[: end or None]))
            rest = chunk[end:] if end else b""
            _last_part_start(opened.path, lines, 0, len(lines), b"\n")
            if number:
                _refuse_encoding(opened.path, lines)
            yield lines if number else bytes(_text(opened, lines))
        if rest:
            yield rest


@contextmanager
def _os_errors_as_refusals(path: str | Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _os_refusal(path, error) from None
    except (ValueError, RuntimeError):
        # A NUL in the path, and a chain of links that closes on itself.
        raise refuse(
            path, Refusal.NOT_FOUND, "found a path that names no file, needed a price file"
        ) from None


@contextmanager
def _opened(path: str | Path, data_root: Path | None) -> Iterator[_Opened]:
    """Open a file for what is read meanwhile, and refuse it where it changed."""
    named = Path(path)
    real = named if data_root is None else _inside(named, data_root)
    with _open_regular(named, real, follow_links=data_root is None) as file:
        form, is_gzip = _format(named)
        before = os.fstat(file.fileno())
        _refuse_size(named, before.st_size, _limits(form, is_gzip=is_gzip).size)
        yield _Opened(named, file, form, is_gzip, before.st_size)
        _refuse_change(named, before, os.fstat(file.fileno()), real)


def _inside(path: Path, data_root: Path) -> Path:
    resolved = path.resolve()
    if not resolved.is_relative_to(data_root.resolve()):
        raise refuse(
            path,
            Refusal.OUTSIDE_DATA_ROOT,
            f"found a path that leaves the data root {data_root}. Put the file itself under it",
        )
    return resolved


def _open_regular(named: Path, opened: Path, *, follow_links: bool) -> io.FileIO:
    # Without O_NONBLOCK, opening a pipe that nobody writes to would wait for ever.
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY | (0 if follow_links else os.O_NOFOLLOW)
    file = io.FileIO(os.open(opened, flags))
    mode = os.fstat(file.fileno()).st_mode
    if stat.S_ISREG(mode):
        return file
    file.close()
    raise refuse(named, Refusal.NOT_A_REGULAR_FILE, "found a device, pipe or socket, needed a regular file")


def _os_refusal(path: object, error: OSError) -> OhlcvFileError:
    if error.errno in (errno.EACCES, errno.EPERM):
        return refuse(path, Refusal.PERMISSION, "found a file this user may not read. Grant read permission")
    if error.errno == errno.EISDIR:
        return refuse(path, Refusal.NOT_A_REGULAR_FILE, "found a directory, needed a regular file")
    if error.errno in (errno.ENXIO, errno.ENODEV):
        return refuse(
            path, Refusal.NOT_A_REGULAR_FILE, "found a device, pipe or socket, needed a regular file"
        )
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP):
        return refuse(
            path, Refusal.NOT_FOUND, "found no file of this name. Check the path; ~ is not expanded"
        )
    return refuse(path, Refusal.UNREADABLE, f"could not be read: {error.strerror}")


def _read(opened: _Opened) -> tuple[bytearray, Callable[[], str]]:
    limits = _limits(opened.format, is_gzip=opened.is_gzip)
    if opened.is_gzip:
        reader = _HashingReader(opened.file)
        return _unpacked(opened.path, reader, opened.size, limits), reader.hash.hexdigest
    data = _all_bytes(opened.path, opened.file, opened.size, limits)
    return data, _hashed_beside(data)


def _text(opened: _Opened, data: bytes | bytearray) -> bytes | bytearray:
    """Return bytes without a mark of their order, and refuse what is no text where text is needed."""
    path, form = opened.path, opened.format
    if form != "parquet":
        _refuse_binary(path, data, _PACKED, Refusal.BAD_COMPRESSION)
        _refuse_binary(path, data, _BINARY, Refusal.BINARY_FILE)
        _refuse_encoding(path, data)
        if form in ("json", "ndjson"):
            _refuse_many_values(path, data)
        if data.startswith(_BYTE_ORDER_MARK):
            data = data[len(_BYTE_ORDER_MARK) :]
    if not data or data.isspace():
        raise refuse(path, Refusal.EMPTY_FILE, f"found {opened.size} bytes and no text, needed price bars")
    return data


def _hashed_beside(data: bytearray) -> Callable[[], str]:
    """Start to hash in a thread of its own, and return what waits for the answer."""
    with_own_thread = ThreadPoolExecutor(max_workers=1)
    answer = with_own_thread.submit(lambda: hashlib.sha256(data).hexdigest())
    with_own_thread.shutdown(wait=False)
    return answer.result


def _format(path: Path) -> tuple[str, bool]:
    name = path.name.lower()
    is_gzip = name.endswith(".gz")
    suffix = Path(name.removesuffix(".gz")).suffix
    form = _FORMATS.get(suffix)
    if suffix == ".zip":
        raise refuse(
            path, Refusal.BAD_COMPRESSION, "found a zip archive. Unpack it, or compress the file with gzip"
        )
    if form is None or (is_gzip and form == "parquet"):
        raise refuse(
            path,
            Refusal.UNKNOWN_FORMAT,
            f"found the suffix {shown(path.suffix)}, needed .parquet or "
            ".csv, .txt, .json, .ndjson, .jsonl, each of which may end in .gz",
        )
    return form, is_gzip


class _Limits(NamedTuple):
    """Most bytes of a file, and what must come again and again within MAX_OHLCV_LINE_BYTES."""

    size: int
    separator: bytes | None


def _limits(form: str, *, is_gzip: bool) -> _Limits:
    if form in ("json", "ndjson"):
        return _Limits(rules.MAX_OHLCV_JSON_BYTES, b"," if form == "json" else b"\n")
    size = rules.MAX_OHLCV_UNPACKED_BYTES if is_gzip else rules.MAX_OHLCV_FILE_BYTES
    return _Limits(size, b"\n" if form == "csv" else None)


def _refuse_size(path: Path, size: int, limit: int) -> None:
    if size > limit:
        raise refuse(
            path, Refusal.TOO_LARGE, f"found more than {limit:,} bytes, the most that is read. Split the file"
        )


def _all_bytes(path: Path, reader: io.RawIOBase | gzip.GzipFile, size: int, limits: _Limits) -> bytearray:
    """Return everything the reader gives, stopping at the first sign that it is too much.

    The room is made at once for the size that is expected: growing it chunk by chunk took longer than
    reading. Where a reader gives more than expected, it doubles, by a bounded step.
    """
    data = bytearray(size + 1)
    end = start = 0
    while True:
        # Both views are given up by name: a profiler that looks at this frame (a Dask worker has one) may
        # keep what is only dropped, and memory that is looked at cannot change its size.
        with memoryview(data) as room, room[end : end + _CHUNK_BYTES] as part:
            count = reader.readinto(part)
        if not count:
            break
        end += count
        _refuse_size(path, end, limits.size)
        if limits.separator:
            start = _last_part_start(path, data, start, end, limits.separator)
        if end == len(data):
            data += bytes(min(end, _MOST_GROWTH_BYTES))
    del data[end:]
    return data


def _last_part_start(path: Path, data: bytes | bytearray, start: int, end: int, separator: bytes) -> int:
    """Return where a line begins that is not longer than allowed so far, from one that begins at start.

    Of JSON it is a value; its lines may be of any length.
    """
    longest = rules.MAX_OHLCV_LINE_BYTES
    while end - start > longest:
        last = data.rfind(separator, start, start + longest + 1)
        if last < 0:
            line = data.count(b"\n", 0, start) + 1
            what = f"line {line}" if separator == b"\n" else f"a value in line {line}"
            text = f"found {what} longer than {longest:,} bytes, the most that is read. Remove it"
            raise refuse(path, Refusal.LINE_TOO_LONG, text)
        start = last + 1
    return start


def _unpacked(path: Path, reader: _HashingReader, size: int, limits: _Limits) -> bytearray:
    try:
        with closing(gzip.GzipFile(fileobj=reader, mode="rb")) as unpacked:
            return _all_bytes(path, unpacked, size, limits)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise refuse(
            path,
            Refusal.BAD_COMPRESSION,
            f"found bytes that are not a whole gzip file ({error}). Compress it again",
        ) from None


def _refuse_change(path: Path, before: os.stat_result, after: os.stat_result, opened: Path) -> None:
    identities = {
        (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        for status in (before, after, os.stat(opened))  # noqa: PTH116 - one call, next to fstat
    }
    if len(identities) > 1:
        raise refuse(
            path,
            Refusal.CHANGED_WHILE_READING,
            "changed while it was read. Run again when its writer is done",
        )


def _refuse_binary(path: Path, data: bytes | bytearray, kinds: dict[bytes, str], reason: Refusal) -> None:
    for magic, kind in kinds.items():
        if data.startswith(magic):
            raise refuse(
                path, reason, f"found {kind}, needed the plain text its name promises. Export it as text"
            )


def _refuse_many_values(path: Path, data: bytes | bytearray) -> None:
    most = rules.MAX_OHLCV_JSON_VALUES
    if sum(data.count(sign) for sign in (b",", b"{", b"[")) > most:
        text = f"found more than {most:,} values, the most that is read of JSON. Export it as CSV or Parquet"
        raise refuse(path, Refusal.TOO_LARGE, text)


def _refuse_encoding(path: Path, data: bytes | bytearray) -> None:
    if data.isascii():
        return
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        found = f"found the byte 0x{data[error.start]:02x} at byte offset {error.start} (line {line})"
        raise refuse(path, Refusal.ENCODING, f"{found}, needed UTF-8. Save the file as UTF-8") from None
