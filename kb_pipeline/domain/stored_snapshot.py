"""Check a stored snapshot before it is believed: its version, its fields' types, its tags.

Stored snapshots come from this project's own backfills and from the platform. What the fields mean
is said in `regime`.
"""

from collections.abc import Callable, Mapping
from sys import float_info
from typing import Any, Final

from kb_pipeline.errors import InvalidSnapshotError, UnknownSchemaVersionError
from kb_pipeline.rules import EXCLUSIVE_TAG_PAIRS, READABLE_REGIME_SCHEMA_VERSIONS


def read_stored_fields(stored: Any, types: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields named in `types` that a stored snapshot has; null counts as missing.

    Args:
        stored: The snapshot as its JSON was parsed.
        types: What each field must be: float, int, str, str | None, list[str] or dict[str, Any].

    Raises:
        UnknownSchemaVersionError: The schema_version is missing, or none that this project reads.
        InvalidSnapshotError: A field cannot be read, or two tags exclude each other.
    """
    if not isinstance(stored, Mapping):
        raise InvalidSnapshotError(f"A stored snapshot was {stored!r}, but must be a JSON object.")
    _require_readable_version(stored.get("schema_version"))
    known = {
        name: _read(name, stored[name], needed)
        for name, needed in types.items()
        if stored.get(name) is not None
    }
    _refuse_contradictions(known.get("regime_tags", ()))
    return known


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= float_info.max


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


_READERS: Final[dict[Any, tuple[str, Callable[[Any], bool], Callable[[Any], Any]]]] = {
    float: ("a finite number", _is_number, float),
    int: ("a whole number", lambda value: _is_number(value) and value == int(value), int),
    str: ("text", _is_text, str),
    str | None: ("text", _is_text, str),
    list[str]: ("a list of texts", lambda value: isinstance(value, list) and all(map(_is_text, value)), list),
    dict[str, Any]: ("an object", lambda value: isinstance(value, dict), dict),
}
"""What a value must be and how it is taken over, by the type of its field."""


def _read(name: str, value: Any, needed: Any) -> Any:
    description, is_readable, take_over = _READERS[needed]
    if not is_readable(value):
        raise InvalidSnapshotError(f"{name} of a stored snapshot was {value!r}, but must be {description}.")
    return take_over(value)


def _require_readable_version(version: object) -> None:
    if not isinstance(version, str) or version not in READABLE_REGIME_SCHEMA_VERSIONS:
        raise UnknownSchemaVersionError(
            f"schema_version of a stored snapshot was {version!r}, but this project reads only "
            f"{', '.join(sorted(READABLE_REGIME_SCHEMA_VERSIONS))}."
        )


def _refuse_contradictions(tags: list[str] | tuple[()]) -> None:
    for pair in EXCLUSIVE_TAG_PAIRS:
        if set(pair) <= set(tags):
            raise InvalidSnapshotError(f"A stored snapshot carries both {pair[0]} and {pair[1]}.")
