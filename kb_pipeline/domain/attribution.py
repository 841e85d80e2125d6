"""What a completed tune is attributed: the regime it was won in and the baseline it is held against.

Tags are taken from the stored snapshot, never computed again. Reading tunes and writing the answer
is the attribution backfill's work.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from kb_pipeline.domain.leave_one_out import OwnScores, best_tried, mean_score, own_scores
from kb_pipeline.domain.regime_key import (
    compute_regime_fingerprint,
    regime_key_from_tags,
    regime_tags_of,
)
from kb_pipeline.rules import (
    EXCLUSIVE_TAG_PAIRS,
    MAX_TRIALS_PER_TUNE,
    READABLE_REGIME_SCHEMA_VERSIONS,
)

Floats = npt.NDArray[np.float64]
Hashes = npt.NDArray[np.int64]
Integers = npt.NDArray[np.int64]

LEADERS: Final = MAX_TRIALS_PER_TUNE + 1
"""Parameter sets kept by rank. A tune tries fewer, so the best set it did not try is among them."""


@dataclass(frozen=True, slots=True)
class RegimeIdentity:
    """The regime of a stored snapshot under its names. Tags are None where the key has `_`."""

    schema_version: str
    regime_key: str
    fingerprint: str
    trend_tag: str | None
    vol_tag: str | None
    efficiency_tag: str | None


@lru_cache(maxsize=4096)
def regime_identity(schema_version_json: str | None, tags_json: str | None) -> RegimeIdentity | str:
    """Return the regime of a snapshot from the JSON texts of its version and tags.

    A text that is not a regime is answered with a few words about what is wrong with it: an unknown
    schema version, tags that are not a list of strings, or tags that contradict each other.
    """
    version, tags = _parsed(schema_version_json), _parsed(tags_json)
    if not isinstance(version, str) or version not in READABLE_REGIME_SCHEMA_VERSIONS:
        return f"schema_version is {(schema_version_json or 'absent')[:80]}"
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        return f"regime_tags is {(tags_json or 'absent')[:80]}, not a list of tags"
    contradiction = next((pair for pair in EXCLUSIVE_TAG_PAIRS if set(pair) <= set(tags)), None)
    if contradiction:
        return f"regime_tags holds both {contradiction[0]} and {contradiction[1]}"
    key = regime_key_from_tags(version, tags)
    return RegimeIdentity(version, key, compute_regime_fingerprint(key), *regime_tags_of(tags))


def _parsed(text: str | None) -> object:
    try:
        return json.loads(text) if text else None
    except (ValueError, RecursionError):  # a number of too many digits, or nesting without end
        return None


class SummedSets(NamedTuple):
    """Sums over some tunes of what each parameter set scored.

    Hash of the parameters, sum over the tunes of the set's mean score in each, number of those tunes,
    shape (sets,); hashes of all the tunes looked at, shape (tunes,).
    """

    hashes: Hashes
    totals: Floats
    tunes: Integers
    counted: Hashes

    @classmethod
    def of(cls, trial_tunes: Integers, tried: Hashes, scores: Floats, *, counted: Hashes) -> "SummedSets":
        """Sum up the trials of tunes, given as in `ParameterScores.baselines`."""
        own = own_scores(trial_tunes, tried, scores)
        hashes, set_of, tunes = np.unique(own.sets, return_inverse=True, return_counts=True)
        totals = np.bincount(set_of, weights=own.scores, minlength=len(hashes)).astype(np.float64)
        return cls(hashes, totals, tunes, counted)

    @classmethod
    def joined(cls, parts: Sequence["SummedSets"]) -> "SummedSets":
        """Return parts one after the other; there may be none."""
        whole, real = np.empty(0, np.int64), np.empty(0, np.float64)
        return cls(*map(np.concatenate, zip(cls(whole, real, whole, whole), *parts, strict=True)))


@dataclass(frozen=True, slots=True)
class ParameterScores:
    """Out-of-sample scores of a strategy's parameter sets over all its completed tunes.

    Arrays of shape (sets,), ordered by hash: 64-bit hash of the parameters, sum over the tunes of
    the set's mean score in each, number of tunes. `leaders` are positions of the best sets by mean,
    best first. `counted` are the hashes of the tunes these sums hold, ascending.
    """

    hashes: Hashes
    totals: Floats
    tunes: Integers
    leaders: Integers
    counted: Hashes
    declared_default: int | None = None

    @classmethod
    def of(cls, summed: SummedSets, *, declared_default: int | None = None) -> "ParameterScores":
        """Build from sums in which a set may come in several parts, each over other tunes.

        Of the sets that one tune tried only the leaders are kept: no other set can be a baseline.
        """
        sets, part_of = np.unique(summed.hashes, return_inverse=True)
        total: Floats = np.bincount(part_of, weights=summed.totals, minlength=len(sets)).astype(np.float64)
        count = np.bincount(part_of, weights=summed.tunes, minlength=len(sets)).astype(np.int64)
        by_mean = np.argsort(-mean_score(total, count), kind="stable")[:LEADERS]
        kept = count > 1
        kept[by_mean] = True
        place = np.cumsum(kept) - 1
        counted = np.sort(summed.counted)
        return cls(sets[kept], total[kept], count[kept], place[by_mean], counted, declared_default)

    def baselines(self, tune_hashes: Hashes, trial_tunes: Integers, tried: Hashes, scores: Floats) -> Floats:
        """Return what each tune scored with the baseline parameters, NaN where unknown.

        The baseline parameters are the strategy's declared defaults where a trial of the tune used
        them, else the set with the best mean score over the *other* tunes: the tune's own trials
        are taken out, because its best score is chosen on the data it is scored on. A tune that did
        not try that set has no baseline. Of sets with equal means one the tune tried comes first,
        then the lower hash.

        Args:
            tune_hashes: Hash of each tune's id, shape (tunes,). One that completed after the sums
                were made is not in them, and nothing of it is taken out.
            trial_tunes: Position of the tune of each completed trial, shape (trials,).
            tried: Hash of the trial's parameters, same shape.
            scores: Its out-of-sample score, NaN where it has none, same shape.
        """
        count = len(tune_hashes)
        own = own_scores(trial_tunes, tried, scores)
        means = self._means_over_others(own, _is_among(self.counted, tune_hashes))
        best_row, best_mean = best_tried(own.tunes, means, count)
        known = (best_mean > -np.inf) & (self._best_untried_means(own, best_mean) <= best_mean)
        baselines = np.full(count, np.nan)
        baselines[known] = own.scores[best_row[known]]
        baselines[trial_tunes[tried == self.declared_default]] = np.nan
        default = np.flatnonzero(own.sets == self.declared_default)
        baselines[own.tunes[default]] = own.scores[default]
        return baselines

    def _means_over_others(self, own: OwnScores, is_counted: npt.NDArray[np.bool_]) -> Floats:
        """Return the mean of each tried set over the other tunes, -inf where no other tune tried it."""
        if not len(self.hashes):
            return np.full(len(own.sets), -np.inf)
        place = np.minimum(np.searchsorted(self.hashes, own.sets), len(self.hashes) - 1)
        itself = is_counted[own.tunes]
        others = np.where(self.hashes[place] == own.sets, self.tunes[place] - itself, 0)
        rest = self.totals[place] - np.where(itself, own.scores, 0)
        return np.where(others > 0, mean_score(rest, np.maximum(others, 1)), -np.inf)

    def _best_untried_means(self, own: OwnScores, enough: Floats) -> Floats:
        """Return the mean of the best set each tune did not try, no further down than `enough`."""
        best = np.full(len(enough), -np.inf)
        open_ = np.ones(len(enough), dtype=bool)
        for leader in self.leaders:
            mean = mean_score(self.totals[leader], self.tunes[leader])
            open_ &= mean > enough
            if not open_.any():
                break
            tried = np.zeros(len(enough), dtype=bool)
            tried[own.tunes[own.sets == self.hashes[leader]]] = True
            best[open_ & ~tried] = mean
            open_ &= tried
        return best


def _is_among(ascending: Hashes, wanted: Hashes) -> npt.NDArray[np.bool_]:
    """Return which of `wanted` are in a sorted array; `np.isin` would sort all of it again each time."""
    if not len(ascending):
        return np.zeros(len(wanted), dtype=bool)
    place = np.minimum(np.searchsorted(ascending, wanted), len(ascending) - 1)
    found: npt.NDArray[np.bool_] = ascending[place] == wanted
    return found
