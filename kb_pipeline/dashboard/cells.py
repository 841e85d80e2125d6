"""What tables are made of: cells, columns, and values put into words that can do no harm.

Markup comes from `charts` alone; everything else is text, which the template escapes.
"""

from dataclasses import dataclass, replace
from typing import Final

from markupsafe import Markup

from kb_pipeline.dashboard.frame import tags_of
from kb_pipeline.plain_text import printable
from kb_pipeline.rules import REGIME_KEY_SEPARATOR, REGIME_SCHEMA_VERSION, TAG_RULESET_ID

UNKNOWN: Final = "unknown"
NO_TAG: Final = "\N{EN DASH}"
"""Stands for a dimension of a regime without a tag."""

_KEY_PREFIX: Final = REGIME_KEY_SEPARATOR.join((REGIME_SCHEMA_VERSION, TAG_RULESET_ID, ""))
_LONGEST_NAME: Final = 48


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One cell: text, or a picture. `href` is a place in the page, `anchor` makes the cell one."""

    text: str = ""
    picture: Markup | None = None
    href: str = ""
    anchor: str = ""
    is_code: bool = False


@dataclass(frozen=True, slots=True)
class Column:
    """A heading and how its cells are set: as text, words, date, number, code, ids, note or chart.

    `axis` stands in the heading of a chart.
    """

    heading: str
    kind: str = "text"
    axis: Markup | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows under headings; the first cell of a row names it.

    `left_out` rows are not shown; `elsewhere` says where they are.
    """

    name: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    left_out: int = 0
    elsewhere: str = ""

    def cut(self, rows: int) -> "Table":
        """Return the table with at most so many rows."""
        return replace(self, rows=self.rows[:rows], left_out=max(0, len(self.rows) - rows))


def text(value: str | None) -> Cell:
    """Return a cell of untrusted text in one line, cut where it is too long."""
    return Cell(text=clipped(value or UNKNOWN, _LONGEST_NAME))


def number(value: float | None, form: str = "+.2f") -> Cell:
    """Return a cell of a number, a true minus sign before it; None is unknown."""
    return Cell(text=UNKNOWN if value is None else signed(value, form))


def signed(value: float, form: str = "+.2f") -> str:
    """Return a number with a true minus sign."""
    return format(value, form).replace("-", "\N{MINUS SIGN}")


def clipped(value: str, longest: int) -> str:
    """Return text in one line, without what steers its surroundings, cut with an ellipsis."""
    shown = printable(value[: longest + 1])
    return shown if len(value) <= longest else shown[:longest] + "\N{HORIZONTAL ELLIPSIS}"


def regime_label(regime_key: str) -> str:
    """Return the tags of a key; a key of another layout or ruleset in full."""
    if not regime_key.startswith(_KEY_PREFIX):
        return clipped(regime_key, _LONGEST_NAME)
    return " \N{MIDDLE DOT} ".join(tag or NO_TAG for tag in tags_of(regime_key))


def without_the_obvious(table: Table, heading: str) -> Table:
    """Return a table without a column that says the same in every row; the caption says it then."""
    at = next(at for at, column in enumerate(table.columns) if column.heading == heading)
    values = {row[at].text for row in table.rows}
    if len(values) != 1:
        return table
    return replace(
        table,
        caption=f"{table.caption}; {heading.lower()} {values.pop()}",
        columns=table.columns[:at] + table.columns[at + 1 :],
        rows=tuple(row[:at] + row[at + 1 :] for row in table.rows),
    )
