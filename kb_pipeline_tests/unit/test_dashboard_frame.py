"""What follows from what was read: gaps in coverage, weeks, and the grid of markets."""

from datetime import date

from kb_pipeline.dashboard.frame import Scoring, coverage_gaps, market_grids, tier_weeks
from kb_pipeline.dashboard.heat_map import heat_map, market_table
from kb_pipeline_tests.builders import FLAT_KEY
from kb_pipeline_tests.dashboards import group, sighting

TREND_KEY = "regime_v1_1|default_v1|uptrend|high_vol|_"


def test_four_scored_tunes_are_one_too_few_and_five_are_enough() -> None:
    groups = [group(tunes=9, scored=4), group(regime_key=TREND_KEY, scored=5)]
    (gap,) = coverage_gaps(groups, [], {})
    assert (gap.strategy, gap.regime_key, gap.scored, gap.missing) == ("trend_following", FLAT_KEY, 4, 1)


def test_a_regime_that_another_strategy_or_a_single_run_met_is_a_gap_of_five() -> None:
    groups = [group(), group(strategy_id="r", strategy="reversal", regime_key=TREND_KEY, scored=8)]
    gaps = coverage_gaps(groups, [sighting(regime_key="a key of runs alone")], {})
    assert {(it.strategy, it.regime_key, it.missing) for it in gaps} == {
        ("trend_following", TREND_KEY, 5),
        ("reversal", FLAT_KEY, 5),
        ("trend_following", "a key of runs alone", 5),
        ("reversal", "a key of runs alone", 5),
    }


def test_a_regime_met_with_other_bars_is_no_gap() -> None:
    assert coverage_gaps([group()], [sighting(regime_key=TREND_KEY, timeframe="1h")], {}) == []


def test_a_gap_names_two_windows_on_which_its_strategy_was_not_tuned() -> None:
    seen = [
        sighting(symbol=name, tuned_by=frozenset(by))
        for name, by in zip("ABCD", ("s", "", "r", ""), strict=True)
    ]
    (gap,) = coverage_gaps([group(scored=1)], seen, {})
    assert [it.symbol for it in gap.untried] == ["B", "C"]


def test_gaps_asked_for_come_first_then_those_with_a_window_then_the_smallest() -> None:
    groups = [
        group(regime_key=key, scored=scored) for key, scored in (("a", 4), ("b", 1), ("c", 3), ("d", 0))
    ]
    gaps = coverage_gaps(
        groups, [sighting(regime_key="b"), sighting(regime_key="c")], {("s", "d"): 2, ("r", "a"): 9}
    )
    assert [(it.regime_key, it.asked) for it in gaps] == [("d", 2), ("c", 0), ("b", 0), ("a", 0)]


def test_the_mean_of_a_market_counts_every_scored_tune_once() -> None:
    # 2 tunes of mean 1 and 6 of mean 2: (2 + 12) / 8
    groups = [group(tunes=3, scored=2, mean_score=1.0), group(strategy_id="r", scored=6, mean_score=2.0)]
    grid = market_grids(groups)[Scoring("1d", "sharpe")]
    assert grid == {("flat", "low_vol"): (9, 8, 1.75)}


def test_a_market_without_a_scored_tune_has_no_mean() -> None:
    grid = market_grids([group(scored=0, mean_score=None)])[Scoring("1d", "sharpe")]
    assert grid["flat", "low_vol"] == (6, 0, None)


def test_scores_of_other_bars_or_objectives_are_in_grids_of_their_own_the_fullest_first() -> None:
    groups = [group(objective="return"), group(timeframe="1h", tunes=7), group(tunes=5)]
    assert list(market_grids(groups)) == [("1h", "sharpe"), ("1d", "return"), ("1d", "sharpe")]


def test_days_are_counted_in_weeks_from_monday_and_weeks_without_a_call_are_there() -> None:
    # 2026-03-01 is a Sunday
    usage = [("2026-03-01", "a", "exact", 2), ("2026-03-16", "a", "exact", 1), ("2026-03-22", "b", "none", 4)]
    assert tier_weeks(usage) == [
        (date(2026, 2, 23), {"exact": 2}),
        (date(2026, 3, 2), {}),
        (date(2026, 3, 9), {}),
        (date(2026, 3, 16), {"exact": 1, "none": 4}),
    ]


def test_only_the_newest_half_year_is_shown() -> None:
    weeks = tier_weeks([("2020-01-01", "a", "exact", 1), ("2026-03-04", "a", "exact", 1)])
    assert (len(weeks), weeks[0].monday, weeks[-1].monday) == (26, date(2025, 9, 8), date(2026, 3, 2))


def test_nobody_asked() -> None:
    assert tier_weeks([]) == []


def test_the_table_beside_the_heat_maps_has_the_number_of_every_cell() -> None:
    groups = [
        group(tunes=3, scored=2, mean_score=-1.0),
        group(regime_key="regime_v1_1|default_v1|_|high_vol|_", scored=0, mean_score=None),
        group(timeframe="1h", mean_score=0.5),
    ]
    grids = market_grids(groups)
    rows = [[it.text for it in row] for row in market_table(grids, 10).rows]
    assert rows == [
        ["flat", "low_vol", "1d", "3", "2", "−1.00"],
        ["–", "high_vol", "1d", "6", "0", "unknown"],
        ["flat", "low_vol", "1h", "6", "6", "+0.50"],
    ]
    maps = [heat_map(scoring, grid) for scoring, grid in grids.items()]
    drawn = [it.score for one in maps for _, cells in one.rows for it in cells if it.class_ != "empty"]
    assert drawn == ["−1.00", "+0.50"]
    assert market_table(grids, 2).left_out == 1
