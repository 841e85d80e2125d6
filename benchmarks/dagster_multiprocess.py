"""The code location with a process for each step, for bench_dagster to hold against its own way."""

import dagster as dg

from kb_pipeline.definitions import build_definitions

defs = build_definitions(executor=dg.multiprocess_executor)
