"""Three workspaces in one database: work in one leaves the others as they were and shows nothing of them.

Two guards see to that, the database's row-level security and the workspace named in every statement.
Each case is tried with both, and with either alone.
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import dagster as dg
import psycopg
import pytest
from psycopg import sql

from kb_pipeline import sql as statements
from kb_pipeline.backfills.candidacy import CandidacyRequest, backfill_candidacy
from kb_pipeline.backfills.invariants import breaches
from kb_pipeline.definitions import build_definitions
from kb_pipeline.orchestration.resources import Database, Prices
from kb_pipeline.orchestration.sensors import completed_tunes, new_partitions
from kb_pipeline.questions.best import regime_summary
from kb_pipeline.storage.postgres import Connection, connect
from kb_pipeline_tests.acceptance.commands import run_here
from kb_pipeline_tests.attributed import kept, learn, regime_key, won
from kb_pipeline_tests.builders import add_run, add_workspace, write_daily_bars
from kb_pipeline_tests.conftest import Workspace

TAGS = ("uptrend high_vol efficient", "uptrend low_vol efficient", "flat low_vol noisy")
OTHERS = ("bravo", "charlie")
_OF_A_WORKSPACE = (
    "SELECT relname FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid AND attname = 'workspace_id'"
    " WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY relname"
)
_NAMED = re.compile(r"(?:\w+\.)?\bworkspace_id = (?:%\(workspace_id\)s|\w+\.workspace_id)")


class World(NamedTuple):
    """The workspaces: ours, whose name is alpha, and the others."""

    alpha: Workspace
    others: tuple[Workspace, ...]
    run: str
    their_run: str
    bars: Path


def _fill(connection: Connection, slug: str, better: float) -> tuple[Workspace, str]:
    """Make a workspace whose rows bear its name, and that is better than the one before."""
    workspace = add_workspace(connection, slug)
    connection.execute(
        "UPDATE kb_entities SET name = 'reversal_' || %s WHERE id = %s", [slug, workspace.strategy_id]
    )
    mark = {"mark": slug}
    for number, tags in enumerate(TAGS):
        won(connection, workspace, tags, better + number, params=mark)
        run = kept(connection, workspace, tags, better + number, params=mark)
    learn(connection, workspace)
    for number in range(3):
        won(connection, workspace, TAGS[0], better + number, params=mark)
        window = {"oos_start": f"2020-03-0{1 + number}", "oos_end": "2020-08-01"}
        meta = {"symbol": "BTC", "mark": slug, **window}
        add_run(connection, workspace, params=mark, dataset_meta=meta, kb_status_reason=slug)
    return workspace, run


@pytest.fixture
def world(connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setenv("KB_HOME", str(tmp_path / "kb"))
    (tmp_path / "data" / "ohlcv").mkdir(parents=True)
    (tmp_path / "data" / "symbols.yaml").write_text("symbols:\n  BTC: {calendar: 24/7, timezone: UTC}\n")
    bars = write_daily_bars(tmp_path / "data" / "ohlcv" / "BTC_1d.csv")
    (alpha, run), *others = (
        _fill(connection, slug, better) for better, slug in enumerate(("alpha", *OTHERS))
    )
    return World(alpha, tuple(it for it, _ in others), run, others[0][1], bars)


def _without_row_security(connection: Connection, _patch: pytest.MonkeyPatch) -> None:
    for (table,) in connection.execute(_OF_A_WORKSPACE).fetchall():
        connection.execute(sql.SQL("ALTER TABLE {} DISABLE ROW LEVEL SECURITY").format(sql.Identifier(table)))


def _without_predicates(_connection: Connection, patch: pytest.MonkeyPatch) -> None:
    read = statements._statements.__wrapped__
    patch.setattr(
        statements,
        "_statements",
        lambda file: {name: _NAMED.sub("true", text) for name, text in read(file).items()},
    )
    statements.statement.cache_clear()


_REMOVE: dict[str, Sequence[Callable[[Connection, pytest.MonkeyPatch], None]]] = {
    "both guards": (),
    "predicates alone": (_without_row_security,),
    "row security alone": (_without_predicates,),
    "neither": (_without_row_security, _without_predicates),
}


@pytest.fixture
def guards(
    request: pytest.FixtureRequest, world: World, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """Take guards away once the rows are there."""
    for remove in _REMOVE[request.param]:
        remove(connection, monkeypatch)
    yield request.param
    monkeypatch.undo()
    statements.statement.cache_clear()


EACH = pytest.mark.parametrize(
    "guards", ["both guards", "predicates alone", "row security alone"], indirect=True
)


def _digest(connection: Connection, world: World) -> dict[str, Any]:
    """Return every row of the other workspaces, to the last byte, by table."""
    ids = [it.id for it in world.others]
    text = "SELECT array_agg(t::text ORDER BY t::text) FROM {} AS t WHERE workspace_id = ANY (%s)"
    return {
        table: connection.execute(sql.SQL(text).format(sql.Identifier(table)), [ids]).fetchone()
        for (table,) in connection.execute(_OF_A_WORKSPACE).fetchall()
    }


def _shows_nothing(world: World, said: object) -> None:
    for hidden in (
        *OTHERS,
        *(str(it.id) for it in world.others),
        *(str(it.strategy_id) for it in world.others),
    ):
        assert hidden not in str(said), said


def _commands(world: World, page: Path) -> list[tuple[tuple[object, ...], int]]:
    """Return every command about a workspace, with its exit code; the last ones ask for what is not ours."""
    here = ("--workspace-id", world.alpha.id)
    asked = ("recommend", *here, "--strategy", "reversal_alpha")
    bars = ("--ohlcv-file", world.bars, "--calendar", "24/7")
    backfills = [("backfill-regime", *here, *bars), ("backfill-candidacy", *here)]
    backfills += [("backfill-attribution", *here), ("ingest-trials", *here)]
    done = [
        *((*line, "--dry-run", "--list") for line in backfills),
        *((*line, "--list") for line in backfills),
        ("uplift", *here, "--dry-run"),
        ("uplift", *here),
        ("best", *here, "--regime-key", regime_key(TAGS[0])),
        ("best", *here, "--trend", "uptrend", "--vol", "high_vol"),
        ("regimes", *here),
        (*asked, "--regime-key", regime_key(TAGS[0]), "--min-samples", 50),
        (*asked, "--run", world.run),
        ("similar", *here, "--run", world.run),
        ("similar", *here, "--run", world.run, "--rebuild"),
        ("drift", *here, "--ohlcv-file", world.bars, "--dry-run"),
        ("drift", *here, "--ohlcv-file", world.bars),
        ("dashboard", *here, "-o", page),
        ("explain", world.run),
        ("explain", world.run, *here),
    ]
    theirs = [
        ("explain", world.their_run, *here),
        (*asked, "--run", world.their_run),
        ("similar", *here, "--run", world.their_run),
    ]
    return [(line, 0) for line in done] + [(line, 2) for line in theirs]


@EACH
def test_every_command_leaves_other_workspaces_alone_and_shows_nothing_of_them(
    guards: str, world: World, connection: Connection, tmp_path: Path
) -> None:
    before, page = _digest(connection, world), tmp_path / "page.html"
    for line, exit_code in _commands(world, page):
        done = run_here(*line)
        assert done.returncode == exit_code, (line, done.stderr)
        _shows_nothing(world, done.stdout + done.stderr)
        assert _digest(connection, world) == before, line
    _shows_nothing(world, page.read_text())
    assert "mark" in page.read_text()


@EACH
def test_every_asset_check_and_sensor_leaves_other_workspaces_alone(
    guards: str, world: World, connection: Connection, tmp_path: Path
) -> None:
    before = _digest(connection, world)
    named = {"workspaces": ["alpha"]}
    with dg.DagsterInstance.ephemeral(tempdir=str(tmp_path)) as instance:
        resources = {"database": Database(), "prices": Prices(tmp_path / "data")}
        for sensor in (completed_tunes, new_partitions):
            context = dg.build_sensor_context(instance, sensor_name=sensor.name, resources=resources)
            found = sensor(context)
            # One request a workspace, each of which tells of its own tunes alone.
            assert len(found.run_requests or ()) in (0, 3)
        assert _digest(connection, world) == before
        definitions = build_definitions(**resources)
        for job, settings in _jobs(named).items():
            ops = {step: {"config": config} for step, config in settings.items()}
            done = definitions.resolve_job_def(job).execute_in_process(
                instance=instance, run_config={"ops": ops}
            )
            for event in done.all_events:
                if event.is_step_materialization or event.event_type_value == "ASSET_CHECK_EVALUATION":
                    _shows_nothing(world, event.event_specific_data)
            assert _digest(connection, world) == before, job
    _shows_nothing(world, breaches(connection, world.alpha.id))


def _jobs(named: dict[str, Any]) -> dict[str, dict[str, Any]]:
    steps = ("candidacy", "attribution", "trials", "uplift")
    everything = {"prices": {}, "regimes": {**named, "symbols": ["BTC"]}, **dict.fromkeys(steps, named)}
    checks = ("candidacy_decisions_candidacy_dry_run", "tune_regime_attribution_attribution_dry_run")
    return {
        "everything": everything,
        "dry_run_reports": {"regime_snapshots_regime_dry_run": named, **dict.fromkeys(checks, named)},
    }


@pytest.mark.parametrize("guards", ["neither"], indirect=True)
def test_without_either_guard_the_same_commands_reach_the_others(
    guards: str, world: World, connection: Connection, tmp_path: Path
) -> None:
    before = _digest(connection, world)
    shown = ""
    for line, _ in _commands(world, tmp_path / "page.html"):
        done = run_here(*line)
        shown += done.stdout
    assert _digest(connection, world) != before
    assert all(hidden in shown for hidden in OTHERS)


def test_a_session_that_names_no_workspace_sees_an_error_and_not_an_empty_table(
    world: World, connection: Connection
) -> None:
    # The first is not granted; plans of a run on many machines are of several workspaces and hold no results.
    open_to_all = {("kb_trial_index",), ("kb_backfill_parts",)}
    tables = [row for row in connection.execute(_OF_A_WORKSPACE) if row not in open_to_all]
    assert len(tables) == 16
    with connect() as app:
        for (table,) in tables:
            count = sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(table))
            with pytest.raises(psycopg.errors.UndefinedObject, match=r"app\.workspace_id"):
                app.execute(count)
        with app.working_in(world.alpha.id):
            (runs,) = app.execute("SELECT count(*) FROM backtest_runs").fetchone() or (0,)
            assert runs == 12
        # The setting ended with its transaction; what is left of it is an empty text, and an error too.
        for (table,) in tables:
            count = sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(table))
            with pytest.raises(psycopg.errors.InvalidTextRepresentation):
                app.execute(count)


def test_a_session_goes_from_one_workspace_to_another_and_back(world: World) -> None:
    count = "SELECT count(*), count(DISTINCT workspace_id), min(params ->> 'mark') FROM backtest_runs"
    bravo, charlie = world.others
    with connect() as app, app.working_in(bravo.id), app.transaction():
        assert app.execute(count).fetchone() == (12, 1, "bravo")
        with app.working_in(charlie.id):
            assert app.execute(count).fetchone() == (12, 1, "charlie")
            with app.transaction():
                assert app.execute(count).fetchone() == (12, 1, "charlie")
        assert app.execute(count).fetchone() == (12, 1, "bravo")


def test_no_row_can_be_written_into_another_workspace_or_name_one_of_its_rows(
    world: World, connection: Connection
) -> None:
    move = "UPDATE backtest_runs SET workspace_id = %s"
    link = "UPDATE backtest_tunes SET best_oos_run_id = %s WHERE workspace_id = %s"
    with connect() as app, app.working_in(world.alpha.id):
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
            app.execute(move, [world.others[0].id])
        with pytest.raises(psycopg.errors.ForeignKeyViolation):
            app.execute(link, [world.their_run, world.alpha.id])
    with pytest.raises(psycopg.errors.ForeignKeyViolation):  # whoever it is
        connection.execute(link, [world.their_run, world.alpha.id])


def test_the_role_of_the_project_owns_nothing_and_bypasses_nothing(connection: Connection) -> None:
    assert connection.execute(
        "SELECT rolsuper, rolbypassrls, rolcreaterole, rolcreatedb,"
        " EXISTS (SELECT FROM pg_class WHERE relowner = role.oid)"
        " FROM pg_roles AS role WHERE rolname = 'kb_app'"
    ).fetchone() == (False, False, False, False, False)
    with connect() as app:
        assert app.execute("SELECT session_user::text").fetchone() == ("kb_app",)
        for command in ("DROP TABLE kb_trials", "ALTER TABLE kb_trials DISABLE ROW LEVEL SECURITY"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                app.execute(command)


def test_a_session_opened_with_psycopg_itself_works_in_its_workspace_too(world: World) -> None:
    count = "SELECT count(*) FROM backtest_runs WHERE kb_status = 'candidate'"
    request = CandidacyRequest(workspace_id=world.alpha.id)
    with psycopg.connect(os.environ["KB_DATABASE_URL"], autocommit=True) as opened:
        report = backfill_candidacy(opened, request, dry_run=False)  # type: ignore[arg-type]
        assert regime_summary(connection=opened, workspace_id=world.alpha.id)  # type: ignore[arg-type]
    assert report.updated == 3
    with connect() as app, app.working_in(world.others[0].id):
        assert app.execute(count).fetchone() == (3,)


def test_the_owner_of_a_table_obeys_as_well(world: World, connection: Connection, database_url: str) -> None:
    connection.execute("ALTER TABLE backtest_runs OWNER TO kb_owner")
    with connect(database_url.replace("//kb@", "//kb_owner@")) as owner:
        with pytest.raises(psycopg.errors.UndefinedObject, match=r"app\.workspace_id"):
            owner.execute("SELECT count(*) FROM backtest_runs")
        with owner.working_in(world.alpha.id):
            assert owner.execute("SELECT count(*) FROM backtest_runs").fetchone() == (12,)


def test_shared_strategies_are_read_by_all_and_written_by_none(world: World, connection: Connection) -> None:
    connection.execute("INSERT INTO kb_entities (type, name) VALUES ('strategy', 'shared')")
    with connect() as app, app.working_in(world.alpha.id):
        names = app.execute("SELECT name FROM kb_entities ORDER BY name").fetchall()
        assert names == [("reversal_alpha",), ("shared",)]
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            app.execute("INSERT INTO kb_entities (type, name) VALUES ('strategy', 'shared too')")
