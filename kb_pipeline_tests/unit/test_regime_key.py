"""Keys and fingerprints against golden answers, and which tag counts."""

import json
from pathlib import Path
from typing import Any

import pytest

from kb_pipeline.domain.regime import RegimeSnapshot
from kb_pipeline.domain.regime_key import (
    compute_regime_fingerprint,
    compute_regime_key,
    regime_key_from_tags,
    regime_tags_of,
)
from kb_pipeline.errors import InvalidSnapshotError, UnknownSchemaVersionError

GOLDEN: list[dict[str, Any]] = json.loads((Path(__file__).parents[1] / "golden" / "tags.json").read_text())[
    "regime_keys"
]


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: "-".join(case["regime_tags"]))
def test_key_and_fingerprint_equal_the_golden_answer(case: dict[str, Any]) -> None:
    key = regime_key_from_tags(case["schema_version"], case["regime_tags"], case["ruleset_id"])
    assert key == case["regime_key"]
    assert compute_regime_fingerprint(key) == case["fingerprint"]
    assert list(regime_tags_of(case["regime_tags"])) == case["denormalized"]


def test_the_fingerprint_of_the_design() -> None:
    fingerprint = compute_regime_fingerprint("regime_v1_1|default_v1|uptrend|high_vol|noisy")
    assert fingerprint == "174543d5f644dec70938f49d47d0d548597b8e12021fd5a8609278a7fac68c50"


def test_the_first_tag_of_a_dimension_counts() -> None:
    assert regime_tags_of(["flat", "trending", "uptrend"]) == ("uptrend", None, None)
    assert regime_tags_of(["flat", "low_vol", "noisy", "trending"]) == ("trending", "low_vol", "noisy")
    assert regime_tags_of(["choppy", "oversold"]) == (None, None, None)


def test_a_snapshot_and_its_stored_form_have_the_same_key() -> None:
    snapshot = RegimeSnapshot(regime_tags=["downtrend", "efficient"])
    assert compute_regime_key(snapshot) == "regime_v1_1|default_v1|downtrend|_|efficient"
    assert compute_regime_key(snapshot.to_dict()) == compute_regime_key(snapshot)
    assert compute_regime_key({"schema_version": "regime_v1"}, "other_v2") == "regime_v1|other_v2|_|_|_"


def test_a_stored_snapshot_is_checked_before_it_is_named() -> None:
    with pytest.raises(UnknownSchemaVersionError, match="regime_v9"):
        compute_regime_key({"schema_version": "regime_v9", "regime_tags": ["flat"]})
    with pytest.raises(InvalidSnapshotError):
        compute_regime_key({"schema_version": "regime_v1_1", "regime_tags": "uptrend"})
