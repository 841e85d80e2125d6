"""Run the tunes and return their rows.

A trial is scored on the part of the window that its parameters were not chosen on, where the tune has
such a part. Which tunes there are is in plan.py.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from demo_history.engine import (
    RUN_DURATION,
    WORKSPACE_ID,
    Row,
    Rows,
    backtest,
    bars_in,
    error_text,
    identifier,
    present,
    regime_of,
    run_row,
    split,
    stamp,
)
from demo_history.plan import Tune
from demo_history.strategies import Params

MIN_TRADES: Final = 5
"""A trial with fewer trades in sample is not scored out of sample."""

LEADERBOARD_SIZE: Final = 10

HISTORY_START: Final = datetime(2025, 1, 6, 8, 0, tzinfo=UTC)
"""Wall-clock time of the first tune. It has nothing to do with the time of the bars."""

TUNE_INTERVAL: Final = timedelta(hours=2)
TRIAL_INTERVAL: Final = timedelta(seconds=5)

REGIME_RECORDED_FROM_TUNE: Final = 6
"""Earlier tunes were stored before regimes were, and nothing fills them in afterwards."""


def score_trial(tune: Tune, params: Params) -> Row:
    """Run one trial's backtests and return what its row says about the result."""
    bars = bars_in(tune.market, tune.window)
    try:
        if tune.oos_ratio is None:
            whole = backtest(tune.method, tune.market, bars, params)
            return {"status": "completed", "score": whole.get("sharpe"), "summary": whole}
        in_sample, out_of_sample = split(bars, tune.oos_ratio)
        metrics_is = backtest(tune.method, tune.market, in_sample, params)
        if metrics_is["trades"] < MIN_TRADES:
            reason = f"min_trades: {metrics_is['trades']} in sample, {MIN_TRADES} needed"
            result = {"status": "skipped", "failed_reason": reason}
            return result | {
                "metrics_is": metrics_is,
                "score_is": metrics_is.get("sharpe"),
                "summary": metrics_is,
            }
        metrics_oos = backtest(tune.method, tune.market, out_of_sample, params)
    except ValueError as error:
        return {"status": "failed", "failed_reason": error_text(error)}
    return {
        "status": "completed",
        "score": metrics_oos.get("sharpe"),
        "score_is": metrics_is.get("sharpe"),
        "score_oos": metrics_oos.get("sharpe"),
        "metrics_is": metrics_is,
        "metrics_oos": metrics_oos,
        "summary": metrics_oos,
    }


def with_regimes(tune: Tune, trials: list[Row], computed_at: datetime) -> list[Row]:
    """Return the trials with the regimes of both parts of the window beside their metrics."""
    if tune.oos_ratio is None or not any("metrics_oos" in trial for trial in trials):
        return trials
    in_sample, out_of_sample = split(bars_in(tune.market, tune.window), tune.oos_ratio)
    regimes = {
        "metrics_is": regime_of(tune.market, in_sample, computed_at),
        "metrics_oos": regime_of(tune.market, out_of_sample, computed_at),
    }
    return [
        trial | {name: trial[name] | {"regime": regimes[name]} for name in regimes if name in trial}
        for trial in trials
    ]


def tune_dataset(tune: Tune) -> Row:
    """Return what a tune's runs tell about their bars."""
    described = {
        "filename": tune.market.file_name,
        "symbol": tune.market.symbol,
        "timeframe": tune.market.timeframe,
        "row_count": len(bars_in(tune.market, tune.window)),
        "date_min": tune.window.start,
        "date_max": tune.window.end,
        "oos_ratio": tune.oos_ratio,
    }
    return present(described)


def trial_rows(tune: Tune, tune_id: str, index: int, started: datetime, result: Row) -> tuple[Row, Row]:
    """Return the run and the trial of one parameter set."""
    params = tune.method.grid[index]
    run_id = identifier("trial", tune_id, index)
    summary = result.get("summary")
    run = run_row(
        run_id,
        tune.method,
        params,
        started,
        run_kind="tune_variant",
        status="failed" if result["status"] == "failed" else "completed",
        error=result.get("failed_reason") if result["status"] == "failed" else None,
        dataset_meta=tune_dataset(tune),
        summary=summary,
        trade_count=summary and summary["trades"],
    )
    keys = {"tune_id": tune_id, "run_id": run_id, "trial_index": index, "params": params}
    times = {"created_at": stamp(started), "started_at": stamp(started)}
    outcome = {name: value for name, value in result.items() if name != "summary"}
    return run, present(keys | times | outcome | {"finished_at": stamp(started + RUN_DURATION)})


def leaderboard(trials: list[Row], runs: Mapping[str, Row]) -> list[Row]:
    """Return the best trials, highest score first; ties to the lower index."""
    scored = [trial for trial in trials if trial["status"] == "completed" and "score" in trial]
    scored.sort(key=lambda trial: (-trial["score"], trial["trial_index"]))
    return [
        {"rank": rank, "summary": runs[trial["run_id"]]["summary"]}
        | {name: trial[name] for name in ("run_id", "params", "score")}
        for rank, trial in enumerate(scored[:LEADERBOARD_SIZE], 1)
    ]


def tune_row(tune: Tune, tune_id: str, started: datetime, trials: list[Row], board: list[Row]) -> Row:
    """Return the row of backtest_tunes."""
    best = board[0] if board else {}
    done = tune.status == "completed"
    row = {
        "id": tune_id,
        "workspace_id": WORKSPACE_ID,
        "strategy_entity_id": identifier("strategy", tune.method.name),
        "strategy_spec_id": identifier("spec", tune.method.name),
        "search_type": "grid",
        "n_trials": len(tune.method.grid),
        "param_space": {
            name: sorted({params[name] for params in tune.method.grid}) for name in tune.method.grid[0]
        },
        "objective_metric": "sharpe",
        "objective_type": "sharpe",
        "min_trades": MIN_TRADES,
        "oos_ratio": tune.oos_ratio,
        "status": tune.status,
        "trials_completed": sum(trial["status"] == "completed" for trial in trials),
        "best_run_id": best.get("run_id"),
        "best_score": best.get("score"),
        "best_params": best.get("params"),
        "leaderboard": board,
        "created_at": stamp(started),
        "started_at": stamp(started) if tune.status != "queued" else None,
        "completed_at": stamp(started + TRIAL_INTERVAL * len(trials)) if done else None,
    }
    return present(row)


def run_tune(numbered: tuple[int, Tune]) -> Rows:
    """Run one tune and return its rows by table."""
    number, tune = numbered
    tune_id = identifier("tune", number)
    started = HISTORY_START + TUNE_INTERVAL * number
    results = [score_trial(tune, params) for params in tune.method.grid[: tune.trials_done]]
    if number >= REGIME_RECORDED_FROM_TUNE:
        results = with_regimes(tune, results, started)
    pairs = [
        trial_rows(tune, tune_id, index, started + TRIAL_INTERVAL * index, result)
        for index, result in enumerate(results)
    ]
    runs, trials = [run for run, _ in pairs], [trial for _, trial in pairs]
    board = leaderboard(trials, {run["id"]: run for run in runs})
    return {
        "backtest_runs": runs,
        "backtest_tunes": [tune_row(tune, tune_id, started, trials, board)],
        "backtest_tune_runs": trials,
    }
