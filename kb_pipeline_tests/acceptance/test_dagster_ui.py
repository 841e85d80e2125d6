"""The web page, used as a person uses it: in a browser, over the demo history, with the daemon running."""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple
from uuid import UUID

import pytest

from kb_pipeline.backfills.candidacy import CandidacyRequest, backfill_candidacy
from kb_pipeline.storage.demo import DEMO_WORKSPACE_ID
from kb_pipeline.storage.postgres import Connection, connect
from kb_pipeline_tests.acceptance import browser as chromium
from kb_pipeline_tests.acceptance.questions import QUESTIONS
from kb_pipeline_tests.acceptance.served import ROOT, ask, dagster_environment, serve, wait_until
from kb_pipeline_tests.builders import add_trial, add_tune, column
from kb_pipeline_tests.conftest import CopyOf, Workspace

CANARY = "nachtigall"
TICK_SECONDS = 30
RUN_SECONDS = 15
LAUNCH = """eval "$(python -m kb_pipeline.orchestration.instance)"
dagster job launch -j ingest_trials -c examples/ingest_trials.yaml"""
"""In a shell with what `make shell` sets."""

LAUNCH_WHAT_FAILS = """mutation($where: JobOrPipelineSelector!) { launchRun(executionParams: {
    selector: $where, runConfigData: {ops: {candidacy: {config: {workspaces: ["nowhere"]}}}}
    }) { __typename } }"""
SYMBOLS = {"AAPL", "EURUSD", "GOOG", "IBM", "MSFT"}


class Page(NamedTuple):
    """The running web page and its database; what it was given to do when it came up, and what it told."""

    address: str
    connection: Connection
    tune_id: UUID
    completed_at: datetime
    launched: "subprocess.Popen[str]"
    told: list[dict[str, str]]


@pytest.fixture(scope="module", autouse=True)
def _browser_is_there() -> None:
    if chromium.program() is None:
        says = "NO BROWSER: the tests of the web page need Chromium (Debian: apt-get install chromium)"
        pytest.fail(says) if os.environ.get("CI") else pytest.skip(says)


