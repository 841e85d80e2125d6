"""The commands for operators: what is wrong and what to do about it, and the figures to watch."""

import json
import sys
from dataclasses import asdict

import click

from kb_pipeline.cli.running import say, session
from kb_pipeline.plain_text import printable
from kb_pipeline.rules import ExitCode


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(as_json: bool) -> None:
    """Check connection, tables, role, ledger, locks and waiting tunes; name a next step for each finding.

    Ends with 1 where something keeps the backfills from working, else with 0.
    """
    from kb_pipeline.storage.doctor import Level, examine

    findings = []
    for finding in examine():
        findings.append(finding)
        if not as_json:
            say(f"{finding.level:<9}{finding.check:<12}{printable(finding.found)}")
            if finding.next_step:
                say(f"{'':<21}-> {printable(finding.next_step)}")
    if as_json:
        say(json.dumps([asdict(finding) for finding in findings], indent=2))
    if any(finding.level == Level.FAILURE for finding in findings):
        sys.exit(ExitCode.FAILURE)


@click.command()
def metrics() -> None:
    """Print the state of the database as Prometheus reads it, for its node exporter's textfile collector."""
    from kb_pipeline.storage.metrics import exposition

    with session("metrics") as connection:
        text = exposition(connection)
    say(text.removesuffix("\n"))
