"""Every query and statement of the project, one .sql file per table.

A file holds blocks headed by a line `-- name --`, a sentence about the statement, and the
statement itself. Code asks for `statement("file.name")`; no SQL text stands in Python.
"""

import re
from functools import cache
from importlib.resources import files
from typing import LiteralString

_HEADING = re.compile(r"^-- (?P<name>[a-z0-9_]+) --$", re.MULTILINE)
_LAYOUT = re.compile(r"^(?: +|--.*\n)", re.MULTILINE)


@cache
def _statements(file_name: str) -> dict[str, LiteralString]:
    text = files(__package__).joinpath(f"{file_name}.sql").read_text(encoding="utf-8")
    headings = list(_HEADING.finditer(text))
    ends = [heading.start() for heading in headings[1:]] + [len(text)]
    return {
        # psycopg takes a statement of more than 4,096 characters apart anew each time
        heading["name"]: _LAYOUT.sub("", text[heading.end() : end].strip())
        for heading, end in zip(headings, ends, strict=True)
    }


@cache
def statement(name: str) -> LiteralString:
    """Return the text of one statement, named `file.statement`.

    Raises:
        KeyError: There is no such statement; the message lists those of the file.
    """
    file_name, _, statement_name = name.partition(".")
    found = _statements(file_name)
    if statement_name not in found:
        raise KeyError(f"{file_name}.sql holds no statement {statement_name!r}, only {sorted(found)}")
    return found[statement_name]
