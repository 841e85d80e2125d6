"""Apply the tag ruleset to features: which tags hold, and the evidence for each.

The rules themselves are in rules.py. The order of tags in a regime key is the work of `regime_key`.
A feature that is missing, undefined or not finite passes no rule.
"""

import math
from collections.abc import Mapping
from functools import reduce
from itertools import groupby
from numbers import Real
from operator import and_, eq, ge, gt, lt, or_
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from kb_pipeline.domain.flags import Flags, pack_flags
from kb_pipeline.rules import TAG_RULES, TagRule

if TYPE_CHECKING:
    from kb_pipeline.domain.regime import RegimeSnapshot

TAGS: Final = tuple(sorted({rule.tag for rule in TAG_RULES}))
"""Every tag of the ruleset, in stored order."""

_COMPARISONS: Final = {">=": ge, ">": gt, "<": lt, "==": eq}
_METRICS: Final = tuple(sorted({rule.metric for rule in TAG_RULES}))
_GROUPS_BY_TAG: Final = {
    tag: [
        list(group)
        for _, group in groupby([rule for rule in TAG_RULES if rule.tag == tag], lambda rule: rule.group)
    ]
    for tag in TAGS
}


def evaluate_tags(features: Mapping[str, Any]) -> list[str]:
    """Return the tags that hold, sorted.

    Args:
        features: Feature values by name, such as a stored snapshot. One that is absent, None, not
            finite, or listed under `undefined_features` gives no tag.
    """
    values = _metric_values(features)
    return [
        tag
        for tag, groups in _GROUPS_BY_TAG.items()
        if any(all(_passes(rule, values[rule.metric]) for rule in group) for group in groups)
    ]


def tag_flags(features: Mapping[str, NDArray[np.float64]]) -> Flags:
    """Return the tags of many rows at once, one bit for each of `TAGS`.

    Args:
        features: Arrays of shape (rows,) by feature name, NaN where a feature is undefined.
    """
    return pack_flags(
        reduce(
            or_, [reduce(and_, [_passes(rule, features[rule.metric]) for rule in group]) for group in groups]
        )
        for groups in _GROUPS_BY_TAG.values()
    )


def explain_tags(snapshot: "RegimeSnapshot | Mapping[str, Any]") -> list[dict[str, Any]]:
    """Return the evidence, one object a rule in the order of the ruleset.

    Args:
        snapshot: A snapshot, or a mapping of features as `evaluate_tags` takes.

    Returns:
        Objects of tag, rule_id, passed, metric, value, op, threshold, units, margin, transform,
        computed_value (what was compared, where a transform came before) and confidence (always
        None). The margin is positive by how far a rule is passed, negative by how far it is missed.
        Value and margin are None where the feature is undefined.
    """
    values = _metric_values(snapshot if isinstance(snapshot, Mapping) else snapshot.to_dict())
    return [_evidence(rule, values[rule.metric]) for rule in TAG_RULES]


def _metric_values(features: Mapping[str, Any]) -> dict[str, float]:
    undefined = features.get("undefined_features") or ()
    return {name: math.nan if name in undefined else _number(features.get(name)) for name in _METRICS}


def _number(value: object) -> float:
    # No comparison with NaN holds, so what is missing passes no rule.
    return float(value) if isinstance(value, Real) and math.isfinite(value) else math.nan


def _compared(rule: TagRule, value: Any) -> Any:
    return abs(value) if rule.transform == "abs" else value


def _passes(rule: TagRule, value: Any) -> Any:
    return _COMPARISONS[rule.op](_compared(rule, value), rule.threshold)


def _margin(rule: TagRule, value: float) -> float:
    compared = _compared(rule, value)
    if rule.op == "==":
        return float(-abs(compared - rule.threshold))
    return float(rule.threshold - compared if rule.op == "<" else compared - rule.threshold)


def _evidence(rule: TagRule, value: float) -> dict[str, Any]:
    is_known = not math.isnan(value)
    return {
        "tag": rule.tag,
        "rule_id": rule.rule_id,
        "passed": _passes(rule, value),
        "metric": rule.metric,
        "value": value if is_known else None,
        "op": rule.op,
        "threshold": rule.threshold,
        "units": rule.units,
        "margin": _margin(rule, value) if is_known else None,
        "transform": rule.transform,
        "computed_value": _compared(rule, value) if is_known and rule.transform else None,
        "confidence": None,
    }
