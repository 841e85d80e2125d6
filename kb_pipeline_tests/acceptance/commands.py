"""How the acceptance tests start commands: as real processes, in the project's directory.

A process loads pandas anew, which takes a second; where many cases end before anything is read, they
are tried in this process.
"""

import io
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest.mock import patch

from kb_pipeline import cli

PROJECT = Path(__file__).resolve().parents[2]
AAPL_FILE = PROJECT / "data" / "ohlcv" / "AAPL_1d.csv"
ANY_ID = "00000000-0000-4000-8000-000000000000"
"""The id of no workspace and no run."""
ESCAPE = "\x1b[31mred"
"""What would colour the terminal of whoever reads it in a message."""


def command_line(*arguments: object) -> list[str]:
    """Return how a process of `kb-pipeline` is started."""
    return [sys.executable, "-m", "kb_pipeline.cli", *map(str, arguments)]


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `kb-pipeline` to its end, in this environment with changes; it never shows a traceback."""
    done = subprocess.run(
        command_line(*arguments),
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        cwd=PROJECT,
        timeout=120,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def run_here(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run `kb-pipeline` in this process, from its entry point to its exit code."""
    line = ["kb-pipeline", *map(str, arguments)]
    out, err, exit_code = io.StringIO(), io.StringIO(), 0
    with patch.object(sys, "argv", line), redirect_stdout(out), redirect_stderr(err):
        try:
            cli.main()
        except SystemExit as ended:
            exit_code = int(ended.code or 0)
    return subprocess.CompletedProcess(line, exit_code, out.getvalue(), err.getvalue())
