"""Imported by the process that the workers are forked from: what every worker would load, loaded once."""

import gc
import tempfile
from pathlib import Path

import tqdm

from kb_pipeline.backfills import attribution, candidacy, regime, trials
from kb_pipeline.storage.ohlcv_files import read_ohlcv_file
from kb_pipeline_tests.builders import write_daily_bars
from kb_pipeline_tests.faults import worker

LOADED = (attribution, candidacy, regime, tqdm, trials, worker)

with tempfile.TemporaryDirectory() as _directory:  # the first file read loads more than the rest together
    _file = write_daily_bars(Path(_directory) / "BTC_1d.csv", bars=60)
    read_ohlcv_file(_file, timezone=None, timeframe="1d", symbol=None, data_root=None)

gc.freeze()  # what a worker never looks through it need not copy either
