"""The run configuration of assets, checks and jobs: the command line's options, under the same names.

Validated before anything is read. There is no path and no address among the settings: whoever
reaches the web page may choose them.
"""

from datetime import UTC, datetime
from typing import Any

import dagster as dg
from pydantic import Field, field_validator

from kb_pipeline.rules import (
    BATCH_SIZE_ROWS,
    MAX_BATCH_SIZE_ROWS,
    MIN_COVERAGE_FRACTION,
    TIMEFRAMES_SECONDS,
    ExperimentType,
)

_DATE_LENGTH = len("2025-01-31")


def read_since(text: str | None) -> datetime | None:
    """Return the instant that `since` means: a date is UTC midnight.

    Raises:
        ValueError: It is no date, or a time without an offset.
    """
    if not text:
        return None
    try:
        since = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"found since: {text!r}, needed a date like 2025-01-31 or a time like 2025-01-31T09:30:00Z"
        ) from None
    if since.tzinfo is None and len(text) > _DATE_LENGTH:
        raise ValueError(f"found since: {text!r} without an offset, needed Z or one like +02:00 at its end")
    return since.replace(tzinfo=since.tzinfo or UTC)


def _one_of(setting: str, value: str | None, known: list[str]) -> str | None:
    if value is not None and value not in known:
        raise ValueError(f"found {setting}: {value!r}, needed one of {', '.join(known)}")
    return value


class WorkspaceSettings(dg.Config):
    """Where to work."""

    workspaces: list[str] = Field(
        default=[],
        description="Slugs or ids of workspaces. For a run without a partition; a partition wins.",
    )


class ScanSettings(WorkspaceSettings):
    """Which rows to look at."""

    since: str | None = Field(
        default=None, description="Only rows created at or after this date (UTC). Empty: all."
    )
    limit: int | None = Field(default=None, ge=1, description="Scan at most this many rows. Empty: all.")

    @field_validator("since")
    @classmethod
    def _since_can_be_read(cls, value: str | None) -> str | None:
        read_since(value)
        return value

    def scan(self) -> dict[str, Any]:
        """Return the settings under the names of the requests."""
        return {"since": read_since(self.since), "limit": self.limit}


class BackfillSettings(ScanSettings):
    """How to write."""

    batch_size: int = Field(
        default=BATCH_SIZE_ROWS, ge=1, le=MAX_BATCH_SIZE_ROWS, description="Rows written in one transaction."
    )
    from_start: bool = Field(
        default=False, description="With a limit: begin again instead of after the last row scanned."
    )

    def pace(self) -> dict[str, Any]:
        """Return the settings under the names of the requests."""
        return {**self.scan(), "batch_size": self.batch_size, "from_start": self.from_start}


class OhlcvSettings(dg.Config):
    """Which price files to read."""

    symbols: list[str] = Field(
        default=[], description="For a run without a partition; a partition wins. Empty: all symbols."
    )


class WindowSettings(dg.Config):
    """How runs meet price files."""

    symbols: list[str] = Field(
        default=[], description="For a run without a partition; a partition wins. Empty: all symbols."
    )
    timeframe: str | None = Field(
        default=None,
        description=f"Bar length of the price file: {', '.join(TIMEFRAMES_SECONDS)}. Empty: the only file's.",
    )
    calendar: str | None = Field(
        default=None, description="Trading calendar: XNYS, 24/7, FX, ... Empty: that of symbols.yaml."
    )
    timezone: str | None = Field(
        default=None, description="Zone of times without an offset in the file. Empty: UTC."
    )
    min_coverage: float = Field(
        default=MIN_COVERAGE_FRACTION,
        ge=0,
        le=1,
        description="Share of the calendar's bars that a window must hold.",
    )

    @field_validator("timeframe")
    @classmethod
    def _timeframe_is_known(cls, value: str | None) -> str | None:
        return _one_of("timeframe", value, list(TIMEFRAMES_SECONDS))

    def windows(self) -> dict[str, Any]:
        """Return the settings under the names of the request."""
        return {"calendar": self.calendar, "timezone": self.timezone, "min_coverage": self.min_coverage}


class RegimeSettings(WindowSettings, BackfillSettings):
    """The regime backfill."""


class RegimeDryRunSettings(WindowSettings, ScanSettings):
    """The regime backfill's dry run."""


class GateSettings(dg.Config):
    """How strict the quality gate is."""

    experiment_type: str = Field(
        default=str(ExperimentType.SWEEP),
        description=f"Type of runs whose summary names none: {', '.join(ExperimentType)}.",
    )
    require_regime: bool = Field(default=False, description="Reject runs without an out-of-sample regime.")
    require_metrics: bool = Field(default=False, description="Skip runs with an absent metric.")

    @field_validator("experiment_type")
    @classmethod
    def _experiment_type_is_known(cls, value: str) -> str | None:
        return _one_of("experiment_type", value, [str(known) for known in ExperimentType])

    def gate(self) -> dict[str, Any]:
        """Return the settings under the names of the request."""
        return {
            "experiment_type": ExperimentType(self.experiment_type),
            "require_regime": self.require_regime,
            "require_metrics": self.require_metrics,
        }


class CandidacySettings(GateSettings, BackfillSettings):
    """The candidacy backfill."""


class CandidacyDryRunSettings(GateSettings, ScanSettings):
    """The candidacy backfill's dry run."""
