"""The page about drift tells what drift is."""

import re
from pathlib import Path

import pytest

from kb_pipeline import rules
from kb_pipeline.rules import DriftReason

PAGE = (Path(__file__).parents[2] / "docs" / "drift.md").read_text(encoding="utf-8")
CONSTANTS = re.findall(r"^\| `([A-Z_]+)` \| ([\d.]+) \|$", PAGE, re.MULTILINE)


@pytest.mark.parametrize(("name", "value"), CONSTANTS)
def test_a_constant_has_the_value_the_page_gives(name: str, value: str) -> None:
    assert float(value) == getattr(rules, name)


def test_the_page_gives_every_constant_of_drift() -> None:
    named = {name for name in dir(rules) if "DRIFT" in name}
    assert named - {name for name, _ in CONSTANTS} == {"DRIFT_SEED"}


@pytest.mark.parametrize("reason", DriftReason)
def test_every_verdict_stands_on_the_page(reason: DriftReason) -> None:
    assert f"`{reason}`" in PAGE
