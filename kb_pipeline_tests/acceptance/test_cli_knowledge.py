"""Questions by command line: what the knowledge base answers before and after it has learnt, and Optuna."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest

from kb_pipeline.questions.recommendation import Candidate, optuna_trials
from kb_pipeline.storage.postgres import Connection
from kb_pipeline_tests.acceptance.commands import ANY_ID, ESCAPE, run_here
from kb_pipeline_tests.attributed import kept, learn, regime_key, snapshot, won
from kb_pipeline_tests.builders import add_run, write_daily_bars
from kb_pipeline_tests.conftest import Workspace

ASKED = "uptrend high_vol efficient"
KEY = regime_key(ASKED)


def _answer(*arguments: object) -> dict[str, Any]:
    done = run_here(*arguments, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


# --- Learning ------------------------------------------------------------------------------------


def test_what_is_learnt_is_recommended(connection: Connection, workspace: Workspace, tmp_path: Path) -> None:
    bars = write_daily_bars(tmp_path / "BTC_1d.csv")
    meta = {"symbol": "BTC", "timeframe": "1d", "date_min": "2020-06-01", "date_max": "2020-10-01"}
    for fast in range(3):
        add_run(connection, workspace, params={"fast": fast}, dataset_meta=meta)
    here = ("--workspace-id", workspace.id)
    by_file = ("recommend", *here, "--strategy", "trend_following", "--ohlcv-file", bars)

    def ingested() -> int:
        run_here("ingest-trials", *here)
        (count,) = connection.execute("SELECT count(*) FROM kb_trials").fetchone() or (0,)
        return int(count)

    assert ingested() == 0
    assert _answer(*by_file)["candidates"] == []
    assert run_here("backfill-candidacy", *here).returncode == 0
    assert ingested() == 3, "candidates are knowledge"
    before = _answer(*by_file)
    assert before["counts"] == {
        **dict.fromkeys(("exact", "partial_trend_vol", "partial_trend", "partial_vol", "distance"), 0),
        "global_best": 3,
    }, "without a regime they serve the last tier alone"
    assert run_here("backfill-regime", *here, "--ohlcv-file", bars, "--calendar", "24/7").returncode == 0
    assert ingested() == 3
    after = _answer(*by_file)
    assert after["confidence"] > before["confidence"]
    assert sum(after["counts"].values()) - after["counts"].get("global_best", 0) == 3
    assert {it["params"]["fast"] for it in after["candidates"]} == {0, 1, 2}
    assert all(it["distance"] is not None and it["explanation"] for it in after["candidates"])
    logged = connection.execute("SELECT tier_used FROM recommend_events ORDER BY created_at").fetchall()
    assert [tier for (tier,) in logged][:2] == ["none", "global_best"]


@pytest.fixture
def knowing(connection: Connection, workspace: Workspace) -> Workspace:
    """Return the workspace after it has learnt from three tunes and a run."""
    won(connection, workspace, ASKED, 2, params={"fast": 5, "slow": 20.5, "exit": "stop", "short": True})
    won(connection, workspace, ASKED, 1, params={"fast": 8, "slow": 30.0, "exit": None, "short": False})
    won(connection, workspace, "flat low_vol noisy", 3, params={"fast": 8})
    kept(connection, workspace, ASKED, 0.5, params={"fast": 8, "weights": [1, 2], "nested": {"deep": 1}})
    learn(connection, workspace)
    return workspace


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("best", {"--workspace-id", "--regime-key", "--trend", "--vol", "--limit", "--json"}),
        ("regimes", {"--workspace-id", "--json"}),
        (
            "recommend",
            {"--workspace-id", "--strategy", "--regime-key", "--ohlcv-file", "--run", "--k", "--min-samples"}
            | {"--timeframe", "--objective", "--json", "--format"},
        ),
        ("similar", {"--workspace-id", "--run", "--ohlcv-file", "--timeframe", "--k", "--rebuild", "--json"}),
    ],
)
def test_help_names_every_option(command: str, options: set[str]) -> None:
    shown = run_here(command, "--help").stdout
    assert set(re.findall(r"--[a-z-]+", shown.partition("Options:")[2])) >= options


# --- Text and JSON -------------------------------------------------------------------------------


def test_every_question_answers_in_text_and_in_json(connection: Connection, knowing: Workspace) -> None:
    here = ("--workspace-id", knowing.id)
    run_id = add_run(connection, knowing, regime_oos=snapshot(ASKED))
    best = _answer("best", *here, "--regime-key", KEY)
    assert [it["score"] for it in best["tunes"]] == [2, 1]
    by_tags = run_here("best", *here, "--trend", "uptrend", "--vol", "high_vol", "--limit", 1)
    assert '{"exit": "stop", "fast": 5' in by_tags.stdout.splitlines()[1]
    assert [row.split()[3] for row in run_here("regimes", *here).stdout.splitlines()] == ["tunes", "2", "1"]
    asked = ("recommend", *here, "--strategy", "trend_following", "--regime-key", KEY, "--min-samples", 3)
    answer = _answer(*asked)
    assert (answer["tier_used"], answer["confidence"], answer["sufficient"]) == ("exact", 1.0, True)
    assert [it["score"] for it in answer["candidates"]] == [2, 1, 0.5]
    text = run_here(*asked).stdout
    assert "Tier: exact, confidence 1; found: exact 3" in text
    assert answer["candidates"][0]["explanation"] in text
    similar = _answer("similar", *here, "--run", run_id, "--k", 3)
    assert len(similar["neighbours"]) == 3
    assert similar["neighbours"][0]["distance"] == 0
    assert "What worked there" in run_here("similar", *here, "--run", run_id, "--rebuild").stdout


def test_a_price_file_is_asked_about(knowing: Workspace, tmp_path: Path) -> None:
    bars = write_daily_bars(tmp_path / "BTC_1d.csv")
    here = ("--workspace-id", knowing.id)
    done = run_here(
        "recommend", *here, "--strategy", knowing.strategy_id, "--ohlcv-file", bars, "--min-samples", 9
    )
    assert done.returncode == 0, done.stderr
    assert "the last 200 bars of BTC_1d.csv" in done.stdout
    assert "Try: --min-samples 4 would give 4" in done.stdout


REFUSED: list[tuple[tuple[object, ...], str]] = [
    (("best",), "Give either --regime-key, or --trend and --vol"),
    (("best", "--regime-key", ESCAPE), "found the regime key"),
    (("best", "--trend", "up", "--vol", "_"), "found the trend 'up'"),
    (("recommend", "--strategy", "s"), "There is no strategy 's'"),
    (("recommend", "--strategy", "trend_following"), "exactly one of --regime-key, --run and --ohlcv-file"),
    (("recommend", "--strategy", "trend_following", "--run", ANY_ID), "There is no run"),
    (("recommend", "--strategy", "trend_following", "--ohlcv-file", "/nowhere.csv"), "/nowhere.csv"),
    (("recommend", "--strategy", ESCAPE, "--regime-key", KEY), "There is no strategy"),
    (("recommend", "--strategy", "s", "--k", 0), "--k"),
    (("recommend", "--strategy", "s", "--min-samples", "many"), "--min-samples"),
    (("similar",), "exactly one of --run and --ohlcv-file"),
    (("similar", "--run", ANY_ID), "There is no run"),
]


def test_what_cannot_be_asked_ends_with_exit_code_2_and_says_why(knowing: Workspace) -> None:
    for (command, *options), message in REFUSED:
        done = run_here(command, "--workspace-id", knowing.id, *options)
        assert done.returncode == 2, (command, options, done.stderr)
        assert message in done.stderr
        assert "\x1b" not in done.stderr
    for command in ("best", "regimes", "recommend", "similar"):
        asked = () if command == "regimes" else ("--regime-key", KEY) if command == "best" else ()
        named = ("--strategy", "x", "--regime-key", KEY) if command == "recommend" else ()
        subject = ("--run", ANY_ID) if command == "similar" else ()
        done = run_here(command, "--workspace-id", ANY_ID, *asked, *named, *subject)
        assert (done.returncode, "There is no workspace" in done.stderr) == (2, True), done.stderr


# --- Optuna --------------------------------------------------------------------------------------


def test_optuna_tries_what_was_recommended_first(knowing: Workspace) -> None:
    done = run_here(
        *("recommend", "--workspace-id", knowing.id, "--strategy", "trend_following", "--regime-key", KEY),
        *("--min-samples", 3, "--format", "optuna"),
    )
    assert done.returncode == 0
    assert done.stderr == "Warning: left out, because Optuna cannot suggest them: nested, weights\n"
    enqueued = json.loads(done.stdout)
    assert [trial["fast"] for trial in enqueued] == [5, 8, 8]

    def objective(trial: optuna.Trial) -> float:
        suggest: dict[type, Callable[[str], object]] = {
            int: lambda name: trial.suggest_int(name, 1, 50),
            float: lambda name: trial.suggest_float(name, 1, 100),
            bool: lambda name: trial.suggest_categorical(name, [True, False]),
            str: lambda name: trial.suggest_categorical(name, ["target", "stop", None]),
            type(None): lambda name: trial.suggest_categorical(name, ["target", "stop", None]),
        }
        for name, value in enqueued[trial.number].items():
            suggest[type(value)](name)
        return trial.number

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study()
    for params in enqueued:
        study.enqueue_trial(params)
    study.optimize(objective, n_trials=len(enqueued))
    assert [trial.params for trial in study.trials] == enqueued, "Optuna fell back on a draw of its own"


def test_where_optuna_gets_nothing_it_is_said_what_would_give_more(knowing: Workspace) -> None:
    done = run_here(
        *("recommend", "--workspace-id", knowing.id, "--strategy", "trend_following", "--regime-key", KEY),
        *("--timeframe", "4h", "--format", "optuna"),
    )
    assert (done.returncode, json.loads(done.stdout)) == (0, [])
    assert "Try: --timeframe 1d would give" in done.stderr


def test_an_answer_has_one_form() -> None:
    done = run_here(
        *("recommend", "--workspace-id", ANY_ID, "--strategy", "trend_following", "--regime-key", KEY),
        *("--json", "--format", "optuna"),
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "Give one of them." in done.stderr


def test_equal_sets_are_enqueued_once_and_what_is_no_number_never() -> None:
    def candidate(params: Any) -> Candidate:
        named = {"tier": "exact", "source_type": "tune", "id": ANY_ID, "run_id": None, "regime_key": KEY}
        return Candidate(**named, matched=[], n=1, score=1.0, params=params)  # type: ignore[arg-type]

    sets = [{"a": 1}, {"a": 1}, {"a": 10**400, "b": "x"}, {}, None, [1], {"\x1b": {}}, {"a": True}]
    trials, notes = optuna_trials([candidate(params) for params in sets])
    assert trials == [{"a": 1}, {"b": "x"}, {"a": True}]
    assert notes == ["left out, because Optuna cannot suggest them: \N{REPLACEMENT CHARACTER}, a"]
