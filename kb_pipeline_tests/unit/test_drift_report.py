"""What a report of drift says: a sentence a verdict, its numbers, and nobody's control characters."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import pytest

from kb_pipeline.domain.drift import DriftVerdict, MovedFeature
from kb_pipeline.questions.drift_report import DriftEvaluation, DriftReport, DriftSkip
from kb_pipeline.rules import DriftReason

FLAT, UP = "regime_v1_1|default_v1|flat|low_vol|noisy", "regime_v1_1|default_v1|uptrend|high_vol|_"
FAR = DriftVerdict(
    reason=DriftReason.DISTANCE_BEYOND_NULL,
    key_now=UP,
    keys_then=(FLAT,),
    departed=False,
    key_share=0.05,
    distance=7.314,
    limit=5.2,
    null_percentile=99.93,
    moved=(MovedFeature("atr_pct", 0.0121, 0.0453, 5.13), MovedFeature("rsi", 55.0, 20.0, -2.5)),
    snapshots=8,
    windows_apart=8,
    bars=200,
)
FOUND = DriftEvaluation("s-1", "breakout", "AAA", "1d", datetime(2013, 3, 1, tzinfo=UTC), FAR)


def _sentence(**changes: object) -> str:
    return replace(FOUND, verdict=replace(FAR, **changes)).sentence  # type: ignore[arg-type]


def test_a_distance_is_told_with_its_limit_and_what_moved() -> None:
    assert FOUND.sentence == (
        "breakout on AAA 1d, bars to 2013-03-01: for 10 bars far from all 8 training snapshots, now 7.31 "
        "from the nearest; 99% of the windows resampled from theirs stay within 5.20. Moved: atr_pct 0.0121 "
        "to 0.0453 (+5.1 deviations), rsi 55 to 20 (-2.5 deviations)"
    )


def test_a_changed_key_is_told_with_what_was_and_how_rare_it_is() -> None:
    said = _sentence(reason=DriftReason.KEY_CHANGED, key_share=0.002)
    assert said.endswith(
        "uptrend/high_vol/_ on 3 evaluations in a row; the parameters were chosen in flat/low_vol/noisy; "
        "at most 0.2% of windows resampled from one of them are so"
    )
    many = tuple(f"regime_v1_1|default_v1|flat|low_vol|{number}" for number in range(5))
    said = _sentence(reason=DriftReason.KEY_CHANGED, key_share=None, keys_then=many)
    assert "flat/low_vol/0, flat/low_vol/1, flat/low_vol/2 and 2 more" in said
    assert said.endswith("no bars of theirs were at hand to tell how often chance does this")


@pytest.mark.parametrize(
    "reason",
    [
        reason
        for reason in DriftReason
        if reason
        not in (
            *(DriftReason.NO_PRICE_FILE, DriftReason.PRICE_FILE_REFUSED),
            *(DriftReason.NO_SYMBOL, DriftReason.NO_READABLE_SNAPSHOT),
        )
    ],
)
def test_every_verdict_has_a_sentence_of_its_own(reason: DriftReason) -> None:
    others = {_sentence(reason=it) for it in (DriftReason.STABLE, DriftReason.KEY_CHANGED) if it != reason}
    assert _sentence(reason=reason) not in others


def test_an_hourly_bar_is_told_with_its_hour() -> None:
    hourly = replace(FOUND, newest_bar=datetime(2017, 12, 29, 21, 0, tzinfo=UTC))
    assert "bars to 2017-12-29 21:00Z" in hourly.sentence


def _report(
    *evaluations: DriftEvaluation, skipped: tuple[DriftSkip, ...] = (), notes: tuple[str, ...] = ()
) -> DriftReport:
    return DriftReport(
        workspace_id=UUID(int=1),
        dry_run=False,
        evaluations=list(evaluations),
        skipped=list(skipped),
        told=[],
        untold=[],
        notes=list(notes),
    )


def test_the_text_has_a_row_a_series_a_sentence_an_alarm_and_the_skipped_by_reason() -> None:
    calm = replace(FOUND, symbol="BBB", verdict=DriftVerdict(reason=DriftReason.STABLE, key_now=FLAT))
    skip = DriftSkip("breakout", "CCC", "1d", DriftReason.NO_PRICE_FILE, "needed CCC_1d.csv")
    text = _report(replace(FOUND, is_new_event=True), calm, skipped=(skip,)).to_text()
    assert text.splitlines() == [
        "strategy  symbol  bars  newest bar  verdict               regime now          distance  limit",
        "breakout  AAA     1d    2013-03-01  distance_beyond_null  uptrend/high_vol/_  7.31      5.20",
        "breakout  BBB     1d    2013-03-01  stable                flat/low_vol/noisy  -         -",
        "",
        "evaluated 2, in alarm 1, new events 1",
        f"ALARM  {FOUND.sentence}",
        "",
        "Skipped",
        "strategy  symbol  bars  reason         why",
        "breakout  CCC     1d    no_price_file  needed CCC_1d.csv",
    ]


def test_nothing_to_look_at_says_what_to_do() -> None:
    assert _report(notes=("Named so.",)).to_text().splitlines()[1:] == ["Named so."]
    assert _report().to_text() == "No attributed tune to look at. Run: kb-pipeline backfill-attribution"


def test_names_cannot_steer_a_terminal() -> None:
    nasty = replace(FOUND, strategy="\x1b[31mred\nALARM")
    skip = DriftSkip("\x1b[2J", "A\rB", None, DriftReason.NO_SYMBOL, "x\x07")
    text = _report(nasty, skipped=(skip,)).to_text()
    assert all(line.isprintable() for line in text.splitlines())
    assert sum(line.startswith("ALARM") for line in text.splitlines()) == 1


def test_machines_get_the_same_numbers_as_valid_json() -> None:
    told = json.loads(json.dumps(_report(FOUND).to_dict(), allow_nan=False))
    assert (told["evaluated"], told["alarms"], told["new_events"]) == (1, 1, 0)
    assert told["verdicts"] == {"distance_beyond_null": 1}
    (found,) = told["evaluations"]
    assert found["moved"][1] == {"feature": "rsi", "then": 55.0, "now": 20.0, "size": -2.5}
    assert (found["reason"], found["is_alarm"], found["key_now"]) == ("distance_beyond_null", True, UP)
    assert (found["null_percentile"], found["seed"]) == (99.93, 20_250_101)
