"""The ruleset against golden answers, at its thresholds, and where metrics are missing."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kb_pipeline.domain.flags import flagged_names
from kb_pipeline.domain.tags import TAGS, evaluate_tags, explain_tags, tag_flags
from kb_pipeline.rules import TREND_TAGS_BY_PRIORITY

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parents[1] / "golden" / "tags.json").read_text())
VECTORS = [dict(zip(GOLDEN["feature_order"], vector, strict=True)) for vector in GOLDEN["vectors"]]


def test_every_golden_vector_has_its_tags() -> None:
    assert len(VECTORS) == 600
    for features, tags in zip(VECTORS, GOLDEN["tags"], strict=True):
        assert evaluate_tags(features) == tags


def test_tags_of_many_rows_are_those_of_each_row() -> None:
    columns = {name: np.array([features[name] for features in VECTORS]) for name in GOLDEN["feature_order"]}
    assert [flagged_names(bits, TAGS) for bits in tag_flags(columns)] == GOLDEN["tags"]


def test_evidence_is_in_the_order_and_with_the_texts_of_the_ruleset() -> None:
    described = ("rule_id", "tag", "metric", "op", "threshold", "transform", "units")
    evidence = explain_tags(VECTORS[0])
    assert [[row[name] for name in described] for row in evidence] == [
        [rule[name] for name in described] for rule in GOLDEN["ruleset"]
    ]


def test_at_most_one_trend_tag_holds() -> None:
    for features in VECTORS:
        assert len(set(evaluate_tags(features)) & set(TREND_TAGS_BY_PRIORITY)) <= 1


@pytest.mark.parametrize(
    ("metric", "value", "tag", "holds"),
    [
        ("atr_pct", 0.005, "low_vol", False),
        ("atr_pct", 0.004999999999999999, "low_vol", True),
        ("atr_pct", 0.015, "high_vol", False),
        ("rsi", 70.0, "overbought", False),
        ("rsi", 30.0, "oversold", False),
        ("rsi", 29.999999999999996, "oversold", True),
        ("zscore", -1.5, "oversold", False),
        ("zscore", 1.5000000000000002, "overbought", True),
        ("efficiency_ratio", 0.3, "noisy", False),
        ("efficiency_ratio", 0.7, "efficient", False),
        ("trend_strength", 0.3, "flat", False),
    ],
)
def test_comparisons_are_exact(metric: str, value: float, tag: str, holds: bool) -> None:
    assert (tag in evaluate_tags({metric: value})) == holds


def test_strength_of_exactly_six_tenths_is_a_trend() -> None:
    assert evaluate_tags({"trend_strength": 0.6, "trend_dir": 1}) == ["uptrend"]
    assert evaluate_tags({"trend_strength": 0.6, "trend_dir": 0}) == ["trending"]
    assert evaluate_tags({"trend_strength": 0.6, "trend_dir": -1}) == ["downtrend"]


def test_either_group_of_a_tag_suffices() -> None:
    assert evaluate_tags({"zscore": -2.0, "rsi": 50.0}) == ["oversold"]
    assert evaluate_tags({"zscore": 0.0, "rsi": 20.0}) == ["oversold"]


def test_all_rules_of_a_group_are_needed() -> None:
    assert evaluate_tags({"trend_strength": 0.1, "zscore": -1.2}) == ["flat", "mean_reverting"]
    assert evaluate_tags({"trend_strength": 0.4, "zscore": -1.2}) == []


@pytest.mark.parametrize("missing", [{}, {"rsi": None}, {"rsi": math.nan}, {"rsi": math.inf}, {"rsi": "99"}])
def test_a_missing_metric_gives_no_tag(missing: dict[str, Any]) -> None:
    assert evaluate_tags(missing) == []


def test_an_undefined_feature_gives_no_tag_although_it_has_a_value() -> None:
    features = {"rsi": 100.0, "efficiency_ratio": 0.9, "undefined_features": ["rsi"]}
    assert evaluate_tags(features) == ["efficient"]


def test_margin_says_how_far_a_rule_is_passed_or_missed() -> None:
    rows = {row["rule_id"]: row for row in explain_tags({"zscore": -2.0, "trend_dir": 1, "rsi": 25.0})}
    margins = {name: rows[name]["margin"] for name in ("mr_zscore", "oversold_zscore", "oversold_rsi")}
    assert margins == {"mr_zscore": 1.0, "oversold_zscore": 0.5, "oversold_rsi": 5.0}
    assert rows["overbought_zscore"]["margin"] == -3.5
    assert (rows["trending_dir"]["margin"], rows["uptrend_dir"]["margin"]) == (-1.0, 1.0)
    assert (rows["mr_zscore"]["value"], rows["mr_zscore"]["computed_value"]) == (-2.0, 2.0)
    assert rows["oversold_zscore"]["computed_value"] is None


def test_evidence_for_an_undefined_feature_claims_nothing() -> None:
    row = next(
        row for row in explain_tags({"rsi": 100.0, "undefined_features": ["rsi"]}) if row["metric"] == "rsi"
    )
    assert (row["passed"], row["value"], row["margin"], row["computed_value"]) == (False, None, None, None)
