"""The code location with a process for each step, for bench_dagster to hold against its own way."""

import dagster as dg

from kb_pipeline.definitions import build_definitions
from kb_pipeline.orchestration.executor import Execution

defs = build_definitions(execution=Execution(dg.multiprocess_executor, 0))
