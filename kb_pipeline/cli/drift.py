"""The command that asks whether the market has left the regimes that parameters were chosen in."""

import json
from pathlib import Path
from typing import Any

import click

from kb_pipeline import rules
from kb_pipeline.cli.arguments import Symbol, Workspace
from kb_pipeline.cli.running import say, session


@click.command()
@click.option("--workspace-id", type=Workspace(), required=True, help="Workspace to look at.")
@click.option("--strategy", help="Only this strategy, by id or name.")
@click.option("--symbol", type=Symbol(), help="Only this symbol.")
@click.option(
    "--ohlcv-file",
    type=click.Path(path_type=Path),
    help="Take the newest bars from this file.  [default: the files of the data root]",
)
@click.option(
    "--timeframe",
    type=click.Choice(list(rules.TIMEFRAMES_SECONDS)),
    help="Only bars of this length.  [default: all; that of the file by its name]",
)
@click.option("--dry-run", is_flag=True, help="Keep nothing and tell nobody.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def drift(as_json: bool, dry_run: bool, **arguments: Any) -> None:
    """Compare the newest bars with the regimes that each strategy's parameters were chosen in."""
    from kb_pipeline.questions.drift import DriftRequest, evaluate_drift

    request = DriftRequest(**arguments)
    with session("drift") as connection:
        report = evaluate_drift(connection, request, dry_run=dry_run)
    say(json.dumps(report.to_dict(), indent=2) if as_json else report.to_text())
