"""The command line: its options, what it refuses, and what it says of the database."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import click
import pytest

from kb_pipeline import cli
from kb_pipeline.storage.postgres import Connection
from kb_pipeline_tests.acceptance.commands import (
    AAPL_FILE,
    ANY_ID,
    ESCAPE,
    PROJECT,
    command_line,
    run,
    run_here,
)
from kb_pipeline_tests.builders import add_run, add_workspace
from kb_pipeline_tests.conftest import Workspace

NOWHERE = "postgresql://nobody@127.0.0.1:1/nowhere"
"""Nothing listens on port 1, so a command that tried to connect would end with 1 and not with 2."""
CANARY = "kanarienvogel"
"""A password; wherever this word is printed, a password would be."""


# --- Options -------------------------------------------------------------------------------------

BACKFILL_OPTIONS = {
    *(
        "--workspace-id",
        "--since",
        "--limit",
        "--dry-run",
        "--batch-size",
        "--from-start",
        "--json",
        "--list",
    ),
}
OPTIONS = {
    "backfill-candidacy": BACKFILL_OPTIONS | {"--experiment-type", "--require-regime", "--require-metrics"},
    "backfill-regime": BACKFILL_OPTIONS
    | {"--ohlcv-file", "--symbol", "--timeframe", "--calendar", "--tz", "--min-coverage"},
    "backfill-attribution": BACKFILL_OPTIONS,
    "ingest-trials": BACKFILL_OPTIONS,
    "explain": {"--workspace-id", "--experiment-type", "--require-regime", "--require-metrics", "--json"},
    "demo": set(),
    "db start": set(),
    "db stop": set(),
    "db status": set(),
    "db url": {"--show-password"},
    "db migrate": set(),
}


@pytest.mark.parametrize("command", OPTIONS)
def test_help_names_every_option(command: str) -> None:
    shown = run_here(*command.split(), "--help")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert set(re.findall(r"--[a-z-]+", shown.stdout.partition("Options:")[2])) >= OPTIONS[command]


def test_no_command_or_option_goes_without_a_word_of_help() -> None:
    def commands(group: click.Group, path: str = "") -> Iterator[tuple[str, click.Command]]:
        for name, command in group.commands.items():
            if isinstance(command, click.Group):
                yield from commands(command, f"{path}{name} ")
            else:
                yield f"{path}{name}", command

    found = dict(commands(cli.cli))
    assert set(OPTIONS) <= set(found)
    for name, command in found.items():
        assert command.help, name
        for parameter in command.params:
            assert isinstance(parameter, click.Argument) or parameter.help, f"{name} {parameter.opts}"


def test_every_command_and_option_of_the_readme_s_examples_is_there() -> None:
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    line = r"(?:^|[`$/] ?)kb-pipeline ((?:db |partitions )?[a-z-]+)([^`\n]*)"
    examples = re.findall(line, text, re.MULTILINE)
    assert len(examples) > 5
    for command, rest in examples:
        shown = run_here(*command.split(), "--help")
        assert shown.returncode == 0, command
        assert set(re.findall(r"--[a-z-]+", rest)) <= set(re.findall(r"--[a-z-]+", shown.stdout)), command


def test_help_loads_nothing_heavy() -> None:
    heavy = "{'pandas', 'numpy', 'psycopg', 'dagster', 'pyarrow'}"
    text = f"import sys, kb_pipeline.cli; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", text], check=False).returncode == 0
    assert run("--help").returncode == 0


CANDIDACY = ("backfill-candidacy", "--workspace-id", ANY_ID)
REGIME = ("backfill-regime", "--workspace-id", ANY_ID, "--ohlcv-file", AAPL_FILE)


@pytest.mark.parametrize(
    ("arguments", "option", "value"),
    [
        ((*CANDIDACY, "--since", "2025-13-01"), "--since", "'2025-13-01'"),
        ((*CANDIDACY, "--since", ESCAPE), "--since", r"'\x1b[31mred'"),
        ((*CANDIDACY, "--since", "2025-01-01T10:00"), "--since", "'2025-01-01T10:00' has no offset"),
        ((*CANDIDACY, "--since", ""), "--since", "''"),
        ((*CANDIDACY, "--limit", "-1"), "--limit", "-1"),
        ((*CANDIDACY, "--limit", "0"), "--limit", "0"),
        ((*CANDIDACY, "--limit", "1e3"), "--limit", "'1e3'"),
        ((*CANDIDACY, "--limit", ESCAPE), "--limit", r"'\x1b[31mred'"),
        ((*CANDIDACY, "--batch-size", "0"), "--batch-size", "0"),
        ((*CANDIDACY, "--batch-size", "10001"), "--batch-size", "10001"),
        ((*CANDIDACY, "--experiment-type", "foo"), "--experiment-type", "'foo'"),
        ((*CANDIDACY, "--experiment-type", ESCAPE), "--experiment-type", r"'\x1b[31mred'"),
        ((*CANDIDACY[:2], "123"), "--workspace-id", "'123'"),
        ((*CANDIDACY[:2], ESCAPE), "--workspace-id", r"'\x1b[31mred'"),
        (CANDIDACY[:1], "--workspace-id", "Missing option"),
        ((*CANDIDACY, f"--{ESCAPE}"), "No such option", r"'--\x1b[31mred'"),
        ((*REGIME, "--symbol", "A\0B"), "--symbol", r"'A\x00B'"),
        ((*REGIME, "--symbol", " "), "--symbol", "' '"),
        ((*REGIME, "--symbol", ESCAPE), "--symbol", r"'\x1b[31mred'"),
        ((*REGIME, "--timeframe", "1h; drop table x"), "--timeframe", "'1h; drop table x'"),
        ((*REGIME, "--timeframe", ESCAPE), "--timeframe", r"'\x1b[31mred'"),
        ((*REGIME, "--tz", "Mars"), "--tz", "the time zone 'Mars', needed a name such as"),
        ((*REGIME, "--min-coverage", "1.5"), "--min-coverage", "1.5"),
        ((*REGIME, "--min-coverage", "nan"), "--min-coverage", "nan"),
        (REGIME[:3], "--ohlcv-file", "Missing option"),
        (("explain", "123"), "RUN_ID", "'123'"),
    ],
    ids=lambda value: str(value[-2:])[:40] if isinstance(value, tuple) else "",
)
def test_a_value_that_cannot_be_used_is_named_with_its_option_and_nothing_is_connected_to(
    arguments: tuple[object, ...], option: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KB_DATABASE_URL", NOWHERE)
    done = run_here(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert option in done.stderr
    assert value in done.stderr
    assert "\x1b" not in done.stderr


def test_a_process_ends_with_2_on_a_bad_option() -> None:
    done = run(*CANDIDACY, "--experiment-type", "foo", KB_DATABASE_URL=NOWHERE)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Invalid value for '--experiment-type': 'foo' is not one of 'tune', 'sweep'" in done.stderr


# --- The database --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "exit_code", "message"),
    [
        (
            f"postgresql+psycopg://u:{CANARY}@h/db",
            2,
            "KB_DATABASE_URL: The database URL names a driver after '+'",
        ),
        (f"postgresql://u:{CANARY}@h:port/db", 2, "KB_DATABASE_URL: The database URL cannot be read"),
        (f"host=h password={CANARY} dbname=db", 2, "cannot be read"),
        (f"postgresql://u:{CANARY}@127.0.0.1:1/db", 1, "Cannot connect to database 'db' at 127.0.0.1:1"),
    ],
    ids=["driver", "port", "keywords", "unreachable"],
)
def test_no_error_about_a_database_url_shows_its_password(
    url: str, exit_code: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KB_DATABASE_URL", url)
    done = run_here(*CANDIDACY)
    assert (done.returncode, done.stdout) == (exit_code, "")
    assert message in done.stderr
    assert CANARY not in done.stderr
    assert "\N{REPLACEMENT CHARACTER}" not in done.stderr, "the driver's own lines begin with a tab"


@pytest.fixture
def secret_url(database_url: str) -> str:
    """Return the database's URL with a password in it, which the server does not ask for."""
    assert "@" in database_url
    return database_url.replace("@", f":{CANARY}@", 1)


