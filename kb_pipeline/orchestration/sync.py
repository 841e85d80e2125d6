"""Register the partitions now: `python -m kb_pipeline.orchestration.sync`.

The sensor new_partitions does the same every minute where a daemon runs.
"""

import sys

import dagster as dg

from kb_pipeline.errors import KbPipelineError
from kb_pipeline.orchestration.instance import prepare_environment
from kb_pipeline.orchestration.resources import Database, Prices, sync_partitions


def main() -> int:
    """Sync, say what changed, and return the process's exit code."""
    try:
        prepare_environment()
        with dg.DagsterInstance.get() as instance:
            changes = sync_partitions(instance, Database(), Prices(), remove=True)
    except KbPipelineError as error:
        sys.stderr.write(f"Error: {error}\n")
        return error.exit_code
    for kind, change in changes.items():
        refused = f", {len(change.refused)} refused ({', '.join(change.refused)})" if change.refused else ""
        sys.stdout.write(f"{kind}: {len(change.add)} added, {len(change.remove)} removed{refused}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
