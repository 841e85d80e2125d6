"""The page about the rules tells what the rules are."""

import re
from pathlib import Path

import pytest

from kb_pipeline import rules
from kb_pipeline.rules import GateReason, SkipReason, UpliftUnknown

PAGE = (Path(__file__).parents[2] / "docs" / "rules.md").read_text(encoding="utf-8")
CONSTANTS = re.findall(r"^\| `([A-Z_]+)` \| ([\d.]+) \|$", PAGE, re.MULTILINE)


@pytest.mark.parametrize(("name", "value"), CONSTANTS)
def test_a_constant_has_the_value_the_page_gives(name: str, value: str) -> None:
    assert float(value) == getattr(rules, name)


def test_the_page_gives_the_constants() -> None:
    assert len(CONSTANTS) == 18


@pytest.mark.parametrize("reason", [*GateReason, *SkipReason, *UpliftUnknown])
def test_every_reason_stands_on_the_page(reason: str) -> None:
    assert reason == GateReason.PASSED_ALL_GATES or f"`{reason}`" in PAGE


@pytest.mark.parametrize("feature", rules.FEATURE_NAMES)
def test_every_feature_stands_on_the_page(feature: str) -> None:
    assert f"| `{feature}` |" in PAGE
