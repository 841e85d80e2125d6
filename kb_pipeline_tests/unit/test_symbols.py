"""The file that says where each symbol trades, and what is told about a bad one."""

from pathlib import Path

import pytest

from kb_pipeline.errors import BadArgumentError
from kb_pipeline.storage.symbols import SymbolInfo, load_symbols

ENTRY = "{calendar: XNYS, timezone: America/New_York}"


def written(directory: Path, text: str) -> Path:
    path = directory / "symbols.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_symbols_are_found_by_their_name_in_capitals(tmp_path: Path) -> None:
    entries = [f"aapl: {ENTRY}", "0700: {timezone: Asia/Hong_Kong, calendar: XHKG}"]
    entries.append("BTC-USD: {calendar: 24/7, timezone: UTC}")
    path = written(tmp_path, "\n  ".join(["symbols:", *entries]))
    assert load_symbols(path) == {
        "AAPL": SymbolInfo("AAPL", "XNYS", "America/New_York"),
        "0700": SymbolInfo("0700", "XHKG", "Asia/Hong_Kong"),
        "BTC-USD": SymbolInfo("BTC-USD", "24/7", "UTC"),
    }


def test_a_file_may_know_no_symbol_yet(tmp_path: Path) -> None:
    assert load_symbols(written(tmp_path, "symbols: {}\n")) == {}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", ":1: found no mapping"),
        ("- AAPL\n", ":1: found no mapping"),
        ("symbol: {}\n", ":1: found other members than `symbols`"),
        ("symbols:\n", ":1: found no mapping"),
        ("symbols: {}\nsymbols: {}\n", ":1: found other members"),
        ("symbols:\n  AAPL: XNYS\n", ":2: found no mapping"),
        ("symbols:\n  AAPL: {}\n", ":2: found nothing for AAPL"),
        ("symbols:\n  AAPL: {calendar: XNYS}\n", ":2: found calendar for AAPL"),
        (f"symbols:\n  AAPL: {ENTRY[:-1]}, tz: UTC}}\n", ":2: found calendar, timezone, tz for AAPL"),
        (
            "symbols:\n  A: {calendar: 24/7, calendar: FX, timezone: UTC}\n",
            ":2: found calendar, timezone for A",
        ),
        (f"symbols:\n  AAPL: {ENTRY}\n  aapl: {ENTRY}\n", ":3: found AAPL twice"),
        (
            "symbols:\n  AAPL:\n    calendar: XNYS\n    timezone: Mars/Phobos\n",
            ":4: found the time zone 'Mars/Phobos'",
        ),
        ("symbols:\n  AAPL: {calendar: XNYS, timezone: ../etc/passwd}\n", ":2: found the time zone"),
        ("symbols:\n  AAPL: {calendar: , timezone: UTC}\n", ":2: found no name"),
        ("symbols:\n  ~: {calendar: FX, timezone: UTC}\n", ":2: found no name"),
        ("symbols: {\n", ": found text that is not YAML"),
        ("[" * 1_500, ": found text that is not YAML"),
    ],
)
def test_a_bad_entry_is_refused_with_its_line(text: str, told: str, tmp_path: Path) -> None:
    path = written(tmp_path, text)
    with pytest.raises(BadArgumentError) as caught:
        load_symbols(path)
    message = str(caught.value)
    assert message.startswith(f"{path}{told}")
    assert len(message) < 600


def test_a_file_that_is_not_there_or_not_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadArgumentError, match="could not be read"):
        load_symbols(tmp_path / "none.yaml")
    path = tmp_path / "symbols.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadArgumentError, match="not YAML"):
        load_symbols(path)
