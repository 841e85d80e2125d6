"""Recommendations over growing workspaces: the time of a call against bare SQL, and the distance tier
against numpy over a matrix that lies in memory already.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from psycopg import sql

from benchmarks.figures import Figure, peak_megabytes, show
from benchmarks.synthetic import STATEMENTS, WORKSPACE_ID, template
from kb_pipeline.domain.matching import tier_keys
from kb_pipeline.domain.regime import RegimeSnapshot
from kb_pipeline.questions.recommend import RecommendRequest, recommend
from kb_pipeline.questions.vectors import pack_changes
from kb_pipeline.rules import DISTANCE_FEATURES, TIERS
from kb_pipeline.storage import questions, regime_vectors
from kb_pipeline.storage.embedded import SUPERUSER, start
from kb_pipeline.storage.postgres import Connection, connect, ensure_database

SIZES = (100_000, 1_000_000)
CALLS = 200
TIERS_BY_KEY = (
    ("regime_v1_1|default_v1|uptrend|high_vol|noisy", 5),
    ("regime_v1_1|default_v1|uptrend|high_vol|_", 5),
    ("regime_v1_1|default_v1|uptrend|_|_", 5),
    ("regime_v1_1|default_v1|uptrend|_|_", 11),
)
"""Regime and min_samples: the answers come from the exact tier, from trend and volatility, from the
trend, and, where that does not give enough, from all. No tune has a regime with `_` as volatility or
efficiency."""

SNAPSHOT = RegimeSnapshot(
    timeframe="1h",
    atr_pct=0.01,
    std_pct=0.03,
    bb_width_pct=0.12,
    trend_strength=0.8,
    trend_dir=1,
    zscore=0.5,
    rsi=60.0,
    efficiency_ratio=0.5,
    regime_tags=["uptrend"],
)


def times_ms(act: Callable[[], object], calls: int) -> list[float]:
    """Return the times of calls in milliseconds, after three that do not count."""
    times = []
    for _ in range(calls + 3):
        begin = time.perf_counter()
        act()
        times.append((time.perf_counter() - begin) * 1e3)
    return times[3:]


def figures(sizes: Sequence[int] = SIZES, calls: int = CALLS) -> Iterator[Figure]:
    """Yield the times of each workspace size, and the peak memory of this process so far."""
    for tunes in sizes:
        with (
            template(attributed=tunes) as database,
            connect(ensure_database(start(), database)) as connection,
            connect(ensure_database(start(role=SUPERUSER), database)) as bare,
            connection.working_in(WORKSPACE_ID),
        ):
            yield _packing(connection, tunes)
            strategy_id = connection.execute("SELECT id FROM kb_entities ORDER BY name LIMIT 1").fetchone()
            assert strategy_id is not None
            request = RecommendRequest(
                workspace_id=WORKSPACE_ID,
                strategy=str(strategy_id[0]),
                timeframe="1h",
                objective="sharpe",
            )
            yield from _key_tiers(connection, bare, request, tunes, calls)
            yield _distances(connection, request, tunes, max(calls // 10, 2))
            summary = times_ms(lambda: questions.regime_counts(connection, WORKSPACE_ID), min(calls, 5))
            yield Figure(f"the summary of all regimes among {tunes:,} tunes", "ms", summary)
        yield Figure(f"peak memory of all this, {tunes:,} tunes", "MB", [peak_megabytes()])


def _packing(connection: Connection, tunes: int) -> Figure:
    regime_vectors.start_over(connection, WORKSPACE_ID)
    begin = time.perf_counter()
    pack_changes(connection, WORKSPACE_ID)
    return Figure(f"packing the features of {tunes:,} tunes", "s", [time.perf_counter() - begin])


def _key_tiers(
    connection: Connection, bare: Connection, request: RecommendRequest, tunes: int, calls: int
) -> Iterator[Figure]:
    statement = sql.SQL(STATEMENTS["bare_recommendation"])
    every_key = [key for (key,) in bare.execute("SELECT DISTINCT regime_key FROM backtest_tunes ORDER BY 1")]
    for regime_key, min_samples in TIERS_BY_KEY:
        asked = replace(request, regime_key=regime_key, min_samples=min_samples)
        answer = recommend(connection, asked)
        keys = {**tier_keys(regime_key), "global_best": every_key}
        scope = {"workspace_id": WORKSPACE_ID, "strategy_id": request.strategy}
        walked = [
            {**scope, "regime_keys": list(keys[tier]), "rows": TIERS[tier][1] or request.k}
            for tier in answer.counts
            if tier in keys
        ]
        last, own, every = (
            times_ms(act, calls)
            for act in (
                partial(_fetch, bare, statement, walked[-1:]),
                partial(recommend, connection, asked),
                partial(_fetch, bare, statement, walked),
            )
        )
        what = f"recommend among {tunes:,} tunes, tier {answer.tier_used}"
        yield Figure(what, "ms", own, "the bare statement of that tier", last)
        yield Figure(what, "ms", own, "the bare statements of all tiers walked", every)


def _fetch(connection: Connection, query: sql.SQL, asked: Sequence[Mapping[str, object]]) -> None:
    for parameters in asked:
        connection.execute(query, parameters).fetchall()


def _distances(connection: Connection, request: RecommendRequest, tunes: int, calls: int) -> Figure:
    asked = replace(request, snapshot=SNAPSHOT, min_samples=11)
    assert recommend(connection, asked).counts["distance"] == min(TIERS["distance"][1] or 0, tunes)
    matrix = np.ascontiguousarray(regime_vectors.all_features(connection, WORKSPACE_ID).T)
    scales, _ = regime_vectors.state(connection, WORKSPACE_ID)
    values = SNAPSHOT.to_dict()
    vector = np.array([values[name] for name in DISTANCE_FEATURES], dtype=np.float32)
    divisors = np.asarray(scales, dtype=np.float32)

    def scan() -> object:
        apart = np.sqrt((((matrix - vector) / divisors) ** 2).sum(axis=1))
        return np.argpartition(apart, 20)[:20]

    return Figure(
        f"recommend among {tunes:,} tunes, by distance",
        "ms",
        times_ms(lambda: recommend(connection, asked), calls),
        "numpy over a matrix in memory",
        times_ms(scan, calls),
    )


if __name__ == "__main__":
    show(figures())
