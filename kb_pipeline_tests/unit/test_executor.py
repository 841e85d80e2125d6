"""Where steps run is chosen by the environment, in one place, and a wrong choice is named."""

import dagster as dg
import pytest

from kb_pipeline.definitions import build_definitions
from kb_pipeline.errors import BadArgumentError
from kb_pipeline.orchestration.executor import Execution, chosen_execution
from kb_pipeline.orchestration.jobs import JOB_NAMES

SHARED = Execution(dg.multiprocess_executor, 3)


def test_unset_every_step_runs_in_the_process_of_its_run() -> None:
    assert chosen_execution() == Execution(dg.in_process_executor, 0)


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("KB_EXECUTOR", "ray", "KB_EXECUTOR is 'ray'; it must be one of in_process, dask, celery, k8s"),
        ("KB_LANES", "0", "KB_LANES is '0'; it must be a whole number from 1 on"),
        ("KB_LANES", "two", "KB_LANES is 'two'"),
    ],
)
def test_a_wrong_choice_is_named(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: str
) -> None:
    monkeypatch.setenv("KB_EXECUTOR", "dask")
    monkeypatch.setenv(variable, value)
    with pytest.raises(BadArgumentError, match=said):
        chosen_execution()


def test_a_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KB_EXECUTOR", "celery")
    monkeypatch.setitem(__import__("sys").modules, "dagster_celery", None)
    with pytest.raises(BadArgumentError, match="needs the package dagster-celery"):
        chosen_execution()


@pytest.mark.parametrize(
    ("name", "package"), [("dask", "dagster_dask"), ("celery", "dagster_celery"), ("k8s", "dagster_k8s")]
)
def test_each_executor_takes_the_configuration_it_is_given(
    monkeypatch: pytest.MonkeyPatch, name: str, package: str
) -> None:
    pytest.importorskip(package, reason=f"{package.replace('_', '-')} is not installed")
    monkeypatch.setenv("KB_EXECUTOR", name)
    monkeypatch.setenv("KB_CELERY_BROKER", "redis://127.0.0.1:1/0")
    there = build_definitions()
    dg.Definitions.validate_loadable(there)
    checked = dg.validate_run_config(there.resolve_job_def("everything"))["execution"]
    if name == "celery":
        assert checked["celery"]["broker"] == "redis://127.0.0.1:1/0"


def test_the_jobs_keep_their_names_and_their_configuration_wherever_they_run() -> None:
    config = {"ops": {"candidacy": {"config": {"workspaces": ["demo"], "batch_size": 10}}}}
    for execution in (Execution(dg.in_process_executor, 0), SHARED):
        there = build_definitions(execution=execution)
        assert {job.name for job in there.jobs or ()} == {*JOB_NAMES, "check_regime_drift"}
        assert dg.validate_run_config(there.resolve_job_def("backfill_candidacy"), config)
        wrong = {"ops": {"candidacy": {"config": {"batch": 1}}}}
        with pytest.raises(dg.DagsterInvalidConfigError):
            dg.validate_run_config(there.resolve_job_def("backfill_candidacy"), wrong)


def test_a_shared_job_has_its_lanes_between_the_plan_and_the_sum() -> None:
    job = build_definitions(execution=SHARED).resolve_job_def("everything")
    lanes = [f"candidacy_lane_{number}" for number in (1, 2, 3)]
    before: dict[str, set[str]] = {}
    for node, inputs in job.dependencies.items():
        for input_ in inputs.values():
            before.setdefault(node.name, set()).update(it.node for it in input_.get_node_dependencies())
    assert "regimes" not in before, "a price file that no run needs holds nothing up"
    assert before["candidacy"] == {"regimes_done"}
    assert all(before[lane] == {"candidacy"} for lane in lanes)
    assert before["candidacy_done"] == set(lanes)
    assert before["trials"] == {"candidacy_done", "attribution_done"}


def test_a_shared_step_whose_process_is_killed_may_begin_again() -> None:
    # Kubernetes asks the step's policy when it finds the pod gone; without one the run fails.
    job = build_definitions(execution=SHARED).resolve_job_def("everything")
    assert [node.name for node in job.nodes if getattr(node.definition, "retry_policy", None) is None] == []


def test_a_web_page_can_load_the_jobs_that_are_shared_out() -> None:
    # An op's name may stand for one op only among all jobs; a job executed by itself would not show it.
    dg.Definitions.validate_loadable(build_definitions(execution=SHARED))
