"""Name the regime of a snapshot: its key, the key's fingerprint, and the tags in it.

The order in which tags count is in rules.py. Which tags hold is the work of `tags`.
"""

from collections.abc import Collection, Mapping, Sequence
from hashlib import sha256
from typing import Any, NamedTuple

from kb_pipeline.domain.regime import RegimeSnapshot
from kb_pipeline.rules import (
    EFFICIENCY_TAGS_BY_PRIORITY,
    REGIME_KEY_ABSENT,
    REGIME_KEY_SEPARATOR,
    TAG_RULESET_ID,
    TREND_TAGS_BY_PRIORITY,
    VOLATILITY_TAGS_BY_PRIORITY,
)


class RegimeTags(NamedTuple):
    """The tag of each dimension of a regime, None where it has none; named as the stored columns."""

    trend_tag: str | None
    vol_tag: str | None
    efficiency_tag: str | None


def regime_tags_of(tags: Collection[str]) -> RegimeTags:
    """Return the tag of each dimension: the first of its priority that is among `tags`."""
    return RegimeTags(
        _first_of(TREND_TAGS_BY_PRIORITY, tags),
        _first_of(VOLATILITY_TAGS_BY_PRIORITY, tags),
        _first_of(EFFICIENCY_TAGS_BY_PRIORITY, tags),
    )


def regime_key_from_tags(schema_version: str, tags: Collection[str], ruleset_id: str = TAG_RULESET_ID) -> str:
    """Return the key of a snapshot of which only the schema version and the tags are at hand."""
    dimensions = (tag or REGIME_KEY_ABSENT for tag in regime_tags_of(tags))
    return REGIME_KEY_SEPARATOR.join((schema_version, ruleset_id, *dimensions))


def compute_regime_key(snapshot: RegimeSnapshot | Mapping[str, Any], ruleset_id: str = TAG_RULESET_ID) -> str:
    """Return `schema_version|ruleset_id|trend|vol|efficiency`, `_` where a dimension has no tag.

    Args:
        snapshot: A snapshot, or a stored one as `RegimeSnapshot.from_dict` reads it.
        ruleset_id: Ruleset that the snapshot's tags come from.

    Raises:
        UnknownSchemaVersionError: The stored snapshot has a layout this project does not know.
        InvalidSnapshotError: The stored snapshot cannot be read, or contradicts itself.
    """
    read = RegimeSnapshot.from_dict(snapshot) if isinstance(snapshot, Mapping) else snapshot
    return regime_key_from_tags(read.schema_version, read.regime_tags, ruleset_id)


def compute_regime_fingerprint(regime_key: str) -> str:
    """Return the lower-case hexadecimal SHA-256 of the key's UTF-8, 64 characters."""
    return sha256(regime_key.encode()).hexdigest()


def _first_of(priority: Sequence[str], tags: Collection[str]) -> str | None:
    return next((tag for tag in priority if tag in tags), None)
