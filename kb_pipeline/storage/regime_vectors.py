"""Keep regime features packed, by the last byte of an id. Statements: `sql/regime_vectors.sql`.

A bucket holds the tunes, or the runs, of one strategy, timeframe and objective whose ids end in one
byte: a few thousand where a workspace has a million, so that a change rewrites little and a scan reads
few rows. Random in every kind of UUID, the last byte spreads them evenly.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple
from uuid import UUID

import numpy as np
import numpy.typing as npt

from kb_pipeline.domain.matching import Floats
from kb_pipeline.rules import DISTANCE_FEATURES
from kb_pipeline.sql import statement
from kb_pipeline.storage.postgres import Connection
from kb_pipeline.storage.recommend_events import ScoreGroup

ID_BYTES: Final = 16
_FEATURE: Final = np.dtype("<f4")
_SENT: Final = np.dtype([("id", f"V{ID_BYTES}"), ("features", ">f8", (len(DISTANCE_FEATURES),))])
"""One tune or run as the statement `features` sends it."""


class BucketKey(NamedTuple):
    """What the rows of a bucket have in common."""

    strategy_id: str
    timeframe: str
    objective: str
    source_type: str
    bucket: int


class Bucket(NamedTuple):
    """Ids, shape (rows,) of 16 bytes each, and their features, shape (8, rows), NaN where undefined."""

    ids: npt.NDArray[np.void]
    features: npt.NDArray[np.float32]


def state(connection: Connection, workspace_id: UUID) -> tuple[Floats | None, int]:
    """Return the scales of a workspace, None where there are none, and the number of waiting changes."""
    row = connection.execute(
        statement("regime_vectors.state"), {"workspace_id": workspace_id}, binary=True
    ).fetchone()
    scales, waiting = row or (None, 0)
    return None if scales is None else np.array(scales), int(waiting)


def try_lock(connection: Connection, workspace_id: UUID) -> bool:
    """Become the one who packs this workspace until the transaction ends, unless another one is at it."""
    row = connection.execute(statement("regime_vectors.try_lock"), {"workspace_id": workspace_id}).fetchone()
    return row == (True,)


def take_changes(connection: Connection, workspace_id: UUID, most: int) -> dict[str, bytes]:
    """Take about this many noted changes away; return their ids, 16 bytes each, by source type."""
    with connection.joined(), connection.cursor(binary=True) as cursor:
        parameters = {"workspace_id": workspace_id, "most": most}
        return dict(cursor.execute(statement("regime_vectors.take_changes"), parameters).fetchall())


def note_changes(connection: Connection, workspace_id: UUID, source_type: str, ids: Sequence[str]) -> None:
    """Note tunes or runs whose packed features cannot be right."""
    connection.execute(
        statement("regime_vectors.note_changes"),
        {"workspace_id": workspace_id, "source_type": source_type, "ids": list(ids)},
    )


def start_over(connection: Connection, workspace_id: UUID) -> None:
    """Throw the packed features of a workspace away and note all its tunes and runs."""
    with connection.transaction():
        for name in ("delete_workspace", "note_everything"):
            connection.execute(statement(f"regime_vectors.{name}"), {"workspace_id": workspace_id})


def read_features(
    connection: Connection, workspace_id: UUID, ids: Mapping[str, Sequence[UUID]]
) -> Iterator[tuple[tuple[str, str, str, str], npt.NDArray[np.void]]]:
    """Yield (strategy id, timeframe, objective, source type) and the SENT records of its tunes or runs.

    `ids` holds those of source type `tune` and `run`. What is not attributed, or not ingested, is left out.
    """
    parameters = {
        "workspace_id": workspace_id,
        "tune_ids": list(ids.get("tune", ())),
        "run_ids": list(ids.get("run", ())),
    }
    with connection.joined(), connection.cursor(binary=True) as cursor:
        for source_type, *group, sent in cursor.execute(statement("regime_vectors.features"), parameters):
            yield (*group, source_type), np.frombuffer(sent, dtype=_SENT)


def read_buckets(
    connection: Connection, workspace_id: UUID, buckets: Sequence[int]
) -> dict[BucketKey, Bucket]:
    """Return the rows of some buckets."""
    parameters = {"workspace_id": workspace_id, "buckets": list(buckets)}
    with connection.joined(), connection.cursor(binary=True) as cursor:
        rows = cursor.execute(statement("regime_vectors.read_buckets"), parameters)
        return {BucketKey(*key): Bucket(_ids(ids), _features(features)) for *key, ids, features in rows}


def replace_buckets(connection: Connection, workspace_id: UUID, buckets: Mapping[BucketKey, Bucket]) -> None:
    """Write buckets as a whole; an empty one is deleted."""
    keys = list(buckets)
    connection.execute(
        statement("regime_vectors.replace_buckets"),
        {
            "workspace_id": workspace_id,
            **{f"{name}s": [getattr(key, name) for key in keys] for name in BucketKey._fields},
            "ids": [bucket.ids.tobytes() for bucket in buckets.values()],
            "features": [bucket.features.astype(_FEATURE).tobytes() for bucket in buckets.values()],
        },
    )


def all_features(connection: Connection, workspace_id: UUID) -> npt.NDArray[np.float32]:
    """Return the packed features of a workspace, shape (8, rows)."""
    with connection.joined(), connection.cursor(binary=True) as cursor:
        rows = cursor.execute(statement("regime_vectors.all_features"), {"workspace_id": workspace_id})
        parts = [_features(features) for (features,) in rows]
    return np.concatenate(parts, axis=1) if parts else np.empty((len(DISTANCE_FEATURES), 0), np.float32)


def keep_scales(connection: Connection, workspace_id: UUID, scales: Floats, snapshots: int) -> None:
    """Keep the scales that a workspace's packed features have."""
    connection.execute(
        statement("regime_vectors.keep_scales"),
        {"workspace_id": workspace_id, "scales": scales.tolist(), "snapshots": snapshots},
    )


def packed(
    connection: Connection, workspace_id: UUID, group: ScoreGroup | None
) -> Iterator[tuple[str, Bucket]]:
    """Yield (source type, bucket) of a workspace, or of one of its score groups, one at a time."""
    named = group._asdict() if group else dict.fromkeys(ScoreGroup._fields)
    with connection.joined(), connection.cursor(binary=True) as cursor:
        parameters = {"workspace_id": workspace_id, **named}
        for source_type, _, features, ids in cursor.stream(statement("regime_vectors.packed"), parameters):
            yield source_type, Bucket(_ids(ids), _features(features))


def _ids(packed_ids: bytes) -> npt.NDArray[np.void]:
    return np.frombuffer(packed_ids, dtype=f"V{ID_BYTES}")


def _features(packed_features: bytes) -> npt.NDArray[np.float32]:
    return np.frombuffer(packed_features, dtype=_FEATURE).reshape(len(DISTANCE_FEATURES), -1)
