"""The command line: arguments in, one use case called, its report printed.

Nothing is decided here. Heavy modules are imported inside the commands, so that --help is instant.
"""

import errno
import io
import sys
from typing import Final

import click

from kb_pipeline import rules
from kb_pipeline.cli import backfills, dashboard, database, doctor, drift, knowledge, uplift
from kb_pipeline.cli.running import say
from kb_pipeline.errors import KbPipelineError


@click.group(
    "kb-pipeline", context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(package_name="kb-pipeline")
def cli() -> None:
    """Turn a backtesting platform's runs and tunes into knowledge about market regimes.

    The database is the one KB_DATABASE_URL names, else an embedded Postgres under .kb (KB_HOME moves it).
    """


_STDOUT_IS_GONE: Final = (errno.EPIPE, errno.ENOSPC, errno.EIO)
"""A closed pipe, a full disk, a terminal taken away: what writing to it fails with, naming no file."""

for command in (
    backfills.backfill_candidacy,
    backfills.backfill_regime,
    backfills.backfill_attribution,
    backfills.ingest_trials,
    uplift.uplift,
    dashboard.dashboard,
    backfills.explain,
    backfills.demo,
    knowledge.best,
    knowledge.regimes,
    knowledge.recommend,
    knowledge.similar,
    drift.drift,
    doctor.doctor,
    doctor.metrics,
    database.partitions,
    database.db,
):
    cli.add_command(command)


def main() -> None:
    """Run the command line and end the process with its exit code."""
    try:
        cli(standalone_mode=False)
    except click.ClickException as error:
        said = io.StringIO()
        error.show(file=said)  # it quotes what was typed, and the usage beside it is the command's own
        say(said.getvalue().rstrip("\n"), err=True)
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(rules.ExitCode.INTERRUPTED)
    except KbPipelineError as error:
        say(f"Error: {error}", err=True)
        sys.exit(error.exit_code)
    except OSError as error:
        if error.filename is None and error.errno in _STDOUT_IS_GONE:  # what was committed stays
            sys.stdout = None
            what = "the output could not be written"
        else:
            what = str(error.filename or "the system refused")
        say(f"Error: {what}: {error.strerror or error}", err=True)
        sys.exit(rules.ExitCode.FAILURE)
