"""The dashboard as one HTML page: no script, style, picture or font from elsewhere, and of bounded size.

What stands on it is the work of `sections`; here it is put into the template and written.
"""

import os
import re
from base64 import b64encode
from datetime import UTC, datetime
from functools import cache
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Final
from uuid import UUID

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from kb_pipeline.dashboard.cells import clipped
from kb_pipeline.dashboard.frame import Frame, read_frame
from kb_pipeline.dashboard.sections import all_sections, conclusion, facts
from kb_pipeline.errors import BadArgumentError
from kb_pipeline.rules import MAX_DASHBOARD_BYTES
from kb_pipeline.storage.paths import kb_home
from kb_pipeline.storage.postgres import Connection

_ROWS: Final = (60, 40, 25, 15, 8, 4)
"""Rows a table may have; where the page grows too large, it is made again with fewer."""

_PLAIN_NAME: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")


def write_dashboard(connection: Connection, workspace_id: UUID, path: Path) -> Path:
    """Write what is known of a workspace as a page and return its absolute path.

    Raises:
        BadArgumentError: There is no such workspace, or the path cannot be written to.
    """
    return write_page(dashboard_page(read_frame(connection, workspace_id)), path)


def dashboard_path(workspace_id: UUID, slug: str) -> Path:
    """Return where a workspace's page is kept; named by its id where its short name is no plain file name."""
    name = slug if _PLAIN_NAME.fullmatch(slug) else str(workspace_id)
    return kb_home() / "dashboards" / f"{name}.html"


def dashboard_page(frame: Frame) -> str:
    """Return the page, complete in itself and smaller than MAX_DASHBOARD_BYTES."""
    pages = (_page(frame, rows) for rows in _ROWS)
    return next(page for page in pages if len(page.encode()) < MAX_DASHBOARD_BYTES)


def write_page(page: str, path: Path) -> Path:
    """Write the page, whole or not at all, and return its absolute path.

    Raises:
        BadArgumentError: The path is a directory, or cannot be written to.
    """
    target = path.absolute()
    if target.is_dir():
        raise BadArgumentError(f"{target} is a directory. Name a file in it, such as {target / 'page.html'}.")
    unfinished = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        unfinished.write_text(page, encoding="utf-8")
        unfinished.replace(target)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise BadArgumentError(f"{target}: could not be written: {error.strerror}.") from error
    return target


def _page(frame: Frame, rows: int) -> str:
    style, script = _part("attribution.css"), _part("attribution.js")
    return (
        _environment()
        .get_template("attribution.html.j2")
        .render(
            frame=frame,
            name=clipped(frame.state.name, 80),
            read_at=_moment(frame.state.read_at),
            measured_at=_moment(frame.uplift.computed_at)
            if frame.uplift and frame.uplift.computed_at
            else "",
            conclusion=conclusion(frame),
            facts=facts(frame),
            sections=all_sections(frame, rows),
            style=Markup(style),  # noqa: S704 - our own file
            script=Markup(script),  # noqa: S704 - our own file
            policy=content_policy(style, script),
        )
    )


def content_policy(style: str, script: str) -> str:
    """Return a policy under which a browser loads nothing, and runs nothing but these two texts."""
    return (
        f"default-src 'none'; script-src '{_digest(script)}'; style-src '{_digest(style)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    return f"sha256-{b64encode(sha256(text.encode()).digest()).decode()}"


@cache
def _part(name: str) -> str:
    return "\n" + files(__package__).joinpath(name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader(__package__, ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _moment(when: datetime) -> str:
    return f"{when.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
