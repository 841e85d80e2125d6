"""Choose the parameter set that did best in the other tunes of a group.

A tune's own scores never take part in its own choice: what is chosen on the very data it is judged on
looks better than it is. What the groups are, and what follows of a choice, is the caller's.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from kb_pipeline.rules import MEAN_SCORE_DECIMALS

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


class OwnScores(NamedTuple):
    """The distinct parameter sets of each tune, ordered by tune and set, shape (rows,).

    Position of the tune, number of the set, and the mean of its trials out of sample and in sample;
    NaN where a trial of the set has no score in sample. Every set has one out of sample.
    """

    tunes: Integers
    sets: Integers
    scores: Floats
    scores_in_sample: Floats


class Choice(NamedTuple):
    """Of each tune the row of OwnScores that was chosen, -1 for none, shape (tunes,).

    `compared` is whether any set of the tune was tried in another tune of its group; where it was and
    there is no row, the best set of the group is one that the tune did not try.
    """

    rows: Integers
    compared: Flags


def own_scores(tunes: Integers, sets: Integers, scores: Floats, scores_in_sample: Floats) -> OwnScores:
    """Average the trials of each tune by parameter set; a random search may try one set twice.

    Args:
        tunes: Position of the tune of each trial, shape (trials,).
        sets: Number of its parameter set, at least 0, same shape.
        scores: Its score out of sample, NaN where it has none, same shape.
        scores_in_sample: The same in sample.
    """
    scored = ~np.isnan(scores)
    tunes, sets, values = tunes[scored], sets[scored], np.stack([scores, scores_in_sample])[:, scored]
    if not len(tunes):
        return OwnScores(tunes, sets, values[0], values[1])
    order = np.lexsort((sets, tunes))
    tunes, sets, values = tunes[order], sets[order], values[:, order]
    begins = _beginnings(tunes, sets)
    means = np.add.reduceat(values, begins, axis=1) / np.diff(np.r_[begins, len(tunes)])
    return OwnScores(tunes[begins], sets[begins], means[0], means[1])


def best_elsewhere(own: OwnScores, groups: Integers) -> Choice:
    """Choose for each tune the set with the best mean score over the other tunes of its group.

    Where that is a set the tune did not try, nothing is chosen. Of sets with equal means one the tune
    tried comes first, then the lower number.

    Args:
        own: What each tune scored.
        groups: Group of each tune, -1 for none, shape (tunes,).
    """
    rows = np.flatnonzero(groups[own.tunes] >= 0)
    choice = Choice(np.full(len(groups), -1), np.zeros(len(groups), dtype=bool))
    if not len(rows):
        return choice
    sets = _GroupSets.of(own, rows, groups)
    begins = _beginnings(own.tunes[rows])
    tunes = own.tunes[rows[begins]]
    of_tune = np.repeat(np.arange(len(begins)), np.diff(np.r_[begins, len(rows)]))
    means = sets.means_over_others(own.scores[rows])
    best = np.maximum.reduceat(means, begins)
    choice.compared[tunes] = best > -np.inf
    chosen = np.flatnonzero((means == best[of_tune]) & choice.compared[tunes][of_tune])
    chosen = chosen[_beginnings(of_tune[chosen])]
    untried = sets.best_untried_means(of_tune, begins)
    kept = untried[of_tune[chosen]] <= means[chosen]
    choice.rows[tunes[of_tune[chosen[kept]]]] = rows[chosen[kept]]
    return choice


class _GroupSets(NamedTuple):
    """The sets tried in each group: of each own score the set it belongs to, of each set its sums.

    Sets are ordered by group; `ranks` count from the best mean of the group, `means_by_rank` are in
    that order, and `begins` and `ends` are the group's bounds in it, of each set.
    """

    members: Integers
    totals: Floats
    tunes: Integers
    ranks: Integers
    means_by_rank: Floats
    begins: Integers
    ends: Integers

    @classmethod
    def of(cls, own: OwnScores, rows: Integers, groups: Integers) -> "_GroupSets":
        numbers = int(own.sets.max()) + 1
        keys, members = np.unique(groups[own.tunes[rows]] * numbers + own.sets[rows], return_inverse=True)
        tunes = np.bincount(members).astype(np.int64)
        totals = np.bincount(members, weights=own.scores[rows]).astype(np.float64)
        means = mean_score(totals, tunes)
        order = np.lexsort((-means, keys // numbers))
        bounds = np.r_[_beginnings(keys // numbers), len(keys)]
        group = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))
        ranks = np.empty(len(keys), dtype=np.int64)
        ranks[order] = np.arange(len(keys)) - bounds[group]
        return cls(members, totals, tunes, ranks, means[order], bounds[group], bounds[group + 1])

    def means_over_others(self, scores: Floats) -> Floats:
        """Return the mean of each tried set over the other tunes of its group, -inf for no others."""
        others = self.tunes[self.members] - 1
        means = mean_score(self.totals[self.members] - scores, np.maximum(others, 1))
        return np.where(others > 0, means, -np.inf)

    def best_untried_means(self, of_tune: Integers, begins: Integers) -> Floats:
        """Return the mean of the best set each tune did not try, -inf where it tried all of its group.

        A tune's ranks are sorted; the first place whose rank is not its own number is the best rank
        that is missing among them.
        """
        width = len(self.ranks) + 1
        ranks = np.sort(of_tune * width + self.ranks[self.members]) - of_tune * width
        places = np.arange(len(of_tune)) - begins[of_tune]
        # Past its own sets stands one more place, where the best rank is that nothing before it misses.
        missing = np.diff(np.r_[begins, len(of_tune)])
        gaps = np.flatnonzero(ranks != places)
        first = gaps[_beginnings(of_tune[gaps])]
        missing[of_tune[first]] = places[first]
        member = self.members[begins]
        place = self.begins[member] + missing
        untried = place < self.ends[member]
        return np.where(untried, self.means_by_rank[np.minimum(place, len(self.ranks) - 1)], -np.inf)


def mean_score(totals: Floats, tunes: Integers) -> Floats:
    """Return means, rounded so that what differs by the order of adding alone is a tie."""
    with np.errstate(over="ignore"):  # a score near the end of the floats becomes infinite
        means: Floats = np.round(totals / tunes, MEAN_SCORE_DECIMALS)
    return means


def _beginnings(*columns: Integers) -> Integers:
    """Return where a run of equal rows begins, in columns ordered so that equal rows are neighbours."""
    if not len(columns[0]):
        return np.empty(0, dtype=np.int64)
    changes = np.logical_or.reduce([column[1:] != column[:-1] for column in columns])
    return np.flatnonzero(np.r_[True, changes])
