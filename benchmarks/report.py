"""One report of all figures, as Markdown and JSON: `python -m benchmarks.report [NAME ...]`.

Each benchmark runs in a process of its own, one after the other, because peak memory never falls. What is
not named stays as the report has it.
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.figures import Figure, Section, as_json, machine, markdown, read_json, show

NAMES = (
    *("features", "ohlcv", "landing", "candidacy", "attribution"),
    *("uplift", "recommend", "sensors"),
)
"""All but `flat`, of which `growth` tells more, and what needs Dagster's web page."""


def _one(name: str, into: Path) -> None:
    found = show(importlib.import_module(f"benchmarks.bench_{name}").figures())
    into.write_text(json.dumps([[it.what, it.unit, it.runs, it.beside, it.beside_runs] for it in found]))


def main() -> None:
    """Run benchmarks, print their figures as they come, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; all by default")
    parser.add_argument("--into", type=Path, default=Path("benchmarks/results"), help="directory to write to")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        _one(arguments.names[0], arguments.one)
        return
    kept = arguments.into / "report.json"
    sections = read_json(kept.read_text(encoding="utf-8")) if kept.exists() and arguments.names else {}
    for name in arguments.names or NAMES:
        print(f"== {name}", flush=True)
        load = os.getloadavg()[0]
        with tempfile.TemporaryDirectory() as directory:
            into = Path(directory) / "figures.json"
            command = [sys.executable, "-m", "benchmarks.report", name, "--one", str(into)]
            subprocess.run(command, check=True)
            figures = [Figure(*it) for it in json.loads(into.read_text())]
        sections[name] = Section(round(load, 2), figures)
    sections = {name: sections[name] for name in NAMES if name in sections}
    arguments.into.mkdir(parents=True, exist_ok=True)
    taken_on = machine()
    (arguments.into / "report.md").write_text(markdown(sections, taken_on), encoding="utf-8")
    kept.write_text(as_json(sections, taken_on), encoding="utf-8")
    print(f"Written: {arguments.into / 'report.md'}, {kept}")


if __name__ == "__main__":
    main()
