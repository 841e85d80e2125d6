"""Price files and tuned windows for the tests of drift."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from kb_pipeline.backfills.attribution import AttributionRequest, backfill_attribution
from kb_pipeline.domain.regime import compute_regime_snapshots
from kb_pipeline.storage.ohlcv_files import read_ohlcv_file
from kb_pipeline.storage.postgres import Connection
from kb_pipeline_tests.builders import add_trial, add_tune
from kb_pipeline_tests.conftest import Workspace
from kb_pipeline_tests.unit.drift_series import series_bars

FIRST_DAY: Final = datetime(2020, 1, 1, tzinfo=UTC)


def write_bars(path: Path, std: npt.NDArray[np.float64], *, drift: float = 0.0, seed: int = 1) -> Path:
    """Write daily bars from FIRST_DAY on whose closes move by these standard deviations; return the path."""
    bars = series_bars(std, drift=drift, seed=seed)
    lines = ["timestamp,open,high,low,close,volume"]
    lines += [
        f"{FIRST_DAY + timedelta(days=at):%Y-%m-%d},{close!r},{high!r},{low!r},{close!r},1"
        for at, (high, low, close) in enumerate(
            zip(bars.high.tolist(), bars.low.tolist(), bars.close.tolist(), strict=True)
        )
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_switched_bars(path: Path, *, switched: int, calm: int = 0, again: int = 0) -> Path:
    """Write 1,300 calm bars, then some of five times the volatility, calm ones, and wild ones again."""
    parts = ((1_300, 0.01), (switched, 0.05), (calm, 0.01), (again, 0.05))
    return write_bars(path, np.concatenate([np.full(bars, std) for bars, std in parts]))


def add_tuned_windows(
    connection: Connection,
    workspace: Workspace,
    path: Path,
    ends: Sequence[int],
    *,
    symbol: str | None = "AAA",
) -> None:
    """Insert a tune for each window of 200 bars of a price file, and attribute it."""
    frame = read_ohlcv_file(path, timeframe="1d").frame
    regimes = compute_regime_snapshots(frame, np.array(ends) - 200, np.array(ends), timeframe="1d")
    named = {"symbol": symbol} if symbol else {}
    for place in range(len(ends)):
        run = {"dataset_meta": {**named, "timeframe": "1d"}}
        regime = regimes[place].to_dict()
        add_trial(connection, workspace, add_tune(connection, workspace), sharpe=1.0, regime=regime, run=run)
    backfill_attribution(connection, AttributionRequest(workspace_id=workspace.id), dry_run=False)
