"""The attribution page of the demo, opened in a browser and used by keyboard."""

import json
import os
import re
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from kb_pipeline.backfills.attribution import AttributionRequest, backfill_attribution
from kb_pipeline.backfills.trials import TrialsRequest, ingest_trials
from kb_pipeline.backfills.uplift import UpliftRequest, measure_uplift
from kb_pipeline.dashboard.page import write_dashboard
from kb_pipeline.questions.recommend import RecommendRequest, recommend
from kb_pipeline.rules import MAX_DASHBOARD_BYTES
from kb_pipeline.storage.demo import DEMO_WORKSPACE_ID
from kb_pipeline.storage.postgres import Connection, connect
from kb_pipeline_tests.acceptance import browser as chromium
from kb_pipeline_tests.acceptance.commands import PROJECT
from kb_pipeline_tests.builders import FLAT_KEY
from kb_pipeline_tests.conftest import CopyOf

AXE = PROJECT / "kb_pipeline_tests" / "golden" / "axe-core"
UPLIFT = "document.querySelector('#uplift-regime-table')"
COLUMN = f"""(name) => {{
    const headings = [...{UPLIFT}.tHead.rows[0].cells];
    const at = headings.findIndex((it) => it.textContent === name);
    return [...{UPLIFT}.tBodies[0].rows].filter((it) => !it.hidden).map((it) => it.cells[at].textContent);
}}"""


@pytest.fixture(scope="module", autouse=True)
def _browser_is_there() -> None:
    if chromium.program() is None:
        says = "NO BROWSER: the tests of the page need Chromium (Debian: apt-get install chromium)"
        pytest.fail(says) if os.environ.get("CI") else pytest.skip(says)


