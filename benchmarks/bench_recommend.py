"""Recommendations over growing workspaces: the time of a call against bare SQL, and the distance tier
against numpy over a matrix that lies in memory already.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import numpy as np
from psycopg import sql

from benchmarks.synthetic import STATEMENTS, WORKSPACE_ID, template
from kb_pipeline.domain.matching import tier_keys
from kb_pipeline.domain.regime import RegimeSnapshot
from kb_pipeline.questions.recommend import RecommendRequest, recommend
from kb_pipeline.questions.vectors import pack_changes
from kb_pipeline.rules import DISTANCE_FEATURES, TIERS
from kb_pipeline.sql import statement
from kb_pipeline.storage import questions, recommend_events, regime_vectors
from kb_pipeline.storage.embedded import start
from kb_pipeline.storage.postgres import Connection, connect, ensure_database
from kb_pipeline.storage.recommend_events import ScoreGroup

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


def median_ms(act: Callable[[], object], calls: int = CALLS) -> float:
    """Return the median time of a call in milliseconds, after three that do not count."""
    times = []
    for _ in range(calls + 3):
        begin = time.perf_counter()
        act()
        times.append((time.perf_counter() - begin) * 1e3)
    return statistics.median(times[3:])


def measure(tunes: int) -> None:
    """Print the times of one workspace size, and the peak memory of this process."""
    with template(attributed=tunes) as database, connect(ensure_database(start(), database)) as connection:
        _pack(connection)
        strategy_id = connection.execute("SELECT id FROM kb_entities ORDER BY name LIMIT 1").fetchone()
        assert strategy_id is not None
        request = RecommendRequest(
            workspace_id=WORKSPACE_ID,
            strategy=str(strategy_id[0]),
            timeframe="1h",
            objective="sharpe",
        )
        _print_key_tiers(connection, request, tunes)
        _print_distances(connection, request, tunes)
        _print_plans(connection, tunes)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{tunes:>9,} tunes: peak memory {peak_mb:,.0f} MB, the matrix for the comparison included")


def _pack(connection: Connection) -> None:
    regime_vectors.start_over(connection, WORKSPACE_ID)
    begin = time.perf_counter()
    pack_changes(connection, WORKSPACE_ID)
    print(f"packing: {time.perf_counter() - begin:.1f} s")


def _print_key_tiers(connection: Connection, request: RecommendRequest, tunes: int) -> None:
    bare = sql.SQL(STATEMENTS["bare_recommendation"])
    group = ScoreGroup(request.strategy, str(request.timeframe), str(request.objective))
    every_key = recommend_events.group_keys(connection, WORKSPACE_ID, group)
    for regime_key, min_samples in TIERS_BY_KEY:
        asked = replace(request, regime_key=regime_key, min_samples=min_samples)
        tier = recommend(connection, asked).tier_used
        parameters = {
            "workspace_id": WORKSPACE_ID,
            "strategy_id": request.strategy,
            "regime_keys": list(tier_keys(regime_key).get(tier, every_key)),
            "rows": TIERS[tier][1] or request.k,
        }
        bare_ms = median_ms(partial(_fetch, connection, bare, parameters))
        own_ms = median_ms(partial(recommend, connection, asked))
        ratio = f"{own_ms / bare_ms:.1f} times"
        print(f"{tunes:>9,} tunes: {tier} {own_ms:.2f} ms, its bare SQL {bare_ms:.2f} ms: {ratio}")


def _print_plans(connection: Connection, tunes: int) -> None:
    """Print what `best` and `regimes` read of the tunes, and how long the summary of all regimes takes."""
    asked = {"timeframes": ["1h"], "objectives": ["sharpe"], "rows": 10, "regime_keys": [TIERS_BY_KEY[0][0]]}
    for name, parameters in (("best_of_keys", asked), ("regime_counts", {})):
        with connection.transaction():
            connection.execute(statement("session.allow_long_read"))
            if name == "regime_counts":
                connection.execute(statement("questions.prefer_index_order"))
            explain = sql.SQL("EXPLAIN (ANALYZE, BUFFERS, COSTS OFF, TIMING OFF) ") + sql.SQL(
                statement(f"questions.{name}")
            )
            plan = connection.execute(explain, {"workspace_id": WORKSPACE_ID, **parameters}).fetchall()
        print(f"{tunes:>9,} tunes: {name}\n" + "\n".join(f"    {line}" for (line,) in plan))
    took = median_ms(lambda: questions.regime_counts(connection, WORKSPACE_ID), 5)
    print(f"{tunes:>9,} tunes: the summary of all regimes {took:,.0f} ms")


def _fetch(connection: Connection, query: sql.SQL, parameters: Mapping[str, object]) -> object:
    return connection.execute(query, parameters).fetchall()


def _print_distances(connection: Connection, request: RecommendRequest, tunes: int) -> None:
    asked = replace(request, snapshot=SNAPSHOT, min_samples=11)
    assert recommend(connection, asked).counts["distance"] == TIERS["distance"][1]
    matrix = np.ascontiguousarray(regime_vectors.all_features(connection, WORKSPACE_ID).T)
    scales, _ = regime_vectors.state(connection, WORKSPACE_ID)
    values = SNAPSHOT.to_dict()
    vector = np.array([values[name] for name in DISTANCE_FEATURES], dtype=np.float32)
    divisors = np.asarray(scales, dtype=np.float32)

    def scan() -> object:
        apart = np.sqrt((((matrix - vector) / divisors) ** 2).sum(axis=1))
        return np.argpartition(apart, 20)[:20]

    bare_ms = median_ms(scan, 20)
    own_ms = median_ms(lambda: recommend(connection, asked), 20)
    print(
        f"{tunes:>9,} tunes: distance {own_ms:.0f} ms, numpy {bare_ms:.0f} ms: {own_ms / bare_ms:.1f} times"
    )


def main() -> None:
    """Measure each size in a process of its own, because peak memory never falls."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tunes", type=int)
    arguments = parser.parse_args()
    if arguments.tunes:
        measure(arguments.tunes)
        return
    for tunes in SIZES:
        subprocess.run(
            [sys.executable, "-m", "benchmarks.bench_recommend", "--tunes", str(tunes)], check=True
        )


if __name__ == "__main__":
    main()
