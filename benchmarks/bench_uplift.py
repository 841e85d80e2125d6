"""Uplift of 100,000 tunes with ten trials each: computed from arrays, and with reading and writing,
against leaving one out with pandas.

pandas does the least that could be asked for: the regime's best set among those a tune tried, and no
other tiers, no baseline, no interval.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import pandas as pd
from psycopg import sql

from benchmarks.figures import Figure, in_turn, peak_megabytes, show
from benchmarks.synthetic import STATEMENTS, WORKSPACE_ID, fresh_copy, template
from kb_pipeline.backfills.uplift import UpliftRequest, measure_uplift, report_of
from kb_pipeline.domain.uplift import Trials
from kb_pipeline.storage.embedded import APP, SUPERUSER
from kb_pipeline.storage.postgres import connect
from kb_pipeline.storage.regime_uplift import Named, TuneScores, read_tune_scores

TRIALS = 10
SHAPES = ((10, 20, 200), (1, 3, 1), (1_000, 30, 50))
"""Strategies, regimes and symbols of a workspace."""

PANDAS_LOOPED_TUNES = 100
SYMBOLS_OF_TUNES = (
    "UPDATE backtest_runs AS run"
    "   SET dataset_meta = jsonb_build_object("
    "           'symbol', 'S' || (hashtext(tune.id::text) & 63), 'timeframe', '1h')"
    "  FROM backtest_tunes AS tune WHERE run.id = tune.best_oos_run_id"
)


def made_scores(tunes: int, *, strategies: int, regimes: int, symbols: int) -> TuneScores:
    """Return scores made up at random: every tune tries the same ten sets."""
    random = np.random.default_rng(1)
    trends = ("uptrend", "downtrend", "trending", "flat", "_")
    tags = [
        (trend, vol, how)
        for trend in trends
        for vol in ("high_vol", "low_vol", "_")
        for how in ("noisy", "_")
    ]

    def named(names: list[str]) -> Named:
        return Named(random.integers(len(names), size=tunes), names)

    return TuneScores(
        strategies=named([f"strategy {number}" for number in range(strategies)]),
        regimes=named(["|".join(("regime_v1_1", "default_v1", *it)) for it in tags[:regimes]]),
        symbols=named([f"S{number}" for number in range(symbols)]),
        timeframes=named(["1h"]),
        objectives=named(["sharpe"]),
        trials=Trials(
            np.repeat(np.arange(tunes), TRIALS),
            np.tile(np.arange(TRIALS), tunes),
            random.normal(size=tunes * TRIALS),
            random.normal(size=tunes * TRIALS),
        ),
        declared={},
        strategy_names={},
    )


def pandas_frame(scores: TuneScores) -> pd.DataFrame:
    """Return the trials as a user would hold them."""
    tune = scores.trials.tunes
    columns = {"tune": tune, "set": scores.trials.sets, "score": scores.trials.scores}
    return pd.DataFrame(
        columns | {"strategy": scores.strategies.numbers[tune], "regime": scores.regimes.numbers[tune]}
    )


def pandas_at_once(frame: pd.DataFrame) -> None:
    """Leave one out by taking each score off its group's sum."""
    groups = frame.groupby(["strategy", "regime", "set"])["score"]
    others = (groups.transform("sum") - frame["score"]) / (groups.transform("count") - 1)
    frame.loc[others.dropna().groupby(frame["tune"]).idxmax(), ["tune", "score"]]


def pandas_one_by_one(frame: pd.DataFrame, tunes: int) -> None:
    """Leave one out as it is said: for each tune, group the others."""
    for number, own in frame[frame["tune"] < tunes].groupby("tune"):
        like = (frame["strategy"] == own["strategy"].iloc[0]) & (frame["regime"] == own["regime"].iloc[0])
        others = frame[like & (frame["tune"] != number)]
        if not others.empty:
            others.groupby("set")["score"].mean().idxmax()


def seconds(act: Callable[[], object]) -> float:
    """Return how long a call takes."""
    begin = time.perf_counter()
    act()
    return time.perf_counter() - begin


def from_arrays(tunes: int, repeats: int) -> Iterator[Figure]:
    """Yield what computing takes for a few shapes of workspace, and what pandas takes for the first."""
    for strategies, regimes, symbols in SHAPES:
        scores = made_scores(tunes, strategies=strategies, regimes=regimes, symbols=symbols)
        what = f"uplift of {tunes:,} tunes, {strategies:,} strategies, {regimes} regimes, {symbols} symbols"
        ours = partial(seconds, partial(report_of, scores))
        if (strategies, regimes, symbols) != SHAPES[0]:
            yield Figure(what, "s", in_turn(repeats, ours)[0])
            continue
        frame = pandas_frame(scores)
        own, at_once = in_turn(repeats, ours, partial(seconds, partial(pandas_at_once, frame)))
        yield Figure(what, "s", own, "pandas, one tier alone", at_once)
        looped = seconds(partial(pandas_one_by_one, frame, PANDAS_LOOPED_TUNES)) * tunes / PANDAS_LOOPED_TUNES
        beside = f"pandas, tune by tune, at the pace of {PANDAS_LOOPED_TUNES}"
        yield Figure(what, "s", own, beside, [looped])


def from_postgres(tunes: int, repeats: int) -> Iterator[Figure]:
    """Yield what reading alone and all of a measurement take."""
    with (
        template(tunes=tunes) as database,
        fresh_copy(database, role=SUPERUSER) as url,
        connect(url, timeouts=False) as admin,
        connect(url.replace(f"//{SUPERUSER}@", f"//{APP}@"), timeouts=False) as connection,
    ):
        admin.execute(sql.SQL(STATEMENTS["bare_attribution"]), {"workspace_id": WORKSPACE_ID})
        admin.execute(SYMBOLS_OF_TUNES)
        admin.execute("VACUUM ANALYZE")
        request = UpliftRequest(workspace_id=WORKSPACE_ID)
        with connection.working_in(WORKSPACE_ID):
            reading, whole = in_turn(
                repeats,
                partial(seconds, lambda: read_tune_scores(connection, WORKSPACE_ID)),
                partial(seconds, lambda: measure_uplift(connection, request, dry_run=False)),
            )
    yield Figure(f"uplift of {tunes:,} tunes of ten trials, read, computed and written", "s", whole)
    yield Figure("of this, reading", "s", reading)
    yield Figure("peak memory", "MB", [peak_megabytes()])


def figures(tunes: int = 100_000, repeats: int = 3) -> Iterator[Figure]:
    """Yield the times from Postgres, then from arrays."""
    yield from from_postgres(tunes, repeats)
    yield from from_arrays(tunes, repeats)


if __name__ == "__main__":
    show(figures())
