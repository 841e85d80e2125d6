"""What the command line reports: real data to the character, price files, and one run explained."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from kb_pipeline.storage.postgres import Connection
from kb_pipeline_tests.acceptance.commands import AAPL_FILE, ANY_ID, ESCAPE, PROJECT, run, run_here
from kb_pipeline_tests.builders import FLAT_SNAPSHOT, GOOD_SUMMARY, add_run, column, write_daily_bars
from kb_pipeline_tests.conftest import CopyOf, Workspace


def _count(connection: Connection, of: str) -> int:
    row = connection.execute(f"SELECT count(*) FROM {of}").fetchone()
    assert row is not None
    return int(row[0])


# --- Reports on real data ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def demo(kb_home: Path, copy_of: CopyOf, migrated_template: str) -> Iterator[tuple[Mapping[str, str], str]]:
    """Return the environment of a database after `kb-pipeline demo`, and what the demo said."""
    with copy_of(migrated_template) as url:
        environment = {"KB_HOME": str(kb_home), "KB_DATABASE_URL": url}
        done = run("demo", **environment)
        assert (done.returncode, done.stderr) == (0, "")
        yield environment, done.stdout


DEMO_ID = "fc86de8a-6f10-5953-a1a5-ca834f5f9f9e"
CANDIDACY_REPORT = f"""
==================================================
BACKFILL CANDIDACY REPORT
==================================================
Workspace:      {DEMO_ID}
Since:          all
Limit:          1000
Dry Run:        %s
--------------------------------------------------
Total Scanned:  740
Eligible:       194
Ineligible:     546
Updated:        %s
--------------------------------------------------
Rejection Reasons:
  insufficient_oos_trades:     311
  sharpe_too_low:              153
  dd_too_high:                 67
  manual_experiment_excluded:  10
  human_decision:              5
==================================================
Passed with an absent metric: 1
"""
REGIME_REPORT = f"""
==================================================
BACKFILL REGIME REPORT
==================================================
Workspace:      {DEMO_ID}
OHLCV File:     {AAPL_FILE.relative_to(PROJECT)}
Symbol:         AAPL
Timeframe:      1d
OHLCV Rows:     3270
Date Range:     2000-03-01 to 2013-03-01
--------------------------------------------------
Total Scanned:  135
Computed:       105
Skipped:        30
  - insufficient_ohlcv_coverage:  30
