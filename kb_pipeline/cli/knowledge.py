"""The commands that ask the knowledge base: what worked, what to try, what was alike."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

import click

from kb_pipeline import rules
from kb_pipeline.cli.arguments import Workspace
from kb_pipeline.cli.running import packing, say, session

_workspace = click.option("--workspace-id", type=Workspace(), required=True, help="Workspace to ask.")
_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_k = click.option(
    "--k",
    type=click.IntRange(1, rules.MAX_COUNTED),
    default=rules.RECOMMENDED_CANDIDATES,
    show_default=True,
    help="Give at most this many.",
)


def _subject_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option("--run", "run_id", type=click.UUID, help="Ask about the regime of this run."),
        click.option(
            "--ohlcv-file",
            type=click.Path(path_type=Path),
            help="Ask about the last bars of this price file.",
        ),
    ):
        command = option(command)
    return command


@click.command()
@_workspace
@click.option("--regime-key", help="A whole key, such as regime_v1_1|default_v1|uptrend|high_vol|efficient.")
@click.option("--trend", help="With --vol: uptrend, downtrend, trending, flat or _, with any efficiency.")
@click.option("--vol", help="With --trend: high_vol, low_vol or _.")
@click.option(
    "--limit",
    type=click.IntRange(1, rules.MAX_COUNTED),
    default=10,
    show_default=True,
    help="Tunes to show of each timeframe and objective.",
)
@_as_json
def best(workspace_id: UUID, as_json: bool, **arguments: Any) -> None:
    """Show the parameters that scored best in a regime."""
    from kb_pipeline.questions.best import best_parameters

    with session("best") as connection:
        answer = best_parameters(connection, workspace_id, **arguments)
    say(json.dumps(answer.to_dict(), indent=2) if as_json else answer.to_text())


@click.command()
@_workspace
@_as_json
def regimes(workspace_id: UUID, as_json: bool) -> None:
    """Show what is known of each regime, by timeframe and objective: tunes, scores, best parameters."""
    from dataclasses import asdict

    from kb_pipeline.questions.best import regime_summary, summary_text

    with session("regimes") as connection:
        summaries = regime_summary(connection, workspace_id)
    as_objects = [asdict(summary) for summary in summaries]
    say(json.dumps(as_objects, indent=2) if as_json else summary_text(summaries))


@click.command()
@_workspace
@click.option("--strategy", required=True, help="Id or name of the strategy.")
@click.option("--regime-key", help="Ask about this regime.")
@_subject_options
@_k
@click.option(
    "--min-samples",
    type=click.IntRange(1, rules.MAX_COUNTED),
    default=rules.MIN_SAMPLES,
    show_default=True,
    help="Look in less similar regimes until this many are found.",
)
@click.option(
    "--timeframe", help="Rank scores of these bars.  [default: those asked about, else the commonest]"
)
@click.option("--objective", help="Rank scores of this objective.  [default: the commonest]")
@_as_json
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "optuna"]),
    default="text",
    show_default=True,
    help="optuna prints the parameter sets for study.enqueue_trial.",
)
def recommend(as_json: bool, form: Literal["text", "json", "optuna"], **arguments: Any) -> None:
    """Recommend parameters of a strategy for a regime, with the evidence for each."""
    from kb_pipeline.questions.recommend import RecommendRequest
    from kb_pipeline.questions.recommend import recommend as ask
    from kb_pipeline.questions.recommendation import optuna_trials

    if as_json and form == "optuna":
        raise click.UsageError("--json and --format optuna are two forms of an answer. Give one of them.")
    request = RecommendRequest(**arguments)
    with session("recommend") as connection, packing() as progress:
        answer = ask(connection, request, progress)
    if form == "optuna":
        trials, notes = optuna_trials(answer.candidates)
        say(json.dumps(trials, indent=2))
        for note in (*answer.warnings, *notes):
            say(f"Warning: {note}", err=True)
        for suggestion in answer.suggestions:
            say(f"Try: {suggestion}", err=True)
    else:
        say(json.dumps(answer.to_dict(), indent=2) if as_json or form == "json" else answer.to_text())


@click.command()
@_workspace
@_subject_options
@click.option(
    "--timeframe", type=click.Choice(list(rules.TIMEFRAMES_SECONDS)), help="Length of the file's bars."
)
@_k
@click.option("--rebuild", is_flag=True, help="Pack the regimes of the whole workspace anew first.")
@_as_json
def similar(workspace_id: UUID, as_json: bool, **arguments: Any) -> None:
    """Show the tunes and runs whose regimes are nearest by distance, and what worked there."""
    from kb_pipeline.questions.similar import similar as ask

    with session("similar") as connection, packing() as progress:
        answer = ask(connection, workspace_id, progress=progress, **arguments)
    say(json.dumps(answer.to_dict(), indent=2) if as_json else answer.to_text())
