"""How long the asset's page takes with many partitions, all of them filled: 20 workspaces x 500 symbols.

The events of the partitions are written by Dagster's storage a thousand at a time, which real runs do
not do; what the page reads is the same. `--workspaces 100 --symbols 1000` is the size Dagster advises
not to exceed.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.events import DagsterEvent, DagsterEventType, StepMaterializationData
from dagster._core.events.log import EventLogEntry

from benchmarks.dagster_setup import (
    Environment,
    ask,
    drop_databases,
    environment_of,
    make_database,
    make_prices,
    served,
)

EVENTS_AT_ONCE = 1_000
PAGES = {
    "partitions": """{ assetNodeOrError(assetKey: {path: ["regime_snapshots"]}) { ... on AssetNode {
        description partitionStats { numMaterialized numPartitions }
        assetPartitionStatuses { ... on MultiPartitionStatuses { primaryDimensionName
        ranges { primaryDimStartKey primaryDimEndKey } } } } } }""",
    "keys": """{ assetNodeOrError(assetKey: {path: ["regime_snapshots"]}) { ... on AssetNode {
        partitionKeysByDimension { name partitionKeys } } } }""",
    "graph": "{ assetNodes { assetKey { path } partitionStats { numMaterialized numPartitions } } }",
}


def events(workspaces: int, symbols: int) -> Iterator[EventLogEntry]:
    """Yield a materialization of every partition."""
    for workspace in range(1, workspaces + 1):
        for symbol in range(1, symbols + 1):
            key = dg.MultiPartitionKey({"symbol": f"S{symbol:04}", "workspace": f"w{workspace}"})
            tags = {
                "dagster/partition/symbol": f"S{symbol:04}",
                "dagster/partition/workspace": f"w{workspace}",
            }
            found = dg.AssetMaterialization(
                "regime_snapshots", partition=key, metadata={"scanned": 135, "updated": 105}, tags=tags
            )
            yield EventLogEntry(  # type: ignore[no-untyped-call]
                error_info=None,
                level=20,
                user_message="",
                run_id="filled",
                timestamp=time.time(),
                job_name="filled",
                dagster_event=DagsterEvent(
                    event_type_value=DagsterEventType.ASSET_MATERIALIZATION.value,
                    job_name="filled",
                    event_specific_data=StepMaterializationData(found),
                ),
            )


def fill(environment: Environment, workspaces: int, symbols: int) -> None:
    """Register all keys and fill all partitions."""
    os.environ.update(environment)
    with dg.DagsterInstance.get() as instance:
        keys = {
            "workspace": [f"w{number}" for number in range(1, workspaces + 1)],
            "symbol": [f"S{number:04}" for number in range(1, symbols + 1)],
        }
        for name, names in keys.items():
            instance.add_dynamic_partitions(name, names)
        all_events = events(workspaces, symbols)
        while batch := list(islice(all_events, EVENTS_AT_ONCE)):
            instance.event_log_storage.store_event_batch(batch)


def main() -> None:
    """Print the seconds of each query: the first, and the best of two more."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workspaces", type=int, default=20)
    parser.add_argument("--symbols", type=int, default=500)
    size: Any = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory) / "data"
        make_prices(root, size.symbols, days=2)
        try:
            url = make_database("bench_pages", workspaces=size.workspaces, symbols=1, runs=1)
            environment = environment_of(url, root, Path(directory) / "home")
            (Path(directory) / "home").mkdir()
            begin = time.perf_counter()
            # The page's settings are put in place by whoever serves it; here too.
            (Path(directory) / "home" / "dagster.yaml").symlink_to(Path("dagster.yaml").resolve())
            fill(environment, size.workspaces, size.symbols)
            print(
                f"{size.workspaces} x {size.symbols} partitions filled in {time.perf_counter() - begin:.0f} s"
            )
            with served(environment) as address:
                for name, query in PAGES.items():
                    seconds = [seconds_of(address, query) for _ in range(3)]
                    print(f"{name}: first {seconds[0]:.2f} s, then {min(seconds[1:]):.2f} s")
        finally:
            drop_databases()


def seconds_of(address: str, query: str) -> float:
    """Return the seconds of a query."""
    begin = time.perf_counter()
    ask(address, query)
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
