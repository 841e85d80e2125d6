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

    Position of the tune, name of the set (a hash or a number), mean score of its trials.
    """

    tunes: Integers
    sets: Integers
    scores: Floats


class Choice(NamedTuple):
    """Of each tune the row of OwnScores that was chosen, -1 for none, shape (tunes,).

    `compared` is whether any set of the tune was tried in another tune of its group; where it was and
    there is no row, the best set of the group is one that the tune did not try.
    """

    rows: Integers
    compared: Flags


def own_scores(tunes: Integers, sets: Integers, scores: Floats) -> OwnScores:
    """Average the trials of each tune by parameter set; a random search may try one set twice.

    Args:
        tunes: Position of the tune of each trial, shape (trials,).
        sets: Its parameter set, same shape.
        scores: Its score, NaN where it has none, same shape. Such a trial counts for nothing.
    """
    scored = ~np.isnan(scores)
    tunes, sets, scores = tunes[scored], sets[scored], scores[scored]
    if not len(tunes):
        return OwnScores(tunes, sets, scores)
    order = np.lexsort((sets, tunes))
    tunes, sets, scores = tunes[order], sets[order], scores[order]
    begins = _beginnings(tunes, sets)
    trials = np.diff(np.r_[begins, len(tunes)])
    return OwnScores(tunes[begins], sets[begins], np.add.reduceat(scores, begins) / trials)


def best_tried(tunes: Integers, means: Floats, count: int) -> tuple[Integers, Floats]:
    """Return of each tune its row with the best mean and that mean; -1 and -inf where it has no row.

    Of rows with equal means it is the first.

    Args:
        tunes: Position of the tune of each row, ascending, shape (rows,).
        means: Mean score of the row's set in other tunes, -inf where none tried it, same shape.
        count: Number of tunes.
    """
    best_rows, best_means = np.full(count, -1), np.full(count, -np.inf)
    if len(tunes):
        begins = _beginnings(tunes)
        best_means[tunes[begins]] = np.maximum.reduceat(means, begins)
        at_best = np.flatnonzero(means == best_means[tunes])
        first = at_best[_beginnings(tunes[at_best])]
        best_rows[tunes[first]] = first
    return best_rows, best_means


def best_elsewhere(own: OwnScores, groups: Integers) -> Choice:
    """Choose for each tune the set with the best mean score over the other tunes of its group.

    Where that is a set the tune did not try, nothing is chosen. Of sets with equal means one the tune
    tried comes first, then the lower number.

    Args:
        own: What each tune scored; sets are named by numbers from 0.
        groups: Group of each tune, -1 for none, shape (tunes,).
    """
    rows = np.flatnonzero(groups[own.tunes] >= 0)
    inside = OwnScores(own.tunes[rows], own.sets[rows], own.scores[rows])
    tried = _GroupSets.of(inside, groups)
    best, means = best_tried(inside.tunes, tried.means_over_others(inside.scores), len(groups))
    compared = means > -np.inf
    chosen = np.flatnonzero(compared & (tried.best_untried_means(inside.tunes, len(groups)) <= means))
    choice = np.full(len(groups), -1)
    choice[chosen] = rows[best[chosen]]
    return Choice(choice, compared)


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
    def of(cls, own: OwnScores, groups: Integers) -> "_GroupSets":
        numbers = int(own.sets.max(initial=0)) + 1
        keys, members = np.unique(groups[own.tunes] * numbers + own.sets, return_inverse=True)
        tunes = np.bincount(members).astype(np.int64)
        totals = np.bincount(members, weights=own.scores).astype(np.float64)
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

    def best_untried_means(self, tunes: Integers, count: int) -> Floats:
        """Return the mean of the best set each tune did not try, -inf where it tried all of its group.

        Its rank is the lowest that is missing among the ranks of the sets the tune tried: in ascending
        order, the first place whose number is not the rank that stands there.
        """
        best = np.full(count, -np.inf)
        begins = _beginnings(tunes)
        sets_of = np.diff(np.r_[begins, len(tunes)])
        of_tune = np.repeat(np.arange(len(begins)), sets_of)
        width = len(self.ranks) + 1
        ranks = np.sort(of_tune * width + self.ranks[self.members]) - of_tune * width
        places = np.arange(len(tunes)) - begins[of_tune]
        gaps = np.flatnonzero(ranks != places)
        first = gaps[_beginnings(of_tune[gaps])]
        missing = sets_of
        missing[of_tune[first]] = places[first]
        member = self.members[begins]
        rank = self.begins[member] + missing
        untried = np.flatnonzero(rank < self.ends[member])
        best[tunes[begins[untried]]] = self.means_by_rank[rank[untried]]
        return best


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
