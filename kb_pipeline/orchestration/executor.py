"""Where steps run: on this machine or on many, chosen by KB_EXECUTOR and nowhere else.

On many, the jobs share their work out among lanes (spread.py). Every process of a run, workers included,
must see the same settings, because each of them builds the jobs for itself.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from importlib import import_module
from typing import Any, Final, NamedTuple

import dagster as dg

from kb_pipeline.errors import BadArgumentError, DatabaseError
from kb_pipeline.orchestration.resources import Database

EXECUTOR_VARIABLE: Final = "KB_EXECUTOR"
LANES_VARIABLE: Final = "KB_LANES"
PART_ROWS_VARIABLE: Final = "KB_PART_ROWS"
DASK_VARIABLE: Final = "KB_DASK_ADDRESS"
CELERY_VARIABLE: Final = "KB_CELERY_BROKER"

DEFAULT_LANES: Final = 4
"""Steps that share one backfill out. More than there are workers do no harm: they find nothing left."""

DEFAULT_PART_ROWS: Final = 50_000
"""Waiting rows of a part: seconds of work, beside which reading prices anew for each part counts little."""


class Execution(NamedTuple):
    """What runs the steps, and how many of them share a backfill out; none: each backfill is one step."""

    executor: dg.ExecutorDefinition
    lanes: int


def chosen_execution() -> Execution:
    """Return what the environment chooses.

    Raises:
        BadArgumentError: It names no executor there is, or one whose package is not installed.
    """
    name = os.environ.get(EXECUTOR_VARIABLE, "").strip() or "in_process"
    if name == "in_process":
        # A step in a process of its own costs 1.7 s; the steps here share a connection instead.
        return Execution(dg.in_process_executor, 0)
    if name not in _DISTRIBUTED:
        known = ", ".join(["in_process", *_DISTRIBUTED])
        raise BadArgumentError(f"{EXECUTOR_VARIABLE} is {name!r}; it must be one of {known}.")
    package, attribute, config = _DISTRIBUTED[name]
    try:
        executor = getattr(import_module(package), attribute)
    except ImportError as error:
        raise BadArgumentError(
            f"{EXECUTOR_VARIABLE} is {name!r}, which needs the package {package.replace('_', '-')} "
            f"({error}). Install it beside Dagster, in the version that fits it."
        ) from error
    return Execution(executor.configured(config()), positive(LANES_VARIABLE, DEFAULT_LANES))


def seen_alive(definition: dg.ExecutorDefinition, database: Database) -> dg.ExecutorDefinition:
    """Return an executor whose process holds a session while a run lasts, also while no step of it works.

    The session ends with the process, so whoever looks for lost runs need not wait to be sure (sensors.py).
    """

    def create(context: dg.InitExecutorContext) -> dg.Executor:
        assert definition.executor_creation_fn is not None  # noqa: S101 - every executor's decorator sets it
        made = definition.executor_creation_fn(context)
        execute = made.execute

        def alive(plan_context: Any, execution_plan: Any) -> Iterator[dg.DagsterEvent]:
            with ExitStack() as stack:
                # Without a database the steps will tell; a run that needs none goes on.
                with suppress(DatabaseError):
                    stack.enter_context(database.session("begun", plan_context.run_id))
                yield from execute(plan_context, execution_plan)

        # Not an executor around it: those of other packages look for their own class.
        made.execute = alive  # type: ignore[method-assign]
        return made

    return dg.ExecutorDefinition(
        name=definition.name,
        config_schema=definition.config_schema,  # type: ignore[arg-type]  # as copy_for_configured does
        requirements=definition.get_requirements,
        executor_creation_fn=create,
        description=definition.description,
    )


def positive(variable: str, default: int) -> int:
    """Return a number of the environment that is at least 1.

    Raises:
        BadArgumentError: It is not.
    """
    text = os.environ.get(variable, "").strip() or str(default)
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise BadArgumentError(f"{variable} is {text!r}; it must be a whole number from 1 on.")
    return int(text)


def _dask() -> dict[str, Any]:
    """Return the scheduler there is, else a cluster of this machine's own, for the length of a run."""
    if os.environ.get(DASK_VARIABLE, "").strip():
        return {"cluster": {"existing": {"address": {"env": DASK_VARIABLE}}}}
    workers = positive(LANES_VARIABLE, DEFAULT_LANES)
    # 0: no web page of Dask's own, which would listen on every address.
    return {"cluster": {"local": {"n_workers": workers, "dashboard_address": None, "host": "127.0.0.1"}}}


def _celery() -> dict[str, Any]:
    return {"broker": {"env": CELERY_VARIABLE}}


_DISTRIBUTED: Final = {
    "dask": ("dagster_dask", "dask_executor", _dask),
    "celery": ("dagster_celery", "celery_executor", _celery),
    # Image, namespace and secrets are those of the run launcher that started the run.
    "k8s": ("dagster_k8s", "k8s_job_executor", dict[str, Any]),
}
