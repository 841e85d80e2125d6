"""The errors this project raises, each with the exit code it ends a command with.

A message says where, what was found, what was needed and what to do next. A row that cannot be
read is never an error: it is counted with a reason and the backfill goes on.
"""

from kb_pipeline.plain_text import printable_lines
from kb_pipeline.rules import MAX_FILE_ERRORS_LISTED, ExitCode


class KbPipelineError(Exception):
    """Root of the tree. Shown to a person as one message, without a traceback."""

    exit_code: int = ExitCode.FAILURE

    def __str__(self) -> str:
        # Messages quote rows, files and what the database said; they end on terminals and in logs.
        return printable_lines(Exception.__str__(self))  # KeyError would quote the message


class BadArgumentError(KbPipelineError):
    """An option's value cannot be used; nothing was read or written."""

    exit_code = ExitCode.BAD_INPUT


class MissingColumnError(BadArgumentError, KeyError):
    """Bars without a column that a regime needs."""


class DatabaseUrlError(BadArgumentError):
    """The database URL cannot be used. The message never holds the password."""


class UnsafePathError(BadArgumentError):
    """A path that would be unsafe to put a database under."""


class NoBarsError(KbPipelineError):
    """A regime was asked of no bars at all."""


class NonFinitePriceError(KbPipelineError):
    """A price inside a window is NaN or infinite; the message names its position."""


class UnknownSchemaVersionError(KbPipelineError):
    """A stored snapshot has a layout this project does not know."""


class InvalidSnapshotError(KbPipelineError):
    """A stored snapshot cannot be read, or contradicts itself."""


class CalendarError(BadArgumentError):
    """A trading calendar is unknown or does not cover the dates asked for."""


class OhlcvFileError(KbPipelineError):
    """A price file is refused as a whole.

    `failures` holds (line, column, value, rule) of every failure found, up to a cap; line and
    column are None where the failure concerns the file as a whole.
    """

    exit_code = ExitCode.BAD_INPUT

    def __init__(self, path: str, reason: str, failures: list[str], total: int | None = None) -> None:
        self.path = path
        self.reason = reason
        self.failures = failures[:MAX_FILE_ERRORS_LISTED]
        self.total = len(failures) if total is None else total
        rest = self.total - len(self.failures)
        lines = [*self.failures, *([f"... and {rest} more ({self.total} in all)"] if rest > 0 else [])]
        super().__init__("\n".join(lines))


class DatabaseError(KbPipelineError):
    """The database cannot be reached, or is not what the pipeline needs."""

    def __init__(self, message: str) -> None:
        super().__init__(message.replace("\t", "    "))  # libpq's own words are indented by tabs


class NoDatabaseError(DatabaseError):
    """No database was ever made where the embedded one would lie."""


class PoolerError(DatabaseError):
    """A pooler answered that may hand one session's transactions to several servers."""


class MigrationError(DatabaseError):
    """A migration could not be applied; the message names the file and the cause."""


class AlreadyRunningError(KbPipelineError):
    """Another process holds this workspace and kind; the message says who."""

    exit_code = ExitCode.ALREADY_RUNNING


class ConservationError(KbPipelineError):
    """The counts of a report do not add up to the rows scanned."""


class ConflictsRemainError(KbPipelineError):
    """Rows changed under a backfill as often as it tried to write them; running it again goes on."""

    exit_code = ExitCode.CONFLICTS_REMAIN
