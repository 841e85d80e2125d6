"""Uplift of 100,000 tunes with ten trials each: computed from arrays, and with reading and writing,
against leaving one out with pandas.

pandas does the least that could be asked for: the regime's best set among those a tune tried, and no
other tiers, no baseline, no interval.
"""

import argparse
import resource
import statistics
import time
from collections.abc import Callable

import numpy as np
import pandas as pd
from psycopg import sql

from benchmarks.synthetic import STATEMENTS, WORKSPACE_ID, fresh_copy, template
from kb_pipeline.backfills.uplift import UpliftRequest, measure_uplift, report_of
from kb_pipeline.domain.uplift import Trials
from kb_pipeline.storage.embedded import APP, SUPERUSER
from kb_pipeline.storage.postgres import connect
from kb_pipeline.storage.regime_uplift import Named, TuneScores, read_tune_scores

TRIALS = 10
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
    frame.loc[others.groupby(frame["tune"]).idxmax(), ["tune", "score"]]


def pandas_one_by_one(frame: pd.DataFrame, tunes: int) -> None:
    """Leave one out as it is said: for each tune, group the others."""
    for number, own in frame[frame["tune"] < tunes].groupby("tune"):
        like = (frame["strategy"] == own["strategy"].iloc[0]) & (frame["regime"] == own["regime"].iloc[0])
        frame[like & (frame["tune"] != number)].groupby("set")["score"].mean().idxmax()


def seconds(act: Callable[[], object], runs: int) -> float:
    """Return the median time of a call."""
    times = []
    for _ in range(runs):
        begin = time.perf_counter()
        act()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def from_arrays(tunes: int, runs: int) -> None:
    """Print what computing takes for a few shapes of workspace, and what pandas takes for the first."""
    for strategies, regimes, symbols in ((10, 20, 200), (1, 3, 1), (1_000, 30, 50)):
        scores = made_scores(tunes, strategies=strategies, regimes=regimes, symbols=symbols)
        ours = seconds(lambda scores=scores: report_of(scores), runs)  # type: ignore[misc]
        print(f"{strategies} strategies, {regimes} regimes, {symbols} symbols: computed in {ours:.1f} s")
        if strategies == 10:
            frame = pandas_frame(scores)
            at_once = seconds(lambda frame=frame: pandas_at_once(frame), runs)  # type: ignore[misc]
            looped = seconds(lambda frame=frame: pandas_one_by_one(frame, PANDAS_LOOPED_TUNES), 1)  # type: ignore[misc]
            print(f"  pandas, one tier alone: {at_once:.2f} s, one part in {ours / at_once:.0f} of that")
            whole = looped * tunes / PANDAS_LOOPED_TUNES
            print(f"  pandas, tune by tune: {whole:,.0f} s at the pace of {PANDAS_LOOPED_TUNES} tunes")


def from_postgres(tunes: int, runs: int) -> None:
    """Print what reading alone and all of a measurement take."""
    with (
        template(tunes=tunes) as database,
        fresh_copy(database, role=SUPERUSER) as url,
        connect(url, timeouts=False) as admin,
        connect(url.replace(f"//{SUPERUSER}@", f"//{APP}@"), timeouts=False) as connection,
    ):
        admin.execute(sql.SQL(STATEMENTS["bare_attribution"]), {"workspace_id": WORKSPACE_ID})
        admin.execute(SYMBOLS_OF_TUNES)
        admin.execute("VACUUM ANALYZE")
        with connection.working_in(WORKSPACE_ID):
            reading = seconds(lambda: read_tune_scores(connection, WORKSPACE_ID), runs)
        request = UpliftRequest(workspace_id=WORKSPACE_ID)
        whole = seconds(lambda: measure_uplift(connection, request, dry_run=False), runs)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"from Postgres: read in {reading:.1f} s, all in {whole:.1f} s, peak memory {peak:,.0f} MB")


def main() -> None:
    """Print the times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tunes", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    from_postgres(arguments.tunes, arguments.runs)
    from_arrays(arguments.tunes, arguments.runs)


if __name__ == "__main__":
    main()
