"""The command that measures what choosing parameters by regime is worth."""

import json
from uuid import UUID

import click

from kb_pipeline.cli.arguments import Workspace
from kb_pipeline.cli.running import say, session


@click.command()
@click.option("--workspace-id", type=Workspace(), required=True, help="Workspace to measure in.")
@click.option("--strategy", help="Show one strategy alone, by name or id. All are measured.")
@click.option("--dry-run", is_flag=True, help="Measure and show; keep nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def uplift(workspace_id: UUID, strategy: str | None, dry_run: bool, as_json: bool) -> None:
    """Measure whether parameters chosen by regime beat the baseline, and how surely."""
    from kb_pipeline.backfills.uplift import UpliftRequest, measure_uplift
    from kb_pipeline.questions.subject import strategy_of
    from kb_pipeline.questions.uplift import uplift_text

    with session("uplift") as connection:
        strategy_id = None if strategy is None else strategy_of(connection, workspace_id, strategy)[0]
        report = measure_uplift(connection, UpliftRequest(workspace_id=workspace_id), dry_run=dry_run)
    if as_json:
        say(json.dumps(report.to_dict(strategy_id), indent=2))
    else:
        say(uplift_text(report, strategy_id))
        say("Nothing was kept (dry run)." if dry_run else "Kept in kb_regime_uplift.")
