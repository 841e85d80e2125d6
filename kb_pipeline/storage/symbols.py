"""Read which calendar and time zone each symbol trades in, from a YAML file.

The file maps symbols to their calendars:

    symbols:
      AAPL: {calendar: XNYS, timezone: America/New_York}
      EURUSD: {calendar: FX, timezone: America/New_York}

What a calendar means is the work of `domain.calendars`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

import yaml

from kb_pipeline.errors import BadArgumentError

_FORM: Final = "needed `symbols: {AAPL: {calendar: XNYS, timezone: America/New_York}}`"
_MEMBERS: Final = ("calendar", "timezone")

Pairs = list[tuple[yaml.Node, yaml.Node]]


@dataclass(frozen=True, slots=True)
class SymbolInfo:
    """Where a symbol trades: `calendar` is 24/7, FX or an exchange's code."""

    symbol: str
    calendar: str
    timezone: str


def load_symbols(path: Path) -> dict[str, SymbolInfo]:
    """Return the symbols of a file by their upper-case name; none for an empty mapping.

    Raises:
        BadArgumentError: The file cannot be read, or an entry cannot be used; the message names
            its line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise BadArgumentError(f"{path}: could not be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise BadArgumentError(f"{path}: found text that is not YAML ({error}), {_FORM}") from None
    return dict(_parsed(path, text))


@lru_cache(maxsize=8)  # a backfill of many symbols asks for the same text once a symbol
def _parsed(path: Path, text: str) -> Mapping[str, SymbolInfo]:
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError) as error:
        found = str(error).replace("\n", " ")
        raise BadArgumentError(f"{path}: found text that is not YAML ({found}), {_FORM}") from None
    members = _pairs(path, root)
    if [_text(path, key) for key, _ in members] != ["symbols"]:
        raise BadArgumentError(f"{path}:1: found other members than `symbols`, {_FORM}")
    infos: dict[str, SymbolInfo] = {}
    for key, value in _pairs(path, members[0][1]):
        info = _symbol(path, key, value)
        if info.symbol in infos:
            raise BadArgumentError(
                f"{path}:{_line(key)}: found {info.symbol} twice, needed it once. Remove one"
            )
        infos[info.symbol] = info
    return infos


def _symbol(path: Path, key: yaml.Node, value: yaml.Node) -> SymbolInfo:
    symbol = _text(path, key).upper()
    members = {_text(path, name): member for name, member in _pairs(path, value)}
    if sorted(members) != sorted(_MEMBERS) or len(_pairs(path, value)) != len(_MEMBERS):
        raise BadArgumentError(
            f"{path}:{_line(key)}: found {', '.join(members) or 'nothing'} for {symbol}, {_FORM}"
        )
    timezone = _text(path, members["timezone"])
    try:
        ZoneInfo(timezone)
    except (ValueError, OSError, KeyError):
        line = _line(members["timezone"])
        needed = "needed a name such as America/New_York"
        raise BadArgumentError(
            f"{path}:{line}: found the time zone {timezone!a} for {symbol}, {needed}"
        ) from None
    return SymbolInfo(symbol, _text(path, members["calendar"]), timezone)


def _pairs(path: Path, node: yaml.Node | None) -> Pairs:
    if isinstance(node, yaml.MappingNode):
        pairs: Pairs = node.value
        return pairs
    raise BadArgumentError(f"{path}:{_line(node)}: found no mapping, {_FORM}")


def _text(path: Path, node: yaml.Node) -> str:
    if isinstance(node, yaml.ScalarNode) and node.value.strip() and node.tag != "tag:yaml.org,2002:null":
        return str(node.value).strip()
    raise BadArgumentError(f"{path}:{_line(node)}: found no name, {_FORM}")


def _line(node: yaml.Node | None) -> int:
    return 1 if node is None else node.start_mark.line + 1
