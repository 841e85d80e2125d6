"""The partitions: workspaces by slug, symbols, and the product of both.

Which keys there should be, which ones a run was asked for, and the guard against a run that is handed
fewer than that. Where the names come from is the work of resources.py.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

import dagster as dg

WORKSPACES: Final = dg.DynamicPartitionsDefinition(name="workspace")
SYMBOLS: Final = dg.DynamicPartitionsDefinition(name="symbol")
PAIRS: Final = dg.MultiPartitionsDefinition({"workspace": WORKSPACES, "symbol": SYMBOLS})
"""Keys read SYMBOL|workspace: Dagster orders the dimensions by name."""

FORBIDDEN_IN_KEYS: Final = ("|", "...")
"""Dagster joins the dimensions of a key with the first and the ends of a range with the second."""

RANGE_START_TAG: Final = "dagster/asset_partition_range_start"
RANGE_END_TAG: Final = "dagster/asset_partition_range_end"


class PartitionChanges(NamedTuple):
    """What would bring registered keys in step with the names found."""

    add: list[str]
    remove: list[str]
    refused: list[str]


def partition_changes(found: Iterable[str], registered: Iterable[str]) -> PartitionChanges:
    """Return which keys to add and to remove, and which names cannot be keys.

    Finding nothing at all removes nothing: it is more likely a fault of the reading than the truth.
    """
    names = sorted(set(found))
    refused = [name for name in names if not is_usable_key(name)]
    wanted = [name for name in names if is_usable_key(name)]
    known = set(registered)
    gone = sorted(known - set(wanted)) if wanted else []
    return PartitionChanges([name for name in wanted if name not in known], gone, refused)


def is_usable_key(name: str) -> bool:
    """Return whether Dagster can use a name in the keys of both dimensions."""
    return bool(name.strip()) and name.isprintable() and not any(part in name for part in FORBIDDEN_IN_KEYS)


def pair_key(workspace: str, symbol: str) -> str:
    """Return the key of one cell of the product."""
    return f"{symbol}|{workspace}"


def split_pair(key: str) -> tuple[str, str]:
    """Return the workspace and the symbol of a key of the product."""
    symbol, _, workspace = key.partition("|")
    return workspace, symbol


def asked_keys(context: dg.AssetExecutionContext) -> list[str]:
    """Return the partitions that a run of an asset is for.

    Raises:
        Failure: The run has none. Or Dagster handed over fewer than the run's tags ask for: it does
            so, and would report success, for backfills launched from the page of an asset job.
    """
    if not context.has_partition_key and not context.has_partition_key_range:
        raise dg.Failure(
            "This run has no partition. Choose one, or run the job of this asset, which takes names in its "
            "run config.",
            allow_retries=False,
        )
    keys = [str(key) for key in context.partition_keys]
    tags = context.run.tags
    if RANGE_START_TAG not in tags:
        return keys
    definition = context.assets_def.partitions_def
    assert definition is not None  # noqa: S101 - the run has keys of it
    asked = definition.get_partition_keys_in_range(
        dg.PartitionKeyRange(tags[RANGE_START_TAG], tags[RANGE_END_TAG]),
        dynamic_partitions_store=context.instance,
    )
    if len(asked) != len(keys):
        raise dg.Failure(
            f"This run asks for {len(asked)} partitions, but Dagster handed it {len(keys)}. Launch the "
            "backfill from the page of the asset, not from the page of a job. Nothing was written.",
            allow_retries=False,
        )
    return keys
