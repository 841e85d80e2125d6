"""The files under deploy/: what they name is there, and only the page is published, on this machine."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
CELERY = yaml.safe_load((DEPLOY / "celery.yaml").read_text())
VALUES = yaml.safe_load((DEPLOY / "helm-values.yaml").read_text())

CHART_KEYS = {
    "": {
        *("dagsterWebserver", "dagster-user-deployments", "postgresql", "generatePostgresqlPasswordSecret"),
        *("generateCeleryConfigSecret", "rabbitmq", "redis", "flower", "ingress", "imagePullSecrets"),
        *(
            "computeLogManager",
            "scheduler",
            "runLauncher",
            "pythonLogs",
            "dagsterDaemon",
            "busybox",
            "migrate",
        ),
        *("telemetry", "serviceAccount", "global", "retention", "additionalInstanceConfig"),
    },
    "postgresql": {
        *("image", "enabled", "postgresqlHost", "postgresqlUsername", "postgresqlPassword"),
        *("postgresqlDatabase", "postgresqlParams", "postgresqlScheme", "service"),
    },
    "dagster-user-deployments": {"enabled", "enableSubchart", "imagePullSecrets", "deployments"},
    "dagster-user-deployments.deployments": {
        *("name", "image", "dagsterApiGrpcArgs", "codeServerArgs", "includeConfigInLaunchedRuns", "port"),
        *("env", "envConfigMaps", "envSecrets", "annotations", "nodeSelector", "affinity", "tolerations"),
        *("podSecurityContext", "securityContext", "resources", "livenessProbe", "readinessProbe"),
        *("startupProbe", "labels", "volumeMounts", "volumes", "schedulerName"),
    },
    "runLauncher": {"type", "config"},
    "runLauncher.config": {"celeryK8sRunLauncher", "k8sRunLauncher", "customRunLauncher"},
    "runLauncher.config.k8sRunLauncher": {
        *("image", "imagePullPolicy", "jobNamespace", "loadInclusterConfig", "kubeconfigFile"),
        *("envConfigMaps", "envSecrets", "envVars", "volumeMounts", "volumes", "labels"),
        *("failPodOnRunFailure", "resources", "schedulerName", "securityContext", "runK8sConfig"),
    },
    "runLauncher.config.k8sRunLauncher.runK8sConfig": {
        *("containerConfig", "podSpecConfig", "podTemplateSpecMetadata", "jobSpecConfig", "jobMetadata"),
    },
    "dagsterDaemon.runCoordinator": {"enabled", "type", "config"},
    "dagsterDaemon.runCoordinator.config": {"queuedRunCoordinator", "customRunCoordinator"},
    "dagsterDaemon.runCoordinator.config.queuedRunCoordinator": {
        *("maxConcurrentRuns", "tagConcurrencyLimits", "dequeueIntervalSeconds", "dequeueNumWorkers"),
        "dequeueUseThreads",
    },
}
"""The keys that the official chart's schema knows, where ours has some; it forbids any other."""


def _unknown(values: Any, at: str = "") -> Iterator[str]:
    if isinstance(values, list):
        for value in values:
            yield from _unknown(value, at)
    elif isinstance(values, Mapping):
        for key, value in values.items():
            path = f"{at}.{key}".strip(".")
            if at in CHART_KEYS and key not in CHART_KEYS[at]:
                yield path
            yield from _unknown(value, path)


def test_the_values_name_nothing_that_the_chart_does_not_know() -> None:
    assert list(_unknown(VALUES)) == []
    assert list(_unknown({"runLauncher": {"typ": "K8sRunLauncher"}})) == ["runLauncher.typ"]


def test_runs_and_lanes_get_the_resources_that_are_written_down_for_them() -> None:
    # The chart hands those of the code location on to every run, where they win over the launcher's.
    (deployment,) = VALUES["dagster-user-deployments"]["deployments"]
    launched = VALUES["runLauncher"]["config"]["k8sRunLauncher"]["runK8sConfig"]
    assert deployment["includeConfigInLaunchedRuns"] == {"enabled": True}
    assert deployment["resources"]["limits"] == {"memory": "1Gi"}
    assert "resources" not in launched.get("containerConfig", {})


def test_the_image_can_be_built_with_the_executor_that_the_values_choose() -> None:
    (deployment,) = VALUES["dagster-user-deployments"]["deployments"]
    environment = {it["name"]: it["value"] for it in deployment["env"]}
    assert f"WITH={environment['KB_EXECUTOR']}" in (DEPLOY / "helm-values.yaml").read_text()
    assert '"dagster-$WITH>=0.29,<0.30"' in (DEPLOY / "Dockerfile").read_text()


def test_a_celery_worker_gives_back_what_it_held_when_it_is_killed() -> None:
    config = CELERY["execution"]["config"]
    assert config["broker"] == {"env": "KB_CELERY_BROKER"}
    assert config["config_source"] == {"task_acks_late": True, "task_reject_on_worker_lost": True}


def test_a_celery_worker_s_settings_are_read_by_celery(monkeypatch: pytest.MonkeyPatch) -> None:
    cli = pytest.importorskip("dagster_celery.cli", reason="dagster-celery is not installed")
    monkeypatch.setenv("KB_CELERY_BROKER", "redis://127.0.0.1:1/0")
    read = cli.get_validated_config(str(DEPLOY / "celery.yaml"))
    assert read["broker"] == "redis://127.0.0.1:1/0"
    assert read["config_source"]["task_acks_late"] is True


def test_the_queue_and_the_retries_are_those_of_dagster_yaml() -> None:
    ours = yaml.safe_load((ROOT / "dagster.yaml").read_text())
    queue = VALUES["dagsterDaemon"]["runCoordinator"]["config"]["queuedRunCoordinator"]
    assert queue["maxConcurrentRuns"] == ours["concurrency"]["runs"]["max_concurrent_runs"]
    assert queue["tagConcurrencyLimits"] == ours["concurrency"]["runs"]["tag_concurrency_limits"]
    assert VALUES["dagsterDaemon"]["runRetries"]["maxRetries"] == ours["run_retries"]["max_retries"]


def test_every_setting_is_one_that_the_example_of_settings_explains() -> None:
    known = set(re.findall(r"^#?([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    text = "".join(
        (DEPLOY / name).read_text()
        for name in ("compose.yaml", "helm-values.yaml", "celery.yaml", "Dockerfile")
    )
    used = set(re.findall(r"\b(?:KB|DAGSTER)_[A-Z_]+\b", text))
    assert used - known == set()


def test_services_wait_for_services_that_are_there_and_build_from_files_that_are() -> None:
    services = COMPOSE["services"]
    for name, service in services.items():
        assert set(service.get("depends_on", {})) <= set(services), name
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source in COMPOSE["volumes"] or (DEPLOY / source).exists(), volume
    build = services["migrate"]["build"]
    assert (DEPLOY / build["context"] / build["dockerfile"]).is_file()
    copied = re.findall(r"^COPY (?!--)(.*) \S+$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    assert [it for line in copied for it in line.split() if not (ROOT / it).exists()] == []


def test_only_the_web_page_is_published_and_on_this_machine_alone() -> None:
    published = {name: it["ports"] for name, it in COMPOSE["services"].items() if "ports" in it}
    assert published == {"web": ["127.0.0.1:3000:3000"]}


def test_no_password_has_a_default() -> None:
    text = (DEPLOY / "compose.yaml").read_text()
    assert re.findall(r"\$\{POSTGRES_PASSWORD(?!:\?)", text) == []
    assert "postgresqlPassword" not in VALUES["postgresql"]