Updated:        %s
==================================================
"""


def test_the_demo_reports_real_data_to_the_character_dry_and_for_real(
    demo: tuple[Mapping[str, str], str],
) -> None:
    _, said = demo
    candidacy = f"\n$ kb-pipeline backfill-candidacy --workspace-id {DEMO_ID}"
    assert candidacy + " --dry-run" + CANDIDACY_REPORT % ("True", "0 (dry run)") in said
    assert candidacy + CANDIDACY_REPORT % ("False", "194") in said
    assert REGIME_REPORT % "0 (dry run)" in said
    assert REGIME_REPORT % "105" in said


def test_a_second_demo_has_nothing_to_do(
    demo: tuple[Mapping[str, str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KB_DATABASE_URL", demo[0]["KB_DATABASE_URL"])
    done = run_here("demo")
    assert (done.returncode, done.stderr) == (0, "")
    first, _, third, *_ = done.stdout.splitlines()
    assert first == f"Demo workspace {DEMO_ID}: loaded before."
    assert third == "Nothing to do: the demo workspace is loaded and every backfill is complete."
    assert "REPORT" not in done.stdout


def test_json_carries_the_numbers_of_the_text_and_the_listing_its_rows(
    demo: tuple[Mapping[str, str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    environment, _ = demo
    command = ("backfill-candidacy", "--workspace-id", DEMO_ID, "--dry-run", "--from-start")
    text = run(*command, "--list", **environment).stdout
    monkeypatch.setenv("KB_DATABASE_URL", environment["KB_DATABASE_URL"])
    numbers = json.loads(run_here(*command, "--json", "--since", "2000-01-01").stdout)
    for label, name in {
        "Total Scanned": "scanned",
        "Eligible": "eligible",
        "Ineligible": "ineligible",
    }.items():
        assert re.search(rf"^{label}:\s+{numbers[name]}$", text, re.MULTILINE), name
    # 740 runs were scanned before the demo marked 194 of them
    assert (numbers["scanned"], numbers["updated"], numbers["would_update"]) == (546, 0, 0)
    assert dict(re.findall(r"^  (\w+): +(\d+)$", text, re.MULTILINE)) == {
        reason: str(count) for reason, count in numbers["skipped"].items()
    }
    listed = text.partition("dd_too_high (67):\n")[2].splitlines()[:20]
    assert [line.strip() for line in listed] == numbers["examples"]["dd_too_high"]
    assert numbers["notes"] == []
    assert numbers["since"] == "2000-01-01T00:00:00+00:00"


def test_a_symbol_with_sql_in_it_is_a_symbol_no_run_has(
    demo: tuple[Mapping[str, str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KB_DATABASE_URL", demo[0]["KB_DATABASE_URL"])
    command = ("backfill-regime", "--workspace-id", DEMO_ID, "--ohlcv-file", AAPL_FILE, "--dry-run", "--json")
    done = run_here(*command, "--symbol", "x' OR '1'='1")
    assert (done.returncode, json.loads(done.stdout)["scanned"]) == (0, 0)
    named, waiting = json.loads(done.stdout)["notes"]
    assert named.startswith("The file is named for AAPL")
    assert waiting.startswith(
        "No run of this workspace waits for symbol X' OR '1'='1; those that wait name AAPL"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("--calendar", ESCAPE), r"the calendar '\x1b[31mred', needed 24/7, FX or"),
        (("--tz", ESCAPE), r"the time zone '\x1b[31mred', needed a name such as"),
        (("--ohlcv-file", f"{ESCAPE}.csv"), r"\x1b[31mred.csv: found no file of this name"),
    ],
    ids=["calendar", "zone", "file"],
)
def test_what_only_the_price_file_s_reader_can_refuse_ends_with_2(
    demo: tuple[Mapping[str, str], str],
    changes: tuple[str, str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KB_DATABASE_URL", demo[0]["KB_DATABASE_URL"])
    command = ("backfill-regime", "--workspace-id", DEMO_ID, "--ohlcv-file", AAPL_FILE, *changes)
    done = run_here(*command)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert "\x1b" not in done.stderr


def test_a_bad_price_file_is_refused_with_file_line_and_column_and_nothing_is_written(
    connection: Connection, workspace: Workspace, tmp_path: Path
) -> None:
    run_id = add_run(connection, workspace)
    bad = write_daily_bars(tmp_path / "AAPL_1d.csv", bars=60)
    lines = bad.read_text(encoding="utf-8").splitlines()
    lines[10] = "2020-01-10,5,6,4,-5,100"
    lines[20] = "2020-01-20,5,6,4,abc,100"
    bad.write_text("\n".join(lines) + "\n", encoding="utf-8")
    command = ("backfill-regime", "--workspace-id", workspace.id, "--ohlcv-file", bad, "--calendar", "24/7")
    done = run_here(*command)
    assert (done.returncode, done.stdout) == (2, "")
    assert "AAPL_1d.csv:11:5 close: found '-5', needed a price above 0\n" in done.stderr, done.stderr
    assert "AAPL_1d.csv:21:5 close: found 'abc', needed a plain decimal number" in done.stderr, done.stderr
    assert column(connection, "backtest_runs", "regime_oos", run_id) is None
    assert _count(connection, "kb_backfill_runs") == 0


# --- Explain -------------------------------------------------------------------------------------

EXPLANATION = """\
Run %(run_id)s
  workspace             %(workspace_id)s
  created_at            2025-02-03 08:00:00+00
  run_kind              test_variant
  status                completed
  symbol                AAPL
  kb_status             candidate
  kb_status_changed_by  backfill
  kb_status_changed_at  TIME
  kb_status_reason      absent
  auto_candidate_gate   passed_all_gates

