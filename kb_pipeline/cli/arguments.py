"""What the commands take: types of arguments, and the options every backfill has."""

import math
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID
from zoneinfo import ZoneInfo

import click

from kb_pipeline import rules
from kb_pipeline.cli.running import session
from kb_pipeline.errors import DatabaseError

_DATE_LENGTH: Final = len("2025-01-31")


class Since(click.ParamType[datetime]):
    """A date (UTC midnight) or a time with an offset."""

    name = "DATE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Return an aware UTC time, or say what is wrong with the text."""
        try:
            since = datetime.fromisoformat(value)
        except ValueError:
            self.fail(
                f"{value!r} is not a date. Write it like 2025-01-31 or 2025-01-31T09:30:00Z.", param, ctx
            )
        if since.tzinfo is None and len(value) > _DATE_LENGTH:
            self.fail(f"{value!r} has no offset. Add Z or one like +02:00.", param, ctx)
        try:
            return since.replace(tzinfo=since.tzinfo or UTC).astimezone(UTC)
        except OverflowError:
            self.fail(f"{value!r} is beyond the years 1 to 9999 in UTC.", param, ctx)


class Workspace(click.ParamType[UUID]):
    """The id of a workspace, or its slug, for which the database is asked."""

    name = "ID_OR_SLUG"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> UUID:
        """Return the id; of an id that is well formed, not yet whether there is such a workspace."""
        with suppress(ValueError):
            return UUID(str(value).strip())
        from kb_pipeline.storage.orchestration import find_workspace

        try:
            with session("workspace") as connection:
                return find_workspace(connection, value).id
        except DatabaseError as error:
            self.fail(f"{value!r} is no id, and no database can be asked for that slug. {error}", param, ctx)


class Symbol(click.ParamType[str]):
    """A symbol: printable, not empty."""

    name = "SYMBOL"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text, or say what is wrong with it."""
        symbol = str(value)
        if not symbol.strip() or not symbol.isprintable():
            self.fail(f"{symbol!r} is empty or holds control characters.", param, ctx)
        return symbol


class Zone(click.ParamType[str]):
    """The name of a time zone."""

    name = "ZONE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name, or say that there is no such zone."""
        try:
            return ZoneInfo(value).key
        except (ValueError, OSError, KeyError):
            self.fail(f"found the time zone {value!a}, needed a name such as America/New_York.", param, ctx)


class Fraction(click.FloatRange):
    """A number from 0 to 1."""

    def __init__(self) -> None:
        super().__init__(0, 1)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return a float from 0 to 1, or say what is wrong with the text."""
        fraction = super().convert(value, param, ctx)
        if math.isnan(fraction):
            self.fail("nan is not a share between 0 and 1.", param, ctx)
        return fraction


def backfill_options(limit: int, of: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that adds the options every backfill has."""
    options = [
        click.option("--workspace-id", type=Workspace(), required=True, help="Workspace to work in."),
        click.option("--since", type=Since(), help=f"Only {of} created at or after this date (UTC)."),
        click.option(
            "--limit", type=click.IntRange(1), default=limit, show_default=True, help=f"Scan this many {of}."
        ),
        click.option("--dry-run", is_flag=True, help="Count what would be written; write nothing."),
        click.option(
            "--batch-size",
            type=click.IntRange(1, rules.MAX_BATCH_SIZE_ROWS),
            default=rules.BATCH_SIZE_ROWS,
            show_default=True,
            help="Rows written in one transaction.",
        ),
        click.option("--from-start", is_flag=True, help="Begin again instead of after the last row scanned."),
        click.option("--json", "as_json", is_flag=True, help="Print the report as JSON."),
        click.option("--list", "listed", is_flag=True, help="List the first rows under each reason."),
    ]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate
