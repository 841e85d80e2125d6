"""Rows whose every text is hostile come out of every command and every page of Dagster as harmless text.

What a person types is the subject of test_hostile_text.py; here it is what lies in the database already.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import dagster as dg
import pytest
from markdown_it import MarkdownIt

from kb_pipeline.orchestration.assets import ASSETS
from kb_pipeline.orchestration.checks import CHECKS
from kb_pipeline.orchestration.drift import regime_drift
from kb_pipeline.orchestration.resources import Database, Prices
from kb_pipeline.orchestration.settings import (
    BackfillSettings,
    CandidacySettings,
    RegimeSettings,
    WorkspaceSettings,
)
from kb_pipeline.orchestration.steps import (
    ATTRIBUTION,
    CANDIDACY,
    REGIMES,
    TRIALS,
    UPLIFT,
    Surroundings,
)
from kb_pipeline.storage.postgres import Connection
from kb_pipeline_tests.acceptance.commands import run_here
from kb_pipeline_tests.attributed import kept, learn, regime_key, snapshot
from kb_pipeline_tests.builders import add_run, add_trial, add_tune, write_daily_bars
from kb_pipeline_tests.conftest import Workspace

FORGED: Final = "FORGED"
"""Begins a line of its own wherever a line break of a row's text is printed as one."""

HOSTILE: Final = (
    f"=1+1 \x1b[31mred\x1b]0;owned\x07\x9b\u202e\r\n{FORGED}: 1\n```\n{FORGED}\n````\n"
    "[x](javascript:alert(1)) ![p](http://evil.example/p.png) <script>alert(1)</script>"
    "<img src=x onerror=alert(1)> \"' | `id` </pre></style>&lt;"
)
TAGS = "uptrend high_vol efficient"


class World(NamedTuple):
    """The workspace, a run in it, and a price file."""

    workspace: Workspace
    run: str
    bars: Path
    root: Path


@pytest.fixture
def world(connection: Connection, workspace: Workspace, tmp_path: Path) -> World:
    """Fill a workspace with rows of which every free text is hostile."""
    meta = {"symbol": HOSTILE, "timeframe": HOSTILE, "engine": HOSTILE}
    params = {HOSTILE: HOSTILE, "nested": [HOSTILE]}
    connection.execute("UPDATE workspaces SET name = %s, slug = %s", [HOSTILE, HOSTILE])
    connection.execute("UPDATE kb_entities SET name = %s", [HOSTILE])
    for timeframe in (HOSTILE, "1d"):
        for number in range(3):
            tune = add_tune(connection, workspace, objective_metric=HOSTILE)
            add_trial(
                connection,
                workspace,
                tune,
                sharpe=1.0 + number,
                params=params,
                regime=snapshot(TAGS) | {"instrument": HOSTILE, "source": HOSTILE, HOSTILE: HOSTILE},
                run={"dataset_meta": {**meta, "timeframe": timeframe}},
            )
    run = kept(connection, workspace, TAGS, 1.0, params=params, kb_status_changed_by=HOSTILE)
    connection.execute(
        "UPDATE backtest_runs SET kb_status_reason = %(it)s, engine = %(it)s, error = %(it)s", {"it": HOSTILE}
    )
    connection.execute(
        "INSERT INTO kb_status_history (workspace_id, source_type, source_id, from_status, to_status,"
        " actor_type, actor_id, reason)"
        " VALUES (%s, 'test_variant', %s, 'excluded', 'candidate', 'admin', %s, %s)",
        [workspace.id, run, HOSTILE, HOSTILE],
    )
    learn(connection, workspace)
    window = {"oos_start": "2020-03-01", "oos_end": "2020-08-01"}
    for symbol in (HOSTILE, "BTC"):
        add_run(connection, workspace, dataset_meta={**meta, "symbol": symbol, **window})
    add_run(connection, workspace, dataset_meta={"symbol": "BTC", "oos_start": HOSTILE, "oos_end": HOSTILE})
    add_run(connection, workspace, summary={"sharpe": HOSTILE, "trades": HOSTILE})
    waiting = add_tune(connection, workspace, objective_metric=HOSTILE, error=HOSTILE)
    bad = {"schema_version": HOSTILE, "regime_tags": [HOSTILE]}
    add_trial(connection, workspace, waiting, sharpe=1.0, regime=bad)
    (tmp_path / "data" / "ohlcv").mkdir(parents=True)
    (tmp_path / "data" / "symbols.yaml").write_text("symbols:\n  BTC: {calendar: 24/7, timezone: UTC}\n")
    bars = write_daily_bars(tmp_path / "data" / "ohlcv" / "BTC_1d.csv")
    return World(workspace, run, bars, tmp_path / "data")


def _commands(world: World, page: Path) -> Iterator[tuple[object, ...]]:
    here = ("--workspace-id", world.workspace.id)
    odd = world.bars.with_name(f"odd \x1b[31m\n{FORGED}_1d.csv")
    odd.write_text(f"timestamp,{HOSTILE},open\n2020-01-01,{FORGED},1\n")
    bars = ("--ohlcv-file", world.bars, "--calendar", "24/7")
    for line in (
        ("backfill-regime", *here, *bars),
        ("backfill-candidacy", *here, "--require-metrics"),
        ("backfill-attribution", *here),
        ("ingest-trials", *here),
    ):
        yield (*line, "--dry-run", "--list")
        yield (*line, "--dry-run", "--json")
        yield (*line, "--list")
    asked = ("recommend", *here, "--strategy", world.workspace.strategy_id)
    for line in (
        ("uplift", *here),
        ("best", *here, "--regime-key", regime_key(TAGS)),
        ("regimes", *here),
        (*asked, "--regime-key", regime_key(TAGS), "--min-samples", 50),
        (*asked, "--run", world.run),
        ("similar", *here, "--run", world.run),
        ("similar", *here, "--ohlcv-file", world.bars),
        ("drift", *here, "--ohlcv-file", world.bars, "--dry-run"),
        ("explain", world.run),
        ("doctor",),
    ):
        yield line
        yield (*line, "--json")
    yield (*asked, "--run", world.run, "--format", "optuna")
    yield ("recommend", *here, "--strategy", "nobody", "--run", world.run)
    yield ("backfill-regime", *here, "--ohlcv-file", odd)
    yield ("backfill-regime", *here, "--ohlcv-file", odd.with_name(f"none{odd.name}"))
    yield ("backfill-regime", *here, *bars, "--symbol", "x\x1b")
    yield ("similar", *here, "--ohlcv-file", odd)
    yield ("regimes", *here, "\x1b[31m\x07")
    yield ("metrics",)
    yield ("db", "status")
    yield ("dashboard", *here, "-o", page.with_name(f"page \x1b[31m\n{FORGED}.html"))


def _steers(printed: str) -> list[str]:
    """Return the lines that steer a terminal, or that a line break in somebody's text has made."""
    return [it for it in printed.split("\n") if not it.isprintable() or it.lstrip().startswith((FORGED, "`"))]


def test_no_command_prints_what_steers_a_terminal_or_forges_a_line(
    world: World, connection: Connection, tmp_path: Path
) -> None:
    said = []
    for line in _commands(world, tmp_path / "page.html"):
        done = run_here(*line)
        assert done.returncode in (0, 1, 2), (line, done.stderr)
        assert _steers(done.stdout) + _steers(done.stderr) == [], line
        if "--json" in line and done.returncode < 2:
            json.loads(done.stdout)
            assert done.stdout.isascii(), "JSON is escaped"
        said.append(done.stdout + done.stderr)
    assert sum("evil.example" in it for it in said) > 12, "the hostile texts were shown at all"


def _is_plain(value: Any) -> bool:
    return not isinstance(value, str) or value.isprintable()


