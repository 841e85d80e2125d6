"""How answers are put into text: tables and parameters."""

import json
import math
from collections.abc import Sequence
from typing import Any, Final

from kb_pipeline.plain_text import printable

NOTHING_ATTRIBUTED: Final = (
    "No tune of this workspace has a regime yet. Run: kb-pipeline backfill-attribution"
)


def params_of(text: str | None) -> Any:
    """Return stored parameters, None where there are none or where they cannot be read.

    A number beyond a float's range stays the text it is stored as, for infinity is no JSON.
    """
    try:
        return None if text is None else _DECODER.decode(text)
    except (ValueError, RecursionError):  # a number of too many digits, or nesting without end
        return None


def _float_or_text(digits: str) -> float | str:
    number = float(digits)
    return number if math.isfinite(number) else digits


# Made once: making it takes longer than reading a set of parameters.
_DECODER: Final = json.JSONDecoder(parse_float=_float_or_text)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return rows in columns two spaces apart."""
    cells = [[printable(cell) for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    )