@pytest.fixture(scope="module")
def page(copy_of: CopyOf, demo_template: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the page of the demo and of what was learned from it."""
    with copy_of(demo_template) as url, connect(url) as connection:
        backfill_attribution(connection, AttributionRequest(workspace_id=DEMO_WORKSPACE_ID), dry_run=False)
        some = TrialsRequest(workspace_id=DEMO_WORKSPACE_ID, limit=2_000)
        ingest_trials(connection, some, dry_run=False)
        measure_uplift(connection, UpliftRequest(workspace_id=DEMO_WORKSPACE_ID), dry_run=False)
        # The picture in the documents is of the demo alone.
        if not os.environ.get("KB_PICTURES"):
            _ask_and_drift(connection)
        return write_dashboard(connection, DEMO_WORKSPACE_ID, tmp_path_factory.mktemp("page") / "demo.html")


def _ask_and_drift(connection: Connection) -> None:
    """Ask for recommendations in four weeks and let one market leave its regimes."""
    for regime_key in (FLAT_KEY, "regime_v1_1|default_v1|flat|high_vol|noisy"):
        for strategy in ("rsi_reversion", "moving_average_cross"):
            request = RecommendRequest(
                workspace_id=DEMO_WORKSPACE_ID, strategy=strategy, regime_key=regime_key
            )
            recommend(connection, request)
    connection.execute(
        "UPDATE recommend_events AS event SET created_at = date '2026-03-04' - place::integer * 7"
        "  FROM (SELECT id, row_number() OVER () AS place FROM recommend_events) AS numbered"
        " WHERE numbered.id = event.id"
    )
    connection.execute(
        "INSERT INTO kb_drift_events (workspace_id, strategy_entity_id, symbol, timeframe, first_bar,"
        " last_bar, reason, regime_key, training_keys, moved, training_snapshots, seed, sentence)"
        " SELECT workspace_id, id, 'AAPL', '1d', '2012-09-03', '2012-11-20', 'key_changed', %s, '{}',"
        '        \'[{"feature": "atr_pct", "then": 0.0123, "now": 0.0411, "size": 5.2}]\', 20, 1, \'left\''
        "   FROM kb_entities WHERE name = 'rsi_reversion'",
        [FLAT_KEY],
    )


@pytest.fixture(scope="module")
def browser(page: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Browser]:
    with chromium.open_browser(tmp_path_factory.mktemp("profile")) as opened:
        for domain in ("Runtime", "Log", "Network", "Page"):
            opened.ask(f"{domain}.enable")
        yield opened


def _show(browser: chromium.Browser, page: Path, *, scheme: str = "light", media: str = "screen") -> None:
    browser.resize(1280, 900)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.ask("Emulation.setEmulatedMedia", media=media, features=features)
    browser.open("about:blank")
    browser.events.clear()
    browser.open(page.as_uri())
    browser.wait_for("In sample against out of sample")


def _told(browser: chromium.Browser, *methods: str) -> list[Any]:
    return [it["params"] for it in browser.events if it["method"] in methods]


COMPLAINTS = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")


def test_the_page_opens_without_a_complaint_and_asks_nobody_for_anything(
    page: Path, browser: chromium.Browser, tmp_path: Path
) -> None:
    _show(browser, page)
    assert _told(browser, *COMPLAINTS) == []
    requests = [it["request"]["url"] for it in _told(browser, "Network.requestWillBeSent")]
    assert requests == [page.as_uri()]
    shown = browser.text()
    for heading in (
        "Uplift by regime",
        "Trend and volatility",
        "Coverage gaps",
        "recommendations rested",
        "Drift",
    ):
        assert heading in shown
    assert page.stat().st_size < MAX_DASHBOARD_BYTES
    browser.resize(1280, 1280)
    picture = Path(os.environ.get("KB_PICTURES") or tmp_path) / "dashboard.png"
    browser.picture(picture)
    with Image.open(picture) as image:
        image.quantize(64).save(picture, optimize=True)
    assert picture.stat().st_size < 150_000


def test_the_policy_stops_what_would_be_loaded_or_run(page: Path, browser: chromium.Browser) -> None:
    _show(browser, page)
    browser.evaluate(
        "document.body.insertAdjacentHTML('beforeend',"
        ' \'<img src="http://127.0.0.1:9/a.png" onerror="document.title = 1"><p style="color: red">p</p>\')'
    )
    browser.wait_for("p")
    told = " ".join(it["entry"]["text"] for it in _told(browser, "Log.entryAdded"))
    assert "Loading the image 'http://127.0.0.1:9/a.png' violates" in told
    assert "Executing inline event handler violates" in told
    assert "Applying inline style violates" in told
    assert browser.evaluate("document.title").startswith("Demo")


def _tab_to(browser: chromium.Browser, expression: str) -> None:
    for _ in range(80):
        browser.press("Tab")
        if browser.evaluate(f"((it) => {expression})(document.activeElement)"):
            return
    pytest.fail(f"Tab does not lead to {expression}")


def test_a_heading_reached_by_keyboard_sorts_its_table_both_ways_and_says_so(
    page: Path, browser: chromium.Browser
) -> None:
    _show(browser, page)
    _tab_to(browser, f"{UPLIFT}.contains(it) && it.textContent === 'Uplift'")
    orders = []
    for key in ("Enter", " "):
        browser.press(key)
        values = [float(it.replace("−", "-")) for it in browser.evaluate(f"({COLUMN})('Uplift')")]
        sort = browser.evaluate("document.activeElement.closest('th').getAttribute('aria-sort')")
        orders.append((sort, values))
    (first, falling), (second, rising) = orders
    assert (first, second) == ("descending", "ascending")
    assert len(set(falling)) > 5
    assert falling == sorted(falling, reverse=True)
    assert rising == sorted(rising)
    assert browser.evaluate(f"{UPLIFT}.querySelectorAll('[aria-sort]').length") == 1


def test_unknown_values_stay_last_whichever_way_a_table_is_sorted(
    page: Path, browser: chromium.Browser
) -> None:
    _show(browser, page)
    table = "document.querySelector('#uplift-strategy-table')"
    _tab_to(browser, f"{table}.contains(it) && it.textContent === 'Uplift'")
    for _ in range(2):
        browser.press("Enter")
        last = browser.evaluate(f"[...{table}.tBodies[0].rows].at(-1).textContent")
        assert "unknown" in last


def test_a_filter_reached_by_keyboard_leaves_the_rows_with_every_word(
    page: Path, browser: chromium.Browser
) -> None:
    _show(browser, page)
    every = browser.evaluate(f"({COLUMN})('Regime')")
    _tab_to(browser, "it.type === 'search'")
    browser.ask("Input.insertText", text="HIGH noisy")
    left = browser.evaluate(f"({COLUMN})('Regime')")
    assert left == [it for it in every if "high_vol" in it and "noisy" in it]
    assert 0 < len(left) < len(every)
    assert f"{len(left)} of {len(every)} rows" in browser.text()


def test_the_first_tab_offers_to_skip_to_the_figures(page: Path, browser: chromium.Browser) -> None:
    _show(browser, page)
    browser.press("Tab")
    assert browser.evaluate("document.activeElement.textContent") == "Skip to the figures"
    assert browser.evaluate("document.activeElement.getBoundingClientRect().left") > 0
    browser.press("Enter", "Tab")
    assert browser.evaluate("document.querySelector('main').contains(document.activeElement)")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_to_mend(page: Path, browser: chromium.Browser, scheme: str) -> None:
    source = (AXE / "axe.min.js").read_bytes()
    assert sha256(source).hexdigest() in (AXE / "README.md").read_text()
    _show(browser, page, scheme=scheme)
    assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == (
        "rgb(255, 255, 255)" if scheme == "light" else "rgb(21, 24, 28)"
    )
    browser.evaluate(source.decode())
    found = json.loads(browser.evaluate("axe.run().then((it) => JSON.stringify(it))"))
    assert len(found["passes"]) > 20
    assert [
        (it["id"], it["impact"], [node["html"] for node in it["nodes"]]) for it in found["violations"]
    ] == []


def test_a_narrow_window_scrolls_tables_and_not_the_page(page: Path, browser: chromium.Browser) -> None:
    _show(browser, page)
    browser.resize(400, 800)
    assert browser.evaluate("document.documentElement.scrollWidth") == 400


def test_a_laptops_window_cuts_no_table(page: Path, browser: chromium.Browser) -> None:
    _show(browser, page)
    browser.resize(1200, 900)
    widths = "[...document.querySelectorAll('.scroll')].map((it) => it.scrollWidth - it.clientWidth)"
    assert set(browser.evaluate(widths)) == {0}


def test_printed_tables_are_whole(page: Path, browser: chromium.Browser) -> None:
    _show(browser, page, media="print")
    regions = "[...document.querySelectorAll('.scroll')]"
    hidden = f"{regions}.filter((it) => it.scrollHeight > it.clientHeight + 1).length"
    assert browser.evaluate(hidden) == 0
    # a browser repeats headings on each page, but none that are buttons
    shown = "(it) => getComputedStyle(it, '::before').content.slice(1, -1) || it.innerText"
    headings = f"[...{UPLIFT}.tHead.rows[0].cells].map({shown})"
    assert browser.evaluate(headings)[0] == "Regime"
    assert (
        browser.evaluate("[...document.querySelectorAll('thead button')].some((it) => it.offsetWidth)")
        is False
    )
    _show(browser, page)
    assert browser.evaluate(hidden) > 0
    assert (
        browser.evaluate(f"getComputedStyle({UPLIFT}.tHead.rows[0].cells[0], '::before').content") == "none"
    )


def test_the_page_is_whole_without_its_script(page: Path, browser: chromium.Browser) -> None:
    _show(browser, page)
    rows = browser.evaluate("document.querySelectorAll('tbody tr').length")
    text = re.sub(r"<script>.*?</script>", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    without = page.with_name("without.html")
    without.write_text(text, encoding="utf-8")
    _show(browser, without)
    assert browser.evaluate("document.querySelectorAll('tbody tr').length") == rows
    assert browser.evaluate("document.querySelectorAll('button, input').length") == 0, (
        "none that does nothing"
    )
