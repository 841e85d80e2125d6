"""What a benchmark says: figures with every run they rest on, shown as text, Markdown or JSON.

How a thing is timed is the benchmarks' own; nothing here measures.
"""

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, NamedTuple

_LIBRARIES: Final = ("numpy", "pandas", "psycopg", "dagster", "pandera")


@dataclass(frozen=True, slots=True)
class Figure:
    """One measurement, run by run, and what it is held against.

    `unit` ends in `/s` where more is better. `beside` says what a user would pick instead; its runs were
    taken in turn with ours, in the same session.
    """

    what: str
    unit: str
    runs: Sequence[float]
    beside: str = ""
    beside_runs: Sequence[float] = ()

    @property
    def ratio(self) -> float | None:
        """Ours over theirs, the median of the pairs; of the medians where there are no pairs."""
        if not self.beside_runs:
            return None
        if len(self.runs) == len(self.beside_runs):
            return statistics.median(a / b for a, b in zip(self.runs, self.beside_runs, strict=True))
        return statistics.median(self.runs) / statistics.median(self.beside_runs)

    @property
    def ratio_text(self) -> str:
        """The ratio in words: how many times the rate, or how many times the time or memory."""
        if self.ratio is None:
            return ""
        digits = 0 if self.ratio >= 100 else 2
        of = "rate" if self.unit.endswith("/s") else "time" if self.unit in ("s", "ms") else "size"
        return f"{self.ratio:,.{digits}f} times the {of}"

    def to_dict(self) -> dict[str, Any]:
        """Return all of it with medians and ratio, for machines."""
        return asdict(self) | {"median": statistics.median(self.runs), "ratio": self.ratio}


class Section(NamedTuple):
    """The figures of one benchmark, and how busy the machine was before it."""

    load_average: float
    figures: list[Figure]


def spread(runs: Sequence[float], unit: str) -> str:
    """Return the median of runs with their lowest and highest."""
    digits = 0 if min(runs) >= 100 else 1 if min(runs) >= 10 else 3
    median, low, high = (f"{value:,.{digits}f}" for value in (statistics.median(runs), min(runs), max(runs)))
    return f"{median} {unit}" if len(runs) == 1 else f"{median} {unit} ({low} to {high})"


def show(figures: Iterable[Figure]) -> list[Figure]:
    """Print figures as they come, and return them."""
    shown = []
    for figure in figures:
        beside = f"; {figure.beside}: {spread(figure.beside_runs, figure.unit)}" if figure.beside else ""
        ratio = f"; {figure.ratio_text}" if figure.ratio is not None else ""
        print(f"{figure.what}: {spread(figure.runs, figure.unit)}{beside}{ratio}", flush=True)
        shown.append(figure)
    return shown


def machine() -> dict[str, Any]:
    """Return what the figures were taken on."""
    model = next(
        (line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor(),
    )
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "memory_gib": round(memory_gib),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: version(name) for name in _LIBRARIES},
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text(encoding="utf-8").splitlines() if Path(path).exists() else []


def markdown(sections: dict[str, Section], taken_on: dict[str, Any]) -> str:
    """Return a report: the machine, then a table a benchmark, ratios first."""
    lines = ["# Measured", "", *(f"- {name.replace('_', ' ')}: {value}" for name, value in taken_on.items())]
    for name, (load_average, figures) in sections.items():
        lines += [
            "",
            f"## {name}",
            "",
            f"Load average before it: {load_average}.",
            "",
            "| what | ratio | median (lowest to highest) | beside |",
            "|---|--:|--:|--:|",
        ]
        for it in figures:
            beside = f"{it.beside}: {spread(it.beside_runs, it.unit)}" if it.beside else ""
            lines.append(f"| {it.what} | {it.ratio_text} | {spread(it.runs, it.unit)} | {beside} |")
    return "\n".join(lines) + "\n"


def as_json(sections: dict[str, Section], taken_on: dict[str, Any]) -> str:
    """Return the same report for machines."""
    found = {
        name: {"load_average": it.load_average, "figures": [figure.to_dict() for figure in it.figures]}
        for name, it in sections.items()
    }
    return json.dumps({"machine": taken_on, "benchmarks": found}, indent=1) + "\n"


def read_json(text: str) -> dict[str, Section]:
    """Return the sections of such a report."""
    names = [field.name for field in fields(Figure)]

    def figure(row: dict[str, Any]) -> Figure:
        return Figure(**{name: row[name] for name in names})

    found = json.loads(text)["benchmarks"]
    return {name: Section(it["load_average"], [*map(figure, it["figures"])]) for name, it in found.items()}


def peak_megabytes() -> float:
    """Return the largest resident size this process has had so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 if platform.system() == "Linux" else 1024**2)


def in_a_process(module: str, *arguments: str) -> str:
    """Return the last line that a module prints in a process of its own, with a peak memory of its own."""
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]


def in_turn(repeats: int, *measures: Callable[[], float]) -> list[list[float]]:
    """Return the runs of each measure, taken in turn, so that a slow moment of the machine meets all."""
    rounds = [[measure() for measure in measures] for _ in range(repeats)]
    return [list(runs) for runs in zip(*rounds, strict=True)]