@pytest.fixture(scope="module")
def page(
    server: str, copy_of: CopyOf, demo_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Page]:
    with copy_of(demo_template) as url, connect(url) as connection, _listener() as (webhook, told):
        # The server asks for no password; one in the URLs shows wherever it should not.
        with_password = url.replace("@", f":{CANARY}@", 1)
        environment = dagster_environment(server, tmp_path_factory.mktemp("kb"), with_password, "ui_dagster")
        dagster_url = environment["KB_DAGSTER_DATABASE_URL"]
        environment["KB_DAGSTER_DATABASE_URL"] = dagster_url.replace("@", f":{CANARY}@", 1)
        environment["KB_ALERT_WEBHOOK"] = webhook
        if os.environ.get("KB_PICTURES"):
            # What a reader sees who follows the README: the page after `make demo`.
            subprocess.run(["kb-pipeline", "demo"], env=environment, cwd=ROOT, check=True)
        # With the last variable `dagster dev` itself would refuse its -w.
        with serve(environment | {"DAGSTER_MODULE_NAME": "kb_pipeline.definitions"}) as address:
            launched = subprocess.Popen(
                ["/bin/sh", "-c", LAUNCH],
                env=environment,
                cwd=ROOT,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            job = {"repositoryName": "__repository__", "repositoryLocationName": "kb_pipeline"}
            ask(address, LAUNCH_WHAT_FAILS, where={**job, "pipelineName": "backfill_candidacy"})
            yield Page(address, connection, *_complete_a_tune(connection), launched, told)
            launched.communicate(timeout=60)


@contextmanager
def _listener() -> Iterator[tuple[str, list[dict[str, str]]]]:
    """Listen for alerts; yield the address to send them to and the list they arrive in."""
    told: list[dict[str, str]] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as receiver:
        Thread(target=receiver.serve_forever).start()
        yield f"http://127.0.0.1:{receiver.server_port}", told
        receiver.shutdown()


def _complete_a_tune(connection: Connection) -> tuple[UUID, datetime]:
    row = connection.execute(
        "SELECT id, clock_timestamp() FROM kb_entities WHERE workspace_id = %s LIMIT 1", [DEMO_WORKSPACE_ID]
    ).fetchone()
    assert row is not None
    workspace = Workspace(DEMO_WORKSPACE_ID, row[0])
    # Running while its trial is added, or a tick between the two would find it without one.
    tune_id = add_tune(connection, workspace, status="running")
    add_trial(connection, workspace, tune_id, sharpe=1.5)
    connection.execute("UPDATE backtest_tunes SET status = 'completed' WHERE id = %s", [tune_id])
    return tune_id, row[1]


@pytest.fixture(scope="module")
def browser(page: Page, tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Browser]:
    with chromium.open_browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Where pictures go: KB_PICTURES names the docs' directory when they are to be made anew.

    They show paths, so make them in a checkout whose own is fit to be shown.
    """
    return Path(os.environ.get("KB_PICTURES") or tmp_path)


def test_the_graph_shows_every_asset_and_where_the_data_begins(
    page: Page, browser: chromium.Browser, pictures: Path
) -> None:
    groups = ("platform", "prices", "regimes", "knowledge")
    expanded = ",".join(f"global@global:{group}" for group in groups)
    browser.resize(1800, 900)
    browser.open(f"{page.address}/asset-groups?expanded={expanded}")
    shown = browser.wait_for("backtest_runs", "backtest_tunes", "ohlcv", "regime_snapshots", "kb_trials")
    assert "candidacy_decisions" in shown
    assert "tune_regime_attribution" in shown
    browser.picture(pictures / "asset-graph.png")
    browser.resize(1400, 860)


def test_a_backfill_of_a_workspace_is_launched_from_the_dialog(
    page: Page, browser: chromium.Browser, pictures: Path
) -> None:
    browser.open(f"{page.address}/assets/regime_snapshots?view=partitions")
    dialog = "Launch runs to materialize regime_snapshots"
    if browser.click_until("Materialize…", dialog, "Are you sure?") != dialog:
        # The sensor has not normalised the prices yet, which the regimes do not wait for.
        browser.click("Confirm")
        browser.wait_for(dialog)
    # Until the dialog has loaded its partitions, "All" chooses none. A line of its own counts the pairs; the
    # field of the symbols says "5 partitions selected" as soon as they are.
    browser.click_until("All", "\n5 partitions\n", everywhere=True)
    browser.picture(pictures / "launch-backfill.png")
    browser.click("Launch backfill")
    # Read where it has ended; others are looked at meanwhile.
    assert len(wait_until(lambda: _backfills(page), "the backfill to be there", 60)) == 1


def _backfills(page: Page) -> list[Any]:
    query = "{ partitionBackfillsOrError { ... on PartitionBackfills { results { status numPartitions } } } }"
    found: list[Any] = ask(page.address, query)["partitionBackfillsOrError"]["results"]
    return found


def test_a_dry_run_is_executed_from_its_button_and_read(
    page: Page, browser: chromium.Browser, pictures: Path
) -> None:
    before = _candidates(page)
    expected = backfill_candidacy(
        page.connection, CandidacyRequest(workspace_id=DEMO_WORKSPACE_ID, limit=None), dry_run=True
    )
    browser.open(f"{page.address}/assets/candidacy_decisions?view=checks&checkDetail=candidacy_dry_run")
    browser.wait_for("candidacy_dry_run", "Not evaluated")
    browser.click("Execute")
    says = f"Would write {expected.updated} of {expected.scanned} rows; nothing was written."
    shown = browser.wait_for(says)
    assert next(iter(expected.skipped)) in shown
    browser.picture(pictures / "dry-run.png")
    assert _candidates(page) == before


def _candidates(page: Page) -> Any:
    count = "SELECT count(*) FROM backtest_runs WHERE kb_status = 'candidate'"
    return page.connection.execute(count).fetchone()


def test_a_tune_that_completed_is_attributed_by_itself_within_two_ticks(page: Page) -> None:
    def seconds_waited() -> float | None:
        row = page.connection.execute(
            "SELECT extract(epoch FROM clock_timestamp() - %s)::float8 FROM backtest_tunes"
            " WHERE id = %s AND regime_key IS NOT NULL",
            [page.completed_at, page.tune_id],
        ).fetchone()
        return row[0] if row else None

    wait_until(seconds_waited, "the tune to be attributed", 2 * TICK_SECONDS + RUN_SECONDS)
    assert column(page.connection, "backtest_tunes", "best_oos_score", page.tune_id) == 1.5


def test_the_sensors_run_from_the_start_and_the_tables_are_observed(page: Page) -> None:
    query = '{ sensorsOrError(repositorySelector: {repositoryName: "__repository__", repositoryLocationName:'
    query += ' "kb_pipeline"}) { ... on Sensors { results { name sensorState { status } } } } }'
    states = {
        it["name"]: it["sensorState"]["status"]
        for it in ask(page.address, query)["sensorsOrError"]["results"]
    }
    assert states == dict.fromkeys(
        ("completed_tunes", "lost_runs", "new_ohlcv_files", "new_partitions", "run_failure_alert"), "RUNNING"
    )

    def observed_rows() -> list[str]:
        query = '{ assetOrError(assetKey: {path: ["backtest_runs"]}) { ... on Asset { assetObservations {'
        query += " partition metadataEntries { label ... on IntMetadataEntry { intValue } } } } } }"
        found = ask(page.address, query)["assetOrError"]["assetObservations"]
        return [
            str(entry["intValue"]) for it in found for entry in it["metadataEntries"] if "intValue" in entry
        ]

    rows = wait_until(observed_rows, "an observation", 60)
    assert rows[-1].isdigit()
    assert int(rows[-1]) >= 7398


def test_price_files_are_normalised_by_themselves(page: Page) -> None:
    def filled() -> bool:
        query = '{ assetNodeOrError(assetKey: {path: ["ohlcv"]}) { ... on AssetNode { partitionStats {'
        stats = ask(page.address, query + " numMaterialized } } } }")["assetNodeOrError"]["partitionStats"]
        return stats is not None and stats["numMaterialized"] == len(SYMBOLS)

    # One tick sees a file, the next sees that it stood still.
    wait_until(filled, "the prices to be normalised", 4 * TICK_SECONDS)


def test_a_job_is_launched_from_a_terminal_and_run_by_the_daemon(page: Page) -> None:
    said, _ = page.launched.communicate(timeout=60)
    assert page.launched.returncode == 0, said
    wait_until(lambda: "SUCCESS" in _statuses(page, "ingest_trials"), "the launched job to succeed", 90)
    trials = page.connection.execute("SELECT count(*) FROM kb_trials").fetchone()
    assert trials is not None
    assert trials[0] > 0


def _statuses(page: Page, job: str) -> list[str]:
    query = "query($job: String!) { runsOrError(filter: {pipelineName: $job}) { ... on Runs {"
    runs = ask(page.address, f"{query} results {{ status }} }} }} }}", job=job)["runsOrError"]["results"]
    return [it["status"] for it in runs]


def test_a_run_that_fails_is_told_to_the_webhook(page: Page) -> None:
    wait_until(lambda: page.told, "the alert", 3 * TICK_SECONDS)
    (alert,) = page.told
    assert alert["job"] == "backfill_candidacy"
    assert "There is no workspace 'nowhere'" in alert["error"]


def test_the_backfill_from_the_dialog_succeeds_in_one_run(
    page: Page, browser: chromium.Browser, pictures: Path
) -> None:
    def ended() -> list[Any]:
        return [it for it in _backfills(page) if it["status"] not in ("REQUESTED", "CANCELING")]

    found = wait_until(ended, "the backfill to end", 4 * TICK_SECONDS)
    assert found == [{"status": "COMPLETED_SUCCESS", "numPartitions": len(SYMBOLS)}]
    (run,) = _runs_of_backfills(page)
    assert {it["partition"] for it in run["assetMaterializations"]} == {f"{it}|demo" for it in SYMBOLS}
    browser.open(f"{page.address}/assets/regime_snapshots?view=partitions&partition=AAPL%7Cdemo")
    browser.wait_for("Materialized (5)", "BACKFILL REGIME REPORT", "regime_plot")
    browser.picture(pictures / "regime-partition.png")
    browser.click("[Show Markdown]")
    browser.wait_for("Copy", "Close")
    width = "document.querySelector('img[src^=\"data:image/png\"]')?.naturalWidth"
    # 0 until the picture is decoded.
    assert wait_until(lambda: browser.evaluate(width), "the picture to be drawn", 20) > 300
    browser.picture(pictures / "regime-plot.png")


def test_no_question_to_the_page_is_answered_with_the_password(page: Page) -> None:
    answers = {about: json.dumps(ask(page.address, query)) for about, query in QUESTIONS.items()}
    assert "local_artifact_storage" in answers["the instance"]
    assert "There is no workspace 'nowhere'" in answers["runs"]
    assert "found" in answers["sensors"]
    assert "completed_tunes" in answers["sensors"]
    assert '"database"' in answers["resources"]
    assert "kb_pipeline" in answers["the location"]
    assert [about for about, said in answers.items() if CANARY in said] == []


def _runs_of_backfills(page: Page) -> list[Any]:
    query = "{ runsOrError { ... on Runs { results {"
    query += " status tags { key } assetMaterializations { partition } } } } }"
    runs = ask(page.address, query)["runsOrError"]["results"]
    return [it for it in runs if {"key": "dagster/backfill"} in it["tags"] and it["status"] == "SUCCESS"]
