"""What `make ui` does about ports and processes."""

import signal
import socket
import subprocess
from pathlib import Path

import psutil
import pytest

from kb_pipeline.orchestration import serve
from kb_pipeline_tests.acceptance.served import is_left, wait_until


def test_a_process_that_ignores_every_request_is_ended_with_all_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "STOP_TIMEOUT_SECONDS", 0.2)
    monkeypatch.setattr(serve, "LEFT_OVER_TIMEOUT_SECONDS", 0.2)
    child = tmp_path / "child"
    # What a shell ignores, its children ignore too.
    script = f"trap '' INT TERM; sleep 60 & echo $! > {child}; wait"
    served = subprocess.Popen(["/bin/sh", "-c", script], start_new_session=True)
    while not child.exists() or not child.read_text():
        assert served.poll() is None
    left = psutil.Process(int(child.read_text()))
    serve.stop(served)
    assert served.returncode == -signal.SIGKILL
    wait_until(lambda: not is_left(left), "the child to end", 5, every=0.01)


def test_the_first_port_that_nobody_listens_on_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KB_UI_PORT", raising=False)
    with socket.socket() as taken:
        taken.bind((serve.HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr(serve, "FIRST_PORT", port)
        monkeypatch.setattr(serve, "LAST_PORT", port)
        with pytest.raises(serve.KbPipelineError, match="Set KB_UI_PORT"):
            serve.free_port()
    assert serve.free_port() == port
    monkeypatch.setenv("KB_UI_PORT", "4321")
    assert serve.free_port() == 4321
