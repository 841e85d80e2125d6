"""The page for operators names every event and every metric, and no others."""

import re
from pathlib import Path

from kb_pipeline.storage.events import Event

PAGE = (Path(__file__).parents[2] / "docs" / "operating.md").read_text(encoding="utf-8")


def _named(heading: str) -> set[str]:
    """Return what stands in the first column of the table under a heading."""
    section = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return {name for cell in rows for name in re.findall(r"`(\w+)`", cell)}


def test_every_event_is_on_the_page_and_no_other() -> None:
    assert _named("Events") == set(Event)


def test_every_metric_is_on_the_page() -> None:
    source = Path(__file__).parents[2] / "kb_pipeline" / "storage" / "metrics.py"
    made = set(re.findall(r"\bkb_[a-z_]+", source.read_text(encoding="utf-8"))) - {"kb_pipeline"}
    assert _named("Metrics") == made
