"""Compare the regime of a question with those of a workspace's tunes and runs, by distance.

The features lie packed in Postgres (`storage.regime_vectors`). What changed since somebody last asked
is packed first, so an answer is never older than the question; where that is not allowed or another
session is at it, the answer says how much it does not know.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final, NamedTuple, TypeGuard
from uuid import UUID

import numpy as np
import numpy.typing as npt
import psycopg

from kb_pipeline.domain.matching import (
    Contribution,
    Floats,
    distances,
    largest_contributions,
    robust_scales,
)
from kb_pipeline.storage import recommend_events, regime_vectors
from kb_pipeline.storage.postgres import Connection
from kb_pipeline.storage.recommend_events import ScoreGroup, Source
from kb_pipeline.storage.regime_vectors import ID_BYTES, Bucket, BucketKey

_PIECE: Final = 50_000
"""Tunes and runs packed in one transaction: a second or two, and some ten megabytes."""

_NOT_ALLOWED: Final = (
    psycopg.errors.ReadOnlySqlTransaction,
    psycopg.errors.InsufficientPrivilege,
    psycopg.errors.LockNotAvailable,
)


Progress = Callable[[int, int], None]
"""Told how many changed tunes and runs are packed, of how many."""


class Scales(NamedTuple):
    """The robust scales of a workspace, None before anything is packed, and what still waits to be."""

    values: Floats | None
    waiting: int

    @property
    def warnings(self) -> list[str]:
        """What an answer by these scales does not know."""
        changed = f"Changed lately and not in the distances yet: {self.waiting:,} tunes or runs."
        return [changed] if self.waiting else []


class Near(NamedTuple):
    """A tune or run near the regime asked about."""

    source_type: str
    id: str
    distance: float


def pack_changes(
    connection: Connection, workspace_id: UUID, progress: Progress = lambda _packed, _changed: None
) -> Scales:
    """Pack the features of what changed since the last question; cost follows what is new.

    What changes meanwhile is left for the next one, so that no answer runs after a backfill.
    """
    scales, waiting = regime_vectors.state(connection, workspace_id)
    changed = waiting
    try:
        for left in reversed(range(math.ceil(waiting / _PIECE))):
            if not _pack_piece(connection, workspace_id, is_last=left == 0):
                break
            scales, waiting = regime_vectors.state(connection, workspace_id)
            progress(max(changed - waiting, 0), changed)
    except _NOT_ALLOWED:
        pass
    return Scales(scales, waiting)


def _pack_piece(connection: Connection, workspace_id: UUID, *, is_last: bool) -> bool:
    """Pack a piece of the changes in one transaction, scales included in the last; say whether it did."""
    with connection.transaction():
        if not regime_vectors.try_lock(connection, workspace_id):
            return False
        changed = regime_vectors.take_changes(connection, workspace_id, _PIECE)
        ids = {source_type: _split(joined) for source_type, joined in changed.items()}
        buckets = sorted({one[-1] for of_type in ids.values() for one in of_type})
        known = regime_vectors.read_buckets(connection, workspace_id, buckets)
        kept = _without(known, {source_type: set(of_type) for source_type, of_type in ids.items()})
        sent = {source_type: [UUID(bytes=it) for it in of_type] for source_type, of_type in ids.items()}
        for group, records in regime_vectors.read_features(connection, workspace_id, sent):
            _add(kept, known, group, records)
        regime_vectors.replace_buckets(connection, workspace_id, kept)
        if is_last:
            features = regime_vectors.all_features(connection, workspace_id)
            regime_vectors.keep_scales(connection, workspace_id, robust_scales(features), features.shape[1])
    return True


def _split(joined: bytes) -> list[bytes]:
    return [joined[at : at + ID_BYTES] for at in range(0, len(joined), ID_BYTES)]


def _without(known: Mapping[BucketKey, Bucket], changed: Mapping[str, set[bytes]]) -> dict[BucketKey, Bucket]:
    """Return the buckets that lose rows, without them: what changed may belong to another group now."""
    kept = {}
    for key, bucket in known.items():
        gone = changed.get(key.source_type, set())
        stays = np.array([one not in gone for one in bucket.ids.tolist()], dtype=bool)
        if not stays.all():
            kept[key] = Bucket(bucket.ids[stays], bucket.features[:, stays])
    return kept


def _add(
    kept: dict[BucketKey, Bucket],
    known: Mapping[BucketKey, Bucket],
    group: tuple[str, str, str, str],
    records: npt.NDArray[np.void],
) -> None:
    """Put the rows of one group behind those their buckets keep."""
    last_bytes = np.ascontiguousarray(records["id"]).view(np.uint8).reshape(-1, ID_BYTES)[:, -1]
    with np.errstate(over="ignore"):  # beyond float4 is as good as undefined
        features = records["features"].T.astype(np.float32)
    features[~np.isfinite(features)] = np.nan
    for last_byte in np.unique(last_bytes).tolist():
        key, rows = BucketKey(*group, last_byte), last_bytes == last_byte
        before = kept.get(key) or known.get(key)
        added = Bucket(records["id"][rows], features[:, rows])
        kept[key] = added if before is None else _joined(before, added)


def _joined(one: Bucket, other: Bucket) -> Bucket:
    return Bucket(
        np.concatenate([one.ids, other.ids]), np.concatenate([one.features, other.features], axis=1)
    )


def nearest_sources(
    connection: Connection,
    workspace_id: UUID,
    asked: Floats,
    scales: Floats,
    count: int,
    *,
    group: ScoreGroup | None = None,
    scored: bool = True,
) -> list[Source]:
    """Return the tunes and runs of least distance, nearest first and ties by id, of all that are packed.

    `group` restricts them to a strategy, timeframe and objective, `scored` to those with a score. What
    lies packed may be gone since; then more are looked at, and the next packing leaves it out.
    """
    wanted = count
    while True:
        near = _nearest(connection, workspace_id, asked, scales, wanted, group)
        known = recommend_events.candidates_by_id(connection, workspace_id, [it.id for it in near])
        found = [known[it.id] for it in near if it.id in known]
        found = [it for it in found if not scored or is_score(it.score)]
        if len(found) >= count or len(near) < wanted:
            _note_gone(connection, workspace_id, [it for it in near if it.id not in known])
            return found[:count]
        wanted *= 2


def is_score(score: float | None) -> TypeGuard[float]:
    """Say whether a stored score is a number to rank by."""
    return score is not None and math.isfinite(score)


def _nearest(
    connection: Connection,
    workspace_id: UUID,
    asked: Floats,
    scales: Floats,
    count: int,
    group: ScoreGroup | None,
) -> list[Near]:
    best: list[Near] = []
    for source_type, bucket in regime_vectors.packed(connection, workspace_id, group):
        apart = distances(bucket.features, asked, scales)
        limit = best[count - 1].distance if len(best) >= count else np.inf
        if len(apart) > count:
            limit = min(limit, float(np.partition(apart, count - 1)[count - 1]))
        near = np.flatnonzero((apart <= limit) & np.isfinite(apart))
        # tunes of one window share their snapshot, so a bucket may hold thousands as near as each other
        rows = near[_in_order(bucket.ids[near], apart[near])[:count]].tolist()
        best += [Near(source_type, str(UUID(bytes=bucket.ids[row].tobytes())), apart[row]) for row in rows]
        best = sorted(best, key=lambda it: (it.distance, it.id))[:count]
    return best


def _in_order(ids: npt.NDArray[np.void], apart: Floats) -> npt.NDArray[np.intp]:
    """Return the places of rows by distance, ties by id."""
    halves = ids.view(">u8").reshape(-1, 2)
    return np.lexsort((halves[:, 1], halves[:, 0], apart))


def _note_gone(connection: Connection, workspace_id: UUID, gone: Sequence[Near]) -> None:
    for source_type in sorted({it.source_type for it in gone}):
        ids = [it.id for it in gone if it.source_type == source_type]
        with suppress(*_NOT_ALLOWED), connection.transaction():
            regime_vectors.note_changes(connection, workspace_id, source_type, ids)


def _features_of(connection: Connection, workspace_id: UUID, sources: Sequence[Source]) -> dict[str, Floats]:
    """Return the features of tunes and runs by id, NaN where undefined."""
    ids: dict[str, list[UUID]] = {}
    for it in sources:
        ids.setdefault(it.source_type, []).append(UUID(it.id))
    return {
        str(UUID(bytes=record["id"].tobytes())): record["features"].astype(np.float64)
        for _, records in regime_vectors.read_features(connection, workspace_id, ids)
        for record in records
    }


class Apart(NamedTuple):
    """How far a source is from the regime asked about, and what makes up most of it."""

    distance: float
    contributions: list[Contribution]


def apart_from(
    connection: Connection,
    workspace_id: UUID,
    asked: Floats,
    scales: Floats,
    sources: Sequence[Source],
) -> dict[str, Apart]:
    """Return the distance of tunes and runs, by their ids, from their own snapshots.

    One that shares too few features with what was asked about is not among them.
    """
    features = _features_of(connection, workspace_id, sources)
    if not features:
        return {}
    apart = distances(np.array(list(features.values())).T, asked, scales).tolist()
    return {
        source_id: Apart(distance, largest_contributions(asked, theirs, scales))
        for (source_id, theirs), distance in zip(features.items(), apart, strict=True)
        if math.isfinite(distance)
    }