Inputs of the gate
  decided_by_a_person  False
  summary              object
  trades               60
  max_drawdown_pct     -12.5
  sharpe               1.2
  experiment_type      absent
  has_regime           True

Thresholds
  require_regime   False
  min_trades       5
  max_drawdown     0.25, which is 25 %%; this run had 12.5 %%
  max_overfit_gap  0.3
  min_sharpe       0.1

Decision of the gate today
  verdict  passed_all_gates; left alone, the run is candidate already
  options  --experiment-type sweep

Regime out of sample
  key                        regime_v1_1|default_v1|uptrend|low_vol|_
  bars                       120
  tags                       low_vol, uptrend
  uptrend by trend_strength  0.75 >= 0.6
  uptrend by trend_dir       1 > 0
  low_vol by atr_pct         0.004 < 0.005

Audited changes, newest first
  TIME excluded candidate auto backfill passed_all_gates
"""


def test_explain_shows_inputs_thresholds_decision_regime_and_history(
    connection: Connection, workspace: Workspace
) -> None:
    snapshot = {
        "schema_version": "regime_v1_1",
        "regime_tags": ["low_vol", "uptrend"],
        "n_bars": 120,
        "trend_strength": 0.75,
        "trend_dir": 1,
        "atr_pct": 0.004,
        "efficiency_ratio": 0.5,
        "rsi": 55.0,
    }
    run_id = add_run(connection, workspace, regime_oos=snapshot, created_at="2025-02-03T08:00:00Z")
    assert run_here("backfill-candidacy", "--workspace-id", workspace.id).returncode == 0
    done = run("explain", run_id)
    shown = re.sub(r"2\d{3}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+\+00", "TIME", done.stdout)
    expected = EXPLANATION % {"run_id": run_id, "workspace_id": workspace.id}
    assert shown == expected
    numbers = json.loads(run_here("explain", run_id, "--json").stdout)
    assert (numbers["decision"], numbers["inputs"]["trades"]) == ("passed_all_gates", "60")
    assert [change["to"] for change in numbers["history"]] == ["candidate"]


def test_explain_names_the_metric_and_the_gate_that_failed(
    connection: Connection, workspace: Workspace
) -> None:
    verdicts = {
        add_run(connection, workspace, summary={**GOOD_SUMMARY, "sharpe": "abc"}): "invalid_metric (sharpe",
        add_run(connection, workspace, regime_oos=FLAT_SNAPSHOT, trade_count=4): "insufficient_oos_trades",
        add_run(connection, workspace, kb_status_changed_by="alice"): "human_decision",
        add_run(connection, workspace, run_kind="backtest"): "not looked at: the backfill reads runs of kind",
        add_run(connection, workspace, status="failed"): "not looked at: the run is failed",
        add_run(connection, workspace, summary=None): "missing_summary",
    }
    for run_id, verdict in verdicts.items():
        shown = run_here("explain", run_id).stdout
        assert f"  verdict  {verdict}" in shown, shown


def test_explain_decides_as_the_backfill_does_with_the_same_options(
    connection: Connection, workspace: Workspace
) -> None:
    run_id = add_run(connection, workspace, summary={"sharpe": 1.2, "trades": 60})
    for options, verdict in {
        (): "passed_all_gates",
        ("--require-metrics",): "missing_metrics",
        ("--require-regime",): "missing_regime_oos",
        ("--experiment-type", "manual"): "manual_experiment_excluded",
    }.items():
        shown = run_here("explain", run_id, *options).stdout
        assert (
            f"  verdict  {verdict}\n  options  --experiment-type {'manual' if len(options) > 1 else 'sweep'}"
            in shown
        )
        assert "  max_drawdown     0.25, which is 25 %\n" in shown, "it names no drawdown of its own"


def test_a_run_that_is_not_there_or_not_in_that_workspace_ends_with_2(
    connection: Connection, workspace: Workspace
) -> None:
    run_id = add_run(connection, workspace)
    done = run_here("explain", run_id, "--workspace-id", ANY_ID)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"There is no run {run_id} in workspace {ANY_ID}" in done.stderr