def _markdown(text: str) -> set[str]:
    """Return what kinds of things Markdown makes of a text, without what a block of code stands for."""
    tokens = [*MarkdownIt("commonmark").parse(text)]
    tokens += [child for token in tokens for child in token.children or ()]
    links = {str(it.attrGet("src") or it.attrGet("href") or "")[:22] for it in tokens if it.type in _LOADING}
    return {it.type for it in tokens} | links


_LOADING: Final = ("image", "link_open")
_TEXT: Final = {"paragraph_open", "inline", "paragraph_close", "text", "softbreak", "image", ""} | {
    *("bullet_list_open", "list_item_open", "list_item_close", "bullet_list_close", "text_special"),
}
_PICTURE: Final = "data:image/png;base64,"


def _shown(metadata: dict[str, Any]) -> list[str]:
    """Return the names of metadata that are not the plain text they should be."""
    wrong = []
    for name, entry in metadata.items():
        value = entry if isinstance(entry, dg.MetadataValue) else dg.MetadataValue.text(str(entry))
        if isinstance(value, dg.MarkdownMetadataValue):
            made = _markdown(str(value.value))
            is_right = made in ({"fence"}, {"fence", ""}) or made <= _TEXT | {_PICTURE}
        elif isinstance(value, dg.TableMetadataValue):
            is_right = all(_is_plain(it) for record in value.records for it in record.data.values())
        else:
            is_right = _is_plain(value.value)
        wrong += [] if is_right else [f"{name}: {value}"]
    return wrong


STEPS: Final = (
    (CANDIDACY, CandidacySettings(require_metrics=True)),
    (REGIMES, RegimeSettings()),
    (ATTRIBUTION, BackfillSettings()),
    (TRIALS, BackfillSettings()),
    (UPLIFT, WorkspaceSettings()),
)


def test_no_page_of_dagster_shows_markup_of_a_row(
    world: World, connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KB_HOME", str(tmp_path / "kb"))
    around = Surroundings(connection, Prices(world.root), plotted=True)
    seen = {}
    for step, settings in STEPS:
        key = f"BTC|{HOSTILE}" if step is REGIMES else HOSTILE
        seen[step.asset] = step.work(around, settings)(key)
        assert _shown(seen[step.asset]) == [], step.asset
    assert {"reasons_plot", "regime_plot", "uplift_plot", "report"} <= {
        it for made in seen.values() for it in made
    }
    assert "evil" in str(seen), "the hostile texts were shown at all"


def test_no_check_shows_markup_of_a_row(world: World, connection: Connection, tmp_path: Path) -> None:
    connection.execute("UPDATE backtest_tunes SET trend_tag = 'flat' WHERE regime_key IS NOT NULL")
    definitions = dg.Definitions(
        assets=ASSETS,
        asset_checks=[*CHECKS, regime_drift],
        jobs=[dg.define_asset_job("checks", dg.AssetSelection.all_asset_checks())],
        resources={"database": Database(), "prices": Prices(world.root)},
    )
    with dg.DagsterInstance.ephemeral(tempdir=str(tmp_path)) as instance:
        done = definitions.resolve_job_def("checks").execute_in_process(
            instance=instance, raise_on_error=False
        )
        evaluations = [
            event.asset_check_evaluation_data
            for event in done.all_events
            if event.event_type_value == "ASSET_CHECK_EVALUATION"
        ]
    assert len(evaluations) == len(CHECKS) + 1
    assert "evil" in str(evaluations), "the hostile texts were shown at all"
    for it in evaluations:
        assert _shown(dict(it.metadata)) == [], it.check_name
        assert _is_plain((it.description or "").replace("\n", " ")), it.check_name


def test_the_tests_see_what_would_be_shown() -> None:
    assert _steers(f"name: a\n{FORGED}")
    assert _steers("\x1b[31m")
    assert _markdown("![x](http://evil.example/p.png)") - _TEXT
    assert _markdown("<script>alert(1)</script>") - _TEXT
    assert _markdown("```\na\n```\n[x](http://evil.example)\n```") - {"fence"} - _TEXT
