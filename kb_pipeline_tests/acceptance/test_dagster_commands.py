"""Dagster's own commands as the documents print them, in processes of their own."""

import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._core.workspace.load_target import PyProjectFileTarget

from kb_pipeline.definitions import defs
from kb_pipeline.orchestration import sensor_decisions
from kb_pipeline.orchestration.instance import MODULE
from kb_pipeline.orchestration.resources import Database
from kb_pipeline.orchestration.sensors import lost_runs
from kb_pipeline.storage.postgres import Connection, connect, ensure_database
from kb_pipeline_tests.acceptance.served import ROOT, dagster_environment, wait_until
from kb_pipeline_tests.conftest import CopyOf

CANARY = "kanarienvogel"
DAGSTER_DATABASE = "commands_dagster"
ENVIRONMENT = 'eval "$(.venv/bin/python -m kb_pipeline.orchestration.instance)"'
"""How the documents say Dagster's commands get their variables outside `make shell`."""
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))


@pytest.fixture(scope="module")
def environment(
    server: str, copy_of: CopyOf, demo_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    """The environment of `make shell`, over the demo history."""
    with copy_of(demo_template) as url:
        yield _environment(server, url, tmp_path_factory.mktemp("kb"))


def _environment(server: str, url: str, home: Path) -> dict[str, str]:
    # The server asks for no password; one in the URL shows wherever it should not.
    url = url.replace("@", f":{CANARY}@", 1)
    outside = dagster_environment(server, home, url, DAGSTER_DATABASE)
    outside["KB_DAGSTER_DATABASE_URL"] = outside["KB_DAGSTER_DATABASE_URL"].replace("@", f":{CANARY}@", 1)
    printed = _run("python -m kb_pipeline.orchestration.instance", outside)
    assert printed.returncode == 0, printed.stderr
    exported = (line.removeprefix("export ").partition("=") for line in printed.stdout.splitlines())
    return outside | {name: value.strip("'") for name, _, value in exported}


def _run(command: str, environment: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["/bin/sh", "-c", command], env=environment, cwd=ROOT, text=True, capture_output=True, timeout=120
    )


def _count(environment: dict[str, str], condition: str) -> int:
    with connect(environment["KB_DATABASE_URL"]) as connection:
        row = connection.execute(f"SELECT count(*) FROM backtest_runs WHERE {condition}").fetchone()  # type: ignore[arg-type]
    assert row is not None
    return int(row[0])


def test_a_killed_command_holds_nobody_up_and_is_not_taken_for_running_for_ever(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sensor_decisions, "SILENCE_SECONDS", 0)
    command = shlex.split("dagster job execute -j backfill_regime -c examples/backfill_regime.yaml")
    with connect() as connection, dg.DagsterInstance.get() as instance:
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
        wait_until(lambda: _writers(connection), "the backfill to hold its lock", 60, every=0.01)
        process.kill()
        process.wait()
        wait_until(lambda: not _writers(connection), "the lock to go with its holder", 5)
        (run,) = instance.get_runs()
        assert run.status == dg.DagsterRunStatus.STARTED
        lost_runs(dg.build_sensor_context(instance=instance, resources={"database": Database()}))
        assert instance.get_runs()[0].status == dg.DagsterRunStatus.FAILURE


def _writers(connection: Connection) -> int:
    row = connection.execute(
        "SELECT count(*) FROM pg_locks JOIN pg_database AS it ON it.oid = database"
        " WHERE locktype = 'advisory' AND granted AND datname = current_database()"
    ).fetchone()
    assert row is not None
    return int(row[0])


def test_everything_works_right_after_the_demo_is_loaded(environment: dict[str, str]) -> None:
    done = _run("dagster job execute -j everything -c examples/everything.yaml", environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert _count(environment, "kb_status = 'candidate'") > 0
    assert _count(environment, "regime_oos IS NOT NULL") > 0


def test_a_partition_is_materialized_by_its_key_once_it_is_registered(environment: dict[str, str]) -> None:
    assert _run("kb-pipeline partitions sync", environment).returncode == 0
    done = _run("dagster asset materialize --select regime_snapshots --partition 'AAPL|demo'", environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Materialized value regime_snapshots" in done.stdout + done.stderr


def test_a_range_of_partitions_is_one_run_and_needs_no_shell_of_ours(environment: dict[str, str]) -> None:
    bare = {name: value for name, value in environment.items() if "MODULE" not in name}
    done = _run(
        "dagster asset materialize -m kb_pipeline.definitions --select regime_snapshots"
        " --partition-range 'AAPL|demo...MSFT|demo'",
        bare,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    # Of the five symbols, all from the first to the last.
    assert len(re.findall("Materialized value regime_snapshots", said)) == 5
    assert said.count("RUN_SUCCESS") == 1


def test_the_dry_runs_need_no_module_in_the_shell_and_write_nothing(environment: dict[str, str]) -> None:
    before = _count(environment, "kb_status = 'candidate'")
    done = _run("dagster job execute -j dry_run_reports -c examples/dry_run.yaml", environment)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert len(re.findall(r"Would write \d+ of \d+ rows; nothing was written", said)) >= 3
    assert _count(environment, "kb_status = 'candidate'") == before


def test_a_file_of_settings_names_the_module_too_and_a_failure_is_an_exit_code(
    environment: dict[str, str], tmp_path: Path
) -> None:
    settings, config = tmp_path / ".env", tmp_path / "nowhere.yaml"
    settings.write_text((ROOT / ".env.example").read_text().replace("#DAGSTER_MODULE", "DAGSTER_MODULE"))
    config.write_text("ops: {candidacy: {config: {workspaces: [nowhere]}}}")
    the_rest = ENVIRONMENT.replace(".venv/bin/", "")
    # As the file's first lines say, in a shell that knows no more of Dagster than where tests may work.
    done = _run(
        f"set -a; . {settings}; set +a; {the_rest}; dagster job execute -j backfill_candidacy -c {config}",
        {name: value for name, value in environment.items() if not name.startswith("DAGSTER")},
    )
    assert done.returncode == 1
    assert "There is no workspace 'nowhere'" in done.stdout + done.stderr


def test_the_location_is_valid_as_the_workspace_file_names_it(environment: dict[str, str]) -> None:
    done = _run("dagster definitions validate -w workspace.yaml", environment)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_project_file_names_the_same_location_for_both_of_dagster_s_commands() -> None:
    path = ROOT / "pyproject.toml"
    (origin,) = PyProjectFileTarget(str(path)).create_origins()
    assert origin.location_name == "kb_pipeline"
    assert origin.loadable_target_origin.module_name == MODULE
    project = tomllib.loads(path.read_text())["tool"]["dg"]["project"]
    assert (project["root_module"], project["code_location_target_module"]) == ("kb_pipeline", MODULE)


def test_the_password_is_kept_nowhere_and_nothing_is_pickled(
    environment: dict[str, str], server: str, kb_home: Path
) -> None:
    roots = [Path(environment["KB_HOME"]), Path(environment["DAGSTER_HOME"])]
    files = {it for root in roots for it in root.rglob("*") if it.is_file()}
    assert any(it.suffix == ".err" for it in files), "the logs of steps are among them"
    for it in files:
        assert not re.match(rb"\x80[\x02-\x05]", it.read_bytes()), it
    files.add(kb_home / "postgres" / "server.log")
    urls = [environment["KB_DATABASE_URL"], ensure_database(server, DAGSTER_DATABASE)]
    assert "event_logs" in _places_of("STEP_SUCCESS", urls, files)
    assert _places_of(CANARY, urls, files) == set()


def _places_of(text: str, urls: list[str], files: set[Path]) -> set[str]:
    """Return the files and the tables, of ours and of Dagster's, that hold a text."""
    found = {str(it) for it in files if text.encode() in it.read_bytes()}
    for url in urls:
        with connect(url) as connection:
            tables = connection.execute("SELECT relname FROM pg_stat_user_tables").fetchall()
            for (table,) in tables:
                query = f"SELECT true FROM {table} AS it WHERE it::text LIKE %s LIMIT 1"
                if connection.execute(query, [f"%{text}%"]).fetchone():  # type: ignore[call-overload]
                    found.add(table)
    return found


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_fits_the_job_it_names(example: Path) -> None:
    text = example.read_text()
    (named,) = set(re.findall(r"-j (\w+) -c examples/(\w+\.yaml)", text))
    assert named[1] == example.name
    assert ENVIRONMENT in text
    assert dg.validate_run_config(defs.resolve_job_def(named[0]), yaml.safe_load(text))


def test_every_job_has_an_example() -> None:
    named = {re.findall(r"-j (\w+) ", path.read_text())[0] for path in EXAMPLES}
    assert named == {job.name for job in defs.jobs or ()}


def test_the_documents_say_what_sets_dagster_s_variables_outside_the_shell() -> None:
    for document in ("README.md", ".env.example", "docs/asset-graph.md"):
        assert ENVIRONMENT in (ROOT / document).read_text(), document


@pytest.mark.parametrize("document", ["README.md", "docs/asset-graph.md", "docs/dagster-for-researchers.md"])
def test_every_command_of_the_documents_is_one_that_these_tests_run(document: str) -> None:
    tests = "".join(
        Path(__file__).with_name(f"test_dagster_{name}.py").read_text() for name in ("commands", "ui")
    )
    run = re.sub(r'"\s+"', "", tests)
    printed = re.findall(r"^dagster .*?(?= *#|$)", (ROOT / document).read_text(), re.MULTILINE)
    assert [command for command in printed if command not in run] == []
