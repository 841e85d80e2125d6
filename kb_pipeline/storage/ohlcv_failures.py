"""Word what is wrong with a price file, and where.

Holds the names of the rules and the form of the messages. Finding the failures is the work of the
modules that read.
"""

from enum import StrEnum
from typing import Final, NamedTuple

from kb_pipeline import rules
from kb_pipeline.errors import OhlcvFileError

SHOWN_VALUE_CHARACTERS: Final = 40
"""A longer value is cut: the reader has its place and can look."""


class Refusal(StrEnum):
    """The rule a price file breaks. The first one found is the error's `reason`."""

    # the path
    NOT_FOUND = "not_found"
    OUTSIDE_DATA_ROOT = "outside_data_root"
    NOT_A_REGULAR_FILE = "not_a_regular_file"
    PERMISSION = "permission"
    UNREADABLE = "unreadable"
    UNKNOWN_FORMAT = "unknown_format"
    # the bytes
    EMPTY_FILE = "empty_file"
    TOO_LARGE = "too_large"
    LINE_TOO_LONG = "line_too_long"
    BAD_COMPRESSION = "bad_compression"
    BINARY_FILE = "binary_file"
    ENCODING = "encoding"
    CHANGED_WHILE_READING = "changed_while_reading"
    # the form
    CONTROL_CHARACTER = "control_character"
    QUOTING = "quoting"
    DELIMITER = "delimiter"
    FIELD_COUNT = "field_count"
    UNTERMINATED_LAST_LINE = "unterminated_last_line"
    JSON_SYNTAX = "json_syntax"
    JSON_SHAPE = "json_shape"
    # the columns
    TOO_MANY_COLUMNS = "too_many_columns"
    MISSING_COLUMNS = "missing_columns"
    DUPLICATE_COLUMNS = "duplicate_columns"
    NO_BARS = "no_bars"
    # the values; those of domain.ohlcv are the rest
    NOT_A_NUMBER = "not_a_number"
    NOT_FINITE = "not_finite"
    NOT_A_TIMESTAMP = "not_a_timestamp"
    TIMESTAMP_OUT_OF_RANGE = "timestamp_out_of_range"
    MIXED_ZONES = "mixed_zones"
    MIXED_EPOCH_UNITS = "mixed_epoch_units"
    MIXED_TIME_FORMS = "mixed_time_forms"
    AMBIGUOUS_TIME = "ambiguous_time"
    NONEXISTENT_TIME = "nonexistent_time"
    # the rows among themselves
    CONFLICTING_DUPLICATE = "conflicting_duplicate"
    MIXED_SYMBOLS = "mixed_symbols"
    SYMBOL_MISMATCH = "symbol_mismatch"
    TIMEFRAME_MISMATCH = "timeframe_mismatch"


class Failure(NamedTuple):
    """One failure inside a file; failures sort by place. `text` says what was found and needed."""

    line: int
    field: int
    reason: str
    text: str


def shown(value: object) -> str:
    """Return a value as a message may show it: quoted, in ASCII, control characters escaped, cut."""
    text = str(value)
    cut = "..." if len(text) > SHOWN_VALUE_CHARACTERS else ""
    return ascii(text[:SHOWN_VALUE_CHARACTERS]) + cut


def shown_path(path: object) -> str:
    """Return a path as a message may show it; one that would not print is escaped."""
    text = str(path)
    return text if text.isprintable() else ascii(text)[1:-1]


def refuse(path: object, reason: str, text: str) -> OhlcvFileError:
    """Return the error for a file that is wrong as a whole."""
    return OhlcvFileError(shown_path(path), reason, [f"{shown_path(path)}: {text}"])


def refuse_all(
    path: object,
    failures: list[Failure],
    place: str = "{path}:{line}:{field}",
    *,
    total: int | None = None,
) -> OhlcvFileError:
    """Return the error for failures inside a file: the first ones worded, the rest counted.

    Args:
        path: The file, as its user named it.
        failures: At least one.
        place: How a failure's place is written; `path`, `line` and `field` stand for themselves.
        total: How many failures there are, where only the first of them are given.
    """
    ordered = sorted(failures)
    texts = [
        f"{place.format(path=shown_path(path), line=failure.line, field=failure.field)} {failure.text}"
        for failure in ordered[: rules.MAX_FILE_ERRORS_LISTED]
    ]
    return OhlcvFileError(shown_path(path), ordered[0].reason, texts, total=total or len(ordered))
