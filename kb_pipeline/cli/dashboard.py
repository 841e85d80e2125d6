"""The command that writes the attribution page of a workspace."""

from pathlib import Path
from uuid import UUID

import click

from kb_pipeline.cli.arguments import Workspace
from kb_pipeline.cli.running import say, session
from kb_pipeline.plain_text import printable


@click.command()
@click.option("--workspace-id", type=Workspace(), required=True, help="Workspace to show.")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="HTML file to write.")
def dashboard(workspace_id: UUID, output: Path) -> None:
    """Write what is known of a workspace as one HTML page that needs nothing else."""
    from kb_pipeline.dashboard.page import write_dashboard

    with session("dashboard") as connection:
        written = write_dashboard(connection, workspace_id, output)
    say(printable(f"Written: {written}"))
