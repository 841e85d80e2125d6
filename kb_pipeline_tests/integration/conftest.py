"""What the tests of the regime backfill share: a price file, and the backfill from it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kb_pipeline.backfills.regime import RegimeRequest, backfill_regime
from kb_pipeline.backfills.report import BackfillReport
from kb_pipeline.storage.postgres import Connection
from kb_pipeline_tests.builders import write_daily_bars
from kb_pipeline_tests.conftest import Workspace


@pytest.fixture(scope="module")
def bars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the price file of BTC: 400 days of a market that never closes, from 2020-01-01 on."""
    return write_daily_bars(tmp_path_factory.mktemp("prices") / "BTC_1d.csv")


@pytest.fixture
def backfill(connection: Connection, workspace: Workspace, bars: Path) -> Callable[..., BackfillReport]:
    """Return the backfill of the workspace from the BTC file; options as for RegimeRequest."""

    def run(*, dry_run: bool = False, **options: Any) -> BackfillReport:
        settings = {"workspace_id": workspace.id, "ohlcv_file": bars, "calendar": "24/7", **options}
        return backfill_regime(connection, RegimeRequest(**settings), dry_run=dry_run)

    return run
