"""What a row of the knowledge base holds of its source."""

import json
from typing import Any

import pytest

from kb_pipeline.domain.trials import SOURCE_COLUMNS, params_fingerprint, trial_of

SNAPSHOT = {"schema_version": "regime_v1_1", "regime_tags": ["flat", "low_vol"], "rsi": 51.5}


def _source(**columns: Any) -> dict[str, Any]:
    return {**dict.fromkeys(SOURCE_COLUMNS), "params": "{}", **columns}


def test_percent_becomes_a_fraction_and_a_drawdown_has_no_sign() -> None:
    trial = trial_of(_source(return_percent=-25.0, max_drawdown_percent=-12.5))
    assert (trial["return_fraction_oos"], trial["max_drawdown_fraction_oos"]) == (-0.25, 0.125)
    assert trial_of(_source(max_drawdown_percent=40.0))["max_drawdown_fraction_oos"] == 0.4


def test_what_is_absent_stays_absent() -> None:
    trial = trial_of(_source())
    assert {name for name, value in trial.items() if value is not None} == {
        *("params", "params_fingerprint", "content_hash")
    }


@pytest.mark.parametrize(
    ("stored", "count"),
    [
        (0.0, 0),
        (60.0, 60),
        (2.5, None),
        (-1.0, None),
        (2.0**31 - 1, 2**31 - 1),
        (2.0**31, None),
        (1e300, None),
    ],
)
def test_a_number_of_trades_is_a_whole_number_the_platform_can_store(
    stored: float, count: int | None
) -> None:
    assert trial_of(_source(trades_oos=stored))["trades_oos"] == count


@pytest.mark.parametrize("score", [float("nan"), float("inf"), float("-inf")])
def test_an_objective_score_that_is_not_finite_is_absent(score: float) -> None:
    assert trial_of(_source(objective_score=score)) == trial_of(_source())


def test_a_regime_is_held_whole_and_under_its_names() -> None:
    trial = trial_of(_source(regime_oos=json.dumps(SNAPSHOT)))
    assert trial["regime_oos"] == SNAPSHOT
    names = ("regime_schema_version", "regime_key", "trend_tag", "vol_tag", "efficiency_tag")
    assert tuple(trial[name] for name in names) == (
        *("regime_v1_1", "regime_v1_1|default_v1|flat|low_vol|_", "flat", "low_vol", None),
    )


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        '"flat"',
        '{"regime_tags": []}',
        '{"schema_version": "regime_v9", "regime_tags": []}',
        '{"schema_version": "regime_v1_1", "regime_tags": "flat"}',
        '{"schema_version": "regime_v1_1", "regime_tags": ["noisy", "efficient"]}',
        "[" * 100_000,
        "9" * 5_000,
    ],
)
def test_a_regime_that_cannot_be_read_is_none(text: str) -> None:
    assert trial_of(_source(regime_oos=text)) == trial_of(_source())


@pytest.mark.parametrize("params", ["9" * 5_000, "[" * 100_000])
def test_parameters_that_cannot_be_read_are_an_error(params: str) -> None:
    with pytest.raises((ValueError, RecursionError)):
        trial_of(_source(params=params))


def test_the_content_hash_follows_the_content_and_nothing_else() -> None:
    hashes = {
        trial_of(_source(**columns))["content_hash"]
        for columns in (
            {},
            {"params": '{"n": 1}'},
            {"sharpe_oos": 1.0},
            {"kb_status": "promoted"},
            {"regime_oos": json.dumps(SNAPSHOT)},
        )
    }
    assert len(hashes) == 5
    shuffled = dict(reversed(_source(params='{"b": 2, "a": 1}').items()))
    assert trial_of(shuffled) == trial_of(_source(params='{"a": 1, "b": 2}'))


def test_the_fingerprint_of_parameters_is_that_of_their_sorted_text() -> None:
    # printf '{"fast":5,"slow":[20,null]}' | sha256sum
    expected = "710d014336b0dadc11e6ccc99e22b4df41a64d6ad1446ee3180d1e3bd5add0df"
    assert params_fingerprint({"slow": [20, None], "fast": 5}) == expected
