"""Uplift: what a tune scored with the parameters its regime suggests, minus what it scored with the baseline.

Both are chosen by the scores of other tunes alone. Numbers here are positions and codes; naming them,
reading scores and keeping the answer is the work of the callers.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from kb_pipeline.domain.leave_one_out import OwnScores, best_elsewhere, own_scores
from kb_pipeline.rules import UpliftUnknown

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

REASONS: Final = tuple(UpliftUnknown)


class Tunes(NamedTuple):
    """Completed tunes, column by column, shape (tunes,); every column holds numbers that name something.

    `pools` are strategy, bar length and objective together: only scores of one pool are compared.
    `regimes` are -1 where a tune is not attributed. A trend or volatility without a tag has a number
    like any other. `declared` is the set the strategy declares as its defaults, -1 for none.
    """

    pools: Integers
    regimes: Integers
    trends: Integers
    volatilities: Integers
    declared: Integers


class Trials(NamedTuple):
    """Completed trials, shape (trials,): position of the tune, number of the parameter set, its scores.

    Scores are NaN where there is none. Sets of one number have the same parameters.
    """

    tunes: Integers
    sets: Integers
    scores: Floats
    scores_in_sample: Floats


@dataclass(frozen=True, slots=True)
class Uplifts:
    """What is known of each tune, shape (tunes,); floats are NaN where unknown.

    `uplifts` are against the baseline, `over_blind` against the set with the best mean whatever the
    regime, which is the baseline too unless defaults are declared. `gaps` are scores in sample minus
    out of sample with the parameters the regime suggests. `tiers` are places in TIERS of how they were
    found, `reasons` places in REASONS of why the uplift is unknown, -1 for none. `same` is whether the
    regime suggests the baseline itself.
    """

    uplifts: Floats
    over_blind: Floats
    gaps: Floats
    tiers: Integers
    reasons: Integers
    by_default: Flags
    same: Flags

    @property
    def known(self) -> Flags:
        """Whether the uplift is known, shape (tunes,)."""
        return self.reasons < 0


def measure_uplifts(tunes: Tunes, trials: Trials) -> Uplifts:
    """Return the uplift of every tune, or the reason it has none.

    The baseline is the declared default where a trial of the tune used it, else the set with the best
    mean over the other tunes of the pool. The parameters suggested are those with the best mean over
    the other tunes of the same pool and regime; where no other tune there shares a set with this one,
    over those of a regime like it, from tier to tier. A set that the tune did not try has no score in
    it: then the uplift is unknown.
    """
    own = own_scores(trials.tunes, trials.sets, trials.scores)
    blind = best_elsewhere(own, tunes.pools).rows
    baseline, by_default = _baselines(own, tunes, trials, blind)
    selected, tiers = _selected(own, tunes)
    scored = np.zeros(len(tunes.pools), dtype=bool)
    scored[own.tunes] = True
    # In the order of REASONS, so that the first that holds is the one counted.
    unknown = (tunes.regimes < 0, ~scored, baseline < 0, tiers < 0, selected < 0)
    reasons = np.select(unknown, range(len(REASONS)), -1)
    selected[reasons >= 0] = -1
    scores = _at(own.scores, selected)
    return Uplifts(
        uplifts=scores - _at(own.scores, baseline),
        over_blind=scores - _at(own.scores, blind),
        gaps=_scores_in_sample(own, trials, selected) - scores,
        tiers=np.where(reasons < 0, tiers, -1),
        reasons=reasons,
        by_default=by_default,
        same=(selected == baseline) & (reasons < 0),
    )


def _baselines(own: OwnScores, tunes: Tunes, trials: Trials, blind: Integers) -> tuple[Integers, Flags]:
    """Return the row of each tune's baseline, -1 where unknown, and whether it is the declared default."""
    rows = blind.copy()
    used = np.zeros(len(rows), dtype=bool)
    used[trials.tunes[trials.sets == tunes.declared[trials.tunes]]] = True
    rows[used] = -1  # a default that was tried and has no score is not replaced by another set
    defaults = np.flatnonzero(own.sets == tunes.declared[own.tunes])
    rows[own.tunes[defaults]] = defaults
    return rows, used


def _selected(own: OwnScores, tunes: Tunes) -> tuple[Integers, Integers]:
    """Return the row of the set each tune's regime suggests, -1 for none, and the tier that answered."""
    rows, tiers = np.full(len(tunes.pools), -1), np.full(len(tunes.pools), -1)
    for tier, groups in enumerate(_like_regimes(tunes)):
        waiting = np.unique(groups[tiers < 0])
        choice = best_elsewhere(own, np.where(np.isin(groups, waiting), groups, -1))
        answered = (tiers < 0) & choice.compared
        rows[answered] = choice.rows[answered]
        tiers[answered] = tier
    return rows, tiers


def _like_regimes(tunes: Tunes) -> Iterator[Integers]:
    """Yield the groups of tunes whose regimes are alike, tier by tier; no tag is a tag like any other."""
    trends = np.where(tunes.regimes < 0, -1, tunes.trends)
    volatilities = np.where(tunes.regimes < 0, -1, tunes.volatilities)
    yield combined(tunes.pools, tunes.regimes)
    yield combined(tunes.pools, trends, volatilities)
    yield combined(tunes.pools, trends)
    yield combined(tunes.pools, volatilities)


def combined(*columns: Integers) -> Integers:
    """Return one number for each distinct row of the columns, -1 where one of them is -1."""
    numbers: Integers = np.zeros(len(columns[0]), dtype=np.int64)
    absent = np.logical_or.reduce([column < 0 for column in columns])
    for column in columns:
        width = int(column.max(initial=0)) + 1
        _, numbers = np.unique(numbers * width + column, return_inverse=True)
    return np.where(absent, -1, numbers)


def _scores_in_sample(own: OwnScores, trials: Trials, selected: Integers) -> Floats:
    """Return the mean score in sample of each tune's selected set, NaN where a trial of it has none."""
    chosen = np.full(len(selected), -1)
    chosen[selected >= 0] = own.sets[selected[selected >= 0]]
    of_chosen = (trials.sets == chosen[trials.tunes]) & ~np.isnan(trials.scores)
    tunes, scores = trials.tunes[of_chosen], trials.scores_in_sample[of_chosen]
    means = np.full(len(selected), np.nan)
    means[tunes] = (np.bincount(tunes, weights=scores) / np.maximum(np.bincount(tunes), 1))[tunes]
    return means


def _at(values: Floats, rows: Integers) -> Floats:
    """Return the values of some rows, NaN where the row is -1."""
    found = np.full(len(rows), np.nan)
    found[rows >= 0] = values[rows[rows >= 0]]
    return found