def test_no_command_prints_the_password(
    connection: Connection, workspace: Workspace, secret_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KB_DATABASE_URL", secret_url)
    run_id = add_run(connection, workspace)
    options = ("--workspace-id", workspace.id)
    for arguments in (
        ("db", "status"),
        ("db", "url"),
        ("backfill-candidacy", *options, "--json"),
        ("backfill-candidacy", "--workspace-id", ANY_ID),
        ("explain", run_id, "--json"),
    ):
        done = run_here(*arguments)
        assert done.stdout + done.stderr
        assert CANARY not in done.stdout + done.stderr, arguments
    assert CANARY not in str(connection.execute("SELECT kb_backfill_runs FROM kb_backfill_runs").fetchall())
    assert ":***@" in run_here("db", "url").stdout
    assert run_here("db", "url", "--show-password").stdout.strip() == secret_url


def test_the_status_of_a_migrated_database(database_url: str) -> None:
    done = run("db", "status")
    facts = dict(re.split(r":\s+", line, maxsplit=1) for line in done.stdout.splitlines())
    assert (done.returncode, facts["From"], facts["State"]) == (0, "KB_DATABASE_URL", "answers")
    assert facts["Tables"] == "up to date"


@pytest.mark.parametrize(
    "arguments", [CANDIDACY, (*REGIME, "--symbol", "AAPL"), ("explain", ANY_ID)], ids=lambda them: them[0]
)
def test_a_database_without_the_tables_is_told_the_next_step(
    empty_database_url: str, arguments: tuple[object, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KB_DATABASE_URL", empty_database_url)
    done = run_here(*arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(
        r'Error: relation "\w+" does not exist\. Run: kb-pipeline db migrate\n', done.stderr
    ), done.stderr


def test_a_question_asked_elsewhere_makes_no_database_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KB_HOME")
    monkeypatch.chdir(tmp_path)
    said = f"There is no database in {tmp_path / '.kb'}. Run this where the project is, set KB_HOME or "
    for arguments in (CANDIDACY, (*CANDIDACY, "--dry-run"), ("db", "secure"), ("partitions", "sync")):
        done = run_here(*arguments)
        assert (done.returncode, done.stdout) == (1, ""), arguments
        assert said in done.stderr
        assert done.stderr.endswith("or make one: kb-pipeline db migrate\n")
    examined = run_here("doctor")
    assert (examined.returncode, examined.stdout.splitlines()[1:]) == (1, [])
    assert said in examined.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_demo_without_a_checkout_says_what_it_needs_and_makes_no_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KB_HOME")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("kb_pipeline.storage.paths.project_root", lambda: tmp_path)
    done = run_here("demo")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"There is no demo in {tmp_path / 'data' / 'demo'}: its data come with a checkout" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_fails_is_named_and_only_a_lost_output_is_called_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unreadable = tmp_path / "postgres" / "postmaster.pid"
    unreadable.mkdir(parents=True)
    unreadable.parent.chmod(0o700)
    monkeypatch.setenv("KB_HOME", str(tmp_path))
    done = run_here("db", "status")
    assert (done.returncode, done.stderr) == (1, f"Error: {unreadable}: Is a directory\n")
    with Path("/dev/full").open("w") as full:
        lost = subprocess.run(
            command_line("--help"), stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    said = "Error: the output could not be written: No space left on device\n"
    assert (lost.returncode, lost.stderr) == (1, said)


def test_migrating_twice_applies_everything_once(empty_database_url: str) -> None:
    first, second = (run("db", "migrate", KB_DATABASE_URL=empty_database_url) for _ in range(2))
    applied = len(list((PROJECT / "migrations").glob("*.sql")))
    assert (first.returncode, second.returncode) == (0, 0)
    assert first.stdout.splitlines()[-1] == f"{applied} applied, 0 already there."
    assert second.stdout == f"0 applied, {applied} already there.\n"


def test_a_user_who_may_only_read_is_told_so_and_can_still_rehearse(
    connection: Connection, workspace: Workspace, database_url: str
) -> None:
    add_run(connection, workspace)
    role = f"reader_{uuid4().hex}"
    connection.execute(f"CREATE ROLE {role} LOGIN")
    connection.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")
    url = re.sub(r"//[^@/]*@", f"//{role}@", database_url)
    options = ("backfill-candidacy", "--workspace-id", workspace.id)
    rehearsal = run(*options, "--dry-run", KB_DATABASE_URL=url)
    assert (rehearsal.returncode, rehearsal.stderr) == (0, "")
    refused = run(*options, KB_DATABASE_URL=url)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "permission denied for table kb_backfill_runs" in refused.stderr
    connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_an_unknown_workspace_ends_with_2(database_url: str) -> None:
    for command in ("backfill-candidacy", "backfill-attribution", "ingest-trials"):
        done = run_here(command, "--workspace-id", ANY_ID)
        assert (done.returncode, done.stdout) == (2, "")
        assert f"There is no workspace {ANY_ID} in database" in done.stderr
        assert done.stderr.endswith("The database has no workspace yet.\n")


def test_a_workspace_is_named_by_id_or_slug_and_a_wrong_one_is_told_which_there_are(
    connection: Connection, workspace: Workspace
) -> None:
    add_run(connection, workspace)
    for name in ("quant", workspace.id, f" {workspace.id.hex} "):
        done = run_here("backfill-candidacy", "--workspace-id", name, "--dry-run", "--json")
        assert json.loads(done.stdout)["workspace_id"] == str(workspace.id), done.stderr
    others = [add_workspace(connection, f"desk_{number:02}") for number in range(11)]
    listed = f"The database has desk_00 ({others[0].id}), desk_01 ({others[1].id}), "
    for command, name in (("regimes", "quant "), ("drift", "QUANT"), ("uplift", "a\0b"), ("best", ANY_ID)):
        asked = ("--trend", "_", "--vol", "_") if command == "best" else ()
        done = run_here(command, "--workspace-id", name, *asked)
        assert (done.returncode, done.stdout) == (2, "")
        assert "--workspace-id" in done.stderr
        assert "\0" in name or (listed in done.stderr and done.stderr.endswith(" and 2 more.\n")), done.stderr
