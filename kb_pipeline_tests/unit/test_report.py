"""The text of the reports, to the character, and counts that add up."""

import json
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import pytest

from kb_pipeline.backfills.report import BackfillReport, OhlcvSource, Tally
from kb_pipeline.errors import ConservationError
from kb_pipeline.rules import BackfillKind

CANDIDACY = """\
==================================================
BACKFILL CANDIDACY REPORT
==================================================
Workspace:      abc123
Since:          2025-01-01
Limit:          5000
Dry Run:        True
--------------------------------------------------
Total Scanned:  4821
Eligible:       312
Ineligible:     4509
Updated:        0 (dry run)
--------------------------------------------------
Rejection Reasons:
  insufficient_oos_trades:  2341
  dd_too_high:              1024
  sharpe_too_low:           891
  missing_regime_oos:       253
=================================================="""

REGIME = """\
==================================================
BACKFILL REGIME REPORT
==================================================
Workspace:      abc123
OHLCV File:     /path/to/AAPL_1h.csv
Symbol:         AAPL
Timeframe:      1h
OHLCV Rows:     10000
Date Range:     2023-01-01 to 2025-12-31
--------------------------------------------------
Total Scanned:  892
Computed:       743
Skipped:        149
  - insufficient_ohlcv_coverage:  89
  - missing_date_range:           60
Updated:        0 (dry run)
=================================================="""

ATTRIBUTION = """\
==================================================
BACKFILL ATTRIBUTION REPORT
==================================================
Workspace:      abc123
Since:          all
Limit:          none
Dry Run:        False
--------------------------------------------------
Tunes Scanned:  10
Attributed:     8
Skipped:        2
  - missing_regime_oos:  2
Updated:        7
==================================================
Changed Meanwhile: 1"""


def _report(kind: BackfillKind, tally: Tally, **facts: Any) -> BackfillReport:
    defaults = {"workspace_id": "abc123", "dry_run": True, "since": None, "limit": None}
    return BackfillReport.of(tally, kind=kind, **{**defaults, **facts})


def _candidacy() -> BackfillReport:
    reasons = Counter(
        dd_too_high=1024, insufficient_oos_trades=2341, missing_regime_oos=253, sharpe_too_low=891
    )
    tally = Tally(scanned=4821, updated=312, skipped=reasons)
    return _report(BackfillKind.CANDIDACY, tally, since=datetime(2025, 1, 1, tzinfo=UTC), limit=5000)


def test_the_candidacy_report_is_the_design_to_the_character() -> None:
    assert _candidacy().to_text() == CANDIDACY


def test_the_regime_report_is_the_design_to_the_character() -> None:
    source = OhlcvSource(
        path="/path/to/AAPL_1h.csv",
        symbol="AAPL",
        timeframe="1h",
        rows=10_000,
        first_day="2023-01-01",
        last_day="2025-12-31",
    )
    reasons = Counter(missing_date_range=60, insufficient_ohlcv_coverage=89)
    tally = Tally(scanned=892, updated=743, skipped=reasons)
    assert _report(BackfillKind.REGIME, tally, ohlcv=source).to_text() == REGIME


def test_extra_facts_follow_after_the_last_line() -> None:
    tally = Tally(scanned=10, updated=7, changed_meanwhile=1, skipped=Counter(missing_regime_oos=2))
    assert _report(BackfillKind.ATTRIBUTION, tally, dry_run=False).to_text() == ATTRIBUTION


@pytest.mark.parametrize(
    ("dry_run", "interrupted", "said"),
    [
        (False, None, ["Named so.", "Limit reached: run it again to go on."]),
        (True, None, ["Named so.", "Limit reached: more rows wait; --limit may be higher."]),
        (False, "SIGINT", ["Named so.", "Interrupted by SIGINT; run the same command again to go on."]),
    ],
)
def test_notes_and_a_limit_that_left_rows_are_told_at_the_end(
    dry_run: bool, interrupted: str | None, said: list[str]
) -> None:
    tally = Tally(limit_reached=True, notes=["Named so."], interrupted=interrupted)
    report = _report(BackfillKind.ATTRIBUTION, tally, dry_run=dry_run)
    assert report.to_text().splitlines()[-2:] == said
    assert (report.to_dict()["notes"], report.to_dict()["limit_reached"]) == (["Named so."], True)


def test_json_carries_the_numbers_of_the_text() -> None:
    numbers = json.loads(json.dumps(_candidacy().to_dict()))
    assert numbers["scanned"] == 4821
    assert (numbers["eligible"], numbers["ineligible"]) == (312, 4509)
    assert (numbers["updated"], numbers["would_update"]) == (0, 312)
    assert list(numbers["skipped"]) == [
        "insufficient_oos_trades",
        "dd_too_high",
        "sharpe_too_low",
        "missing_regime_oos",
    ]


def test_reasons_of_equal_count_stand_in_order_of_name() -> None:
    tally = Tally(scanned=2, skipped=Counter(b=1, a=1))
    assert list(_report(BackfillKind.CANDIDACY, tally).skipped) == ["a", "b"]


def test_the_listing_keeps_the_first_rows_of_each_reason() -> None:
    ids = [f"run-{number}" for number in range(25)]
    tally = Tally().plus_page(ids, ["dd_too_high"] * 25, lambda row: "deep" if row == 1 else "")
    lines = _report(BackfillKind.CANDIDACY, tally).listing().splitlines()
    assert lines[:3] == ["dd_too_high (25):", "  run-0", "  run-1 deep"]
    assert (len(lines), lines[-1]) == (22, "  ... and 5 more")


@pytest.mark.parametrize(
    ("tally", "exit_code"),
    [
        (Tally(), 0),
        (Tally(scanned=1, conflicts=1), 3),
        (Tally(interrupted="SIGINT"), 130),
        (Tally(interrupted="SIGTERM"), 143),
    ],
)
def test_the_exit_code_tells_how_it_ended(tally: Tally, exit_code: int) -> None:
    assert _report(BackfillKind.CANDIDACY, tally).exit_code == exit_code


def test_counts_that_do_not_add_up_are_refused() -> None:
    with pytest.raises(ConservationError, match="5 rows were scanned but 4 are accounted for"):
        Tally(scanned=5, updated=2, conflicts=1, skipped=Counter(dd_too_high=1)).check_conservation()
