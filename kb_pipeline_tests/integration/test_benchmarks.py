"""The benchmarks run, on little data: they compare their results with the alternatives' themselves.

No time is looked at here.
"""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from benchmarks import (
    bench_attribution,
    bench_candidacy,
    bench_features,
    bench_flat,
    bench_landing,
    bench_ohlcv,
    bench_recommend,
    bench_sensors,
    bench_uplift,
    figures,
    growth,
)
from benchmarks.figures import Figure

SMALL: Mapping[Any, Mapping[str, Any]] = {
    bench_features: {"bars": 3_000, "windows": 200, "pandas_windows": 5, "repeats": 1},
    bench_ohlcv: {"rows": 500, "repeats": 1},
    bench_landing: {"rows": 300, "repeats": 1},
    bench_candidacy: {"rows": 300, "looped_rows": 200, "repeats": 1},
    bench_attribution: {"tunes": 30, "repeats": 1},
    bench_flat: {"sizes": (200,), "repeats": 1},
    bench_uplift: {"tunes": 300, "repeats": 1},
    bench_recommend: {"sizes": (3_000,), "calls": 2},
    bench_sensors: {"backlog": 30, "left": 20, "repeats": 1},
}


@pytest.mark.parametrize("module", SMALL, ids=lambda module: module.__name__.split(".")[-1])
def test_a_benchmark_gives_figures_and_the_results_of_its_alternatives(server: str, module: Any) -> None:
    found = list(module.figures(**SMALL[module]))
    assert found
    assert all(min(figure.runs) > 0 for figure in found)


@pytest.mark.parametrize(
    ("name", "size", "rows"), [("candidacy", 300, 300), ("regimes", 300, 0), ("features", 500, None)]
)
def test_growth_gives_points_and_a_table(server: str, name: str, size: int, rows: int | None) -> None:
    point = growth.measure(name, size)
    assert point.size == size
    assert min(point.results, point.seconds, point.megabytes) > 0
    # Every run is read, for its decision at least; every tune is counted, but in an index alone.
    if rows is None or point.scanned is None:
        assert point.scanned == rows
    else:
        assert rows <= point.scanned * point.results <= 3 * rows
    assert f"| {size} | {point.results} |" in growth.table(name, [point])


def test_a_report_gives_ratios_by_pairs_and_says_what_they_are_of() -> None:
    rates = Figure("tunes attributed", "tunes/s", [20.0, 30.0, 50.0], "a loop", [10.0, 10.0, 10.0])
    times = Figure("a file read", "s", [3.0], "reading alone", [1.0, 2.0, 3.0])
    alone = Figure("memory", "MB", [56.0])
    assert [it.ratio_text for it in (rates, times, alone)] == [
        "3.00 times the rate",
        "1.50 times the time",
        "",
    ]
    sections = {"all": figures.Section(0.5, [rates, times, alone])}
    report = figures.markdown(sections, {"cores": 2})
    row = "| tunes attributed | 3.00 times the rate | 30.0 tunes/s (20.0 to 50.0) |"
    assert f"{row} a loop: 10.0 tunes/s (10.0 to 10.0) |" in report
    for_machines = figures.as_json(sections, {})
    assert json.loads(for_machines)["benchmarks"]["all"]["figures"][0]["ratio"] == 3.0
    assert figures.as_json(figures.read_json(for_machines), {}) == for_machines
