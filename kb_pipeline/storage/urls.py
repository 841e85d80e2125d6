"""The URL of a database, taken apart without a word of its password. Opening it is postgres.py's."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final
from urllib.parse import quote, unquote, urlencode

import psycopg

from kb_pipeline.errors import DatabaseUrlError

_URL = re.compile(
    r"""(?:postgresql|postgres)://
    (?:(?P<user>[^:/?\#@]*)(?::(?P<password>[^/?\#@]*))?@)?
    (?P<host>\[[0-9A-Fa-f:.]+\]|[^:/?\#@\[\],]*)(?::(?P<port>[0-9]{1,5}))?
    /(?P<database>[^:/?\#@]+)
    (?:\?(?P<parameters>[^?\#@]*))?""",
    re.VERBOSE,
)
_DRIVER_SUFFIX = re.compile(r"(postgresql|postgres)\+[A-Za-z0-9_]+://")
_SHAPE = (
    "It must read postgresql://user:password@host:5432/database, with every special character of the "
    "user, the password and the database percent-encoded."
)
_ADDRESS_PARAMETERS: Final = ("user", "password", "host", "port")
_PARAMETERS: Final = {option.keyword.decode() for option in psycopg.pq.Conninfo.get_defaults()} - {"dbname"}


@dataclass(frozen=True)
class DatabaseUrl:
    """A database URL taken apart. Its text forms never show the password.

    `parameters` are libpq's own, such as sslmode; `host` may be a socket's directory.
    """

    host: str | None
    port: int | None
    user: str | None
    password: str | None = field(repr=False)
    database: str
    parameters: Mapping[str, str] = field(repr=False)

    @property
    def place(self) -> str:
        """Host and database, for messages."""
        port = f":{self.port}" if self.port and not (self.host or "/").startswith("/") else ""
        return f"database '{self.database}' at {self.host or 'the local socket'}{port}"

    def keywords(self) -> dict[str, Any]:
        """Return what `psycopg.connect` takes."""
        address = {"host": self.host, "port": self.port, "user": self.user, "password": self.password}
        given = {name: value for name, value in address.items() if value is not None}
        return {**self.parameters, **given, "dbname": self.database}

    def text(self) -> str:
        """Return the URL again, password and all."""
        secret = "" if self.password is None else f":{quote(self.password, safe='')}"
        user = f"{quote(self.user or '', safe='')}{secret}@" if self.user or secret else ""
        # A socket's directory can stand only behind the '?', and so its port does too.
        behind = {"host": self.host, "port": self.port} if (self.host or "").startswith("/") else {}
        host = "" if behind or not self.host else f"[{self.host}]" if ":" in self.host else self.host
        port = f":{self.port}" if self.port and not behind else ""
        given = {name: value for name, value in {**self.parameters, **behind}.items() if value is not None}
        query = urlencode(given, quote_via=quote, safe="/")
        return f"postgresql://{user}{host}{port}/{quote(self.database, safe='')}{'?' if query else ''}{query}"


def parse_database_url(url: str) -> DatabaseUrl:
    """Take a database URL apart.

    psycopg's own reader puts the password of some malformed URLs into its message, so a URL that
    this function does not understand never reaches it.

    Raises:
        DatabaseUrlError: Another scheme, a driver suffix, or a shape that could be read two ways.
            The message holds no part of the URL.
    """
    if _DRIVER_SUFFIX.match(url):
        raise DatabaseUrlError("The database URL names a driver after '+'. Write postgresql:// without it.")
    found = _URL.fullmatch(url)
    if found is None or not url.isprintable() or " " in url:
        raise DatabaseUrlError(f"The database URL cannot be read. {_SHAPE}")
    part = {
        name: None if text is None else _decoded(text) for name, text in found.groupdict("").items() if text
    }
    parameters = _parameters(found["parameters"] or "")
    address = {name: part.get(name) for name in _ADDRESS_PARAMETERS}
    for name in parameters.keys() & set(_ADDRESS_PARAMETERS):
        if address[name] is not None:
            raise DatabaseUrlError(f"The database URL gives the {name} twice, before and after the '?'.")
        address[name] = parameters.pop(name)
    return DatabaseUrl(
        host=(address["host"] or "").strip("[]") or None,
        port=_port(address["port"]),
        user=address["user"],
        password=address["password"],
        database=_decoded(found["database"]),
        parameters=parameters,
    )


def redact(url: str) -> str:
    """Return a URL fit for a log: *** for the password, no parameters, and nothing at all of one that
    cannot be read.
    """
    try:
        target = parse_database_url(url)
    except DatabaseUrlError:
        return "(a database URL that cannot be read)"
    shown = replace(target, password=None if target.password is None else "***", parameters={})
    return shown.text().replace("%2A%2A%2A", "***")


def _decoded(text: str) -> str:
    try:
        decoded = unquote(text, errors="strict")
    except UnicodeDecodeError:
        decoded = "\0"
    if "\0" in decoded or re.search(r"%(?![0-9A-Fa-f]{2})", text):
        raise DatabaseUrlError(f"The database URL holds a '%' that does not encode a character. {_SHAPE}")
    return decoded


def _port(text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 65536:
        raise DatabaseUrlError("The database URL's port is not a number from 1 to 65535.")
    return int(text)


def _parameters(query: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in query.split("&")] if query else []
    parameters = {name: _decoded(value) for name, equals, value in pairs if equals}
    if len(parameters) != len(pairs) or not parameters.keys() <= _PARAMETERS:
        raise DatabaseUrlError(
            "What follows the '?' of the database URL is not name=value&name=value with each name one that "
            "libpq knows, given once."
        )
    return parameters
