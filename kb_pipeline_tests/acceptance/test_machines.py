"""The jobs on a real Dask scheduler and two workers, one of which is killed."""

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from threading import Thread
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.reconstruct import ReconstructableRepository

from kb_pipeline import definitions
from kb_pipeline.backfills.regime import RegimeRequest, backfill_regime
from kb_pipeline.storage.postgres import Connection, connect, ensure_database
from kb_pipeline.storage.urls import parse_database_url
from kb_pipeline_tests.builders import add_run, add_workspace, write_daily_bars
from kb_pipeline_tests.conftest import CopyOf
from scripts import machines

RUNS = 80
SYMBOLS = ("AAA", "BBB")
JOB = "backfill_regime"
CONFIG = {"ops": {"regimes": {"config": {"workspaces": ["w1", "w2"]}}}}


@pytest.fixture(scope="module")
def prices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data root with the prices of two symbols."""
    root = tmp_path_factory.mktemp("data")
    (root / "ohlcv").mkdir()
    for seed, name in enumerate(SYMBOLS):
        write_daily_bars(root / "ohlcv" / f"{name}_1d.csv", seed=seed)
    zone = "{calendar: 24/7, timezone: UTC}"
    (root / "symbols.yaml").write_text(f"symbols:\n  AAA: {zone}\n  BBB: {zone}\n")
    return root


@pytest.fixture
def history(copy_of: CopyOf, migrated_template: str) -> Iterator[str]:
    """Return the URL of a database with runs of two workspaces."""
    with copy_of(migrated_template) as url:
        with connect(url) as connection, connection.transaction():
            _fill(connection)
        yield url


def _fill(connection: Connection) -> None:
    for slug in ("w1", "w2"):
        workspace = add_workspace(connection, slug)
        for number in range(RUNS):
            window = {"date_min": f"2020-02-{1 + number % 28:02}", "date_max": "2020-12-01"}
            add_run(connection, workspace, dataset_meta={"symbol": SYMBOLS[number % 2], **window})


@pytest.fixture
def shared(copy_of: CopyOf, history: str) -> Iterator[str]:
    """Return the URL of another database with the same runs."""
    with copy_of(parse_database_url(history).database) as url:
        yield url


def test_a_killed_worker_s_part_is_finished_by_the_other_and_nothing_differs(
    server: str, history: str, shared: str, prices: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("dagster_dask", reason="the extra `machines` is not installed")
    environment = machines.environment_of(
        shared,
        ensure_database(server, "machines_dagster"),
        tmp_path / "home",
        KB_DATA_ROOT=str(prices),
        KB_EXECUTOR="dask",
        KB_LANES="2",
        KB_PART_ROWS="5",
    )
    with machines.cluster([machines.Host((), "127.0.0.1")] * 3, environment) as running:
        for name, value in {**environment, "KB_DASK_ADDRESS": running.address}.items():
            monkeypatch.setenv(name, value)
        _compute_alone(history, prices)
        monkeypatch.setattr(definitions, "defs", definitions.build_definitions())
        repository = ReconstructableRepository.for_module("kb_pipeline.definitions", "defs")
        job = repository.get_reconstructable_job(JOB)
        ended: list[Any] = []

        def run() -> None:
            with (
                dg.DagsterInstance.get() as instance,
                dg.execute_job(job, instance, run_config=CONFIG) as done,
            ):
                ended.append(done.success)

        thread = Thread(target=run, daemon=True)
        thread.start()
        machines.kill_in_the_midst(shared, running.workers)
        thread.join(60)
    assert ended == [True]
    seen = machines.parts(shared)
    assert seen.done == seen.planned >= 4 * 8
    assert len(seen.of_process) == 2
    assert min(seen.of_process.values()) >= 3, "both workers did some"
    with connect(shared) as connection:
        again = connection.execute("SELECT count(*) FROM kb_backfill_parts WHERE attempts = 2").fetchone()
    assert again == (1,), "the part that the killed one held was begun once more"
    assert machines.results(shared) == machines.results(history)
    assert all(row[1] for row in machines.results(shared)["runs"]), "every run has a regime"


def _compute_alone(url: str, prices: Path) -> None:
    with connect(url) as connection:
        workspaces = connection.execute("SELECT id FROM workspaces").fetchall()
        for (workspace_id,), symbol in product(workspaces, SYMBOLS):
            request = RegimeRequest(
                workspace_id=workspace_id,
                ohlcv_file=prices / "ohlcv" / f"{symbol}_1d.csv",
                symbol=symbol,
                limit=None,
                data_root=prices,
            )
            assert backfill_regime(connection, request, dry_run=False).updated == RUNS / len(SYMBOLS)
