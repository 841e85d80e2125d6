"""What `make ui` does about ports, processes and a second one of its kind."""

import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from kb_pipeline.orchestration import instance, serve
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
    assert serve.candidate_ports() == range(3000, 3100)
    with socket.socket() as taken:
        taken.bind((serve.HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setenv("KB_UI_PORT", str(port))
        with pytest.raises(serve.KbPipelineError, match=f"Port {port} is taken, .* Set KB_UI_PORT"):
            serve.free_port(serve.candidate_ports())
    assert serve.free_port(serve.candidate_ports()) == port


@pytest.mark.parametrize("given", ["abc", "80000", "0", "-1", "３０００"])
def test_what_is_no_port_is_refused_by_name_before_anything_is_started(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, given: str
) -> None:
    monkeypatch.setenv("KB_HOME", str(tmp_path / "kb"))
    monkeypatch.setenv("KB_UI_PORT", given)
    with handlers_kept():
        assert serve.main() == 2
    assert f"KB_UI_PORT is '{given}'; it must be a whole number from 1 to 65535" in capsys.readouterr().err
    assert not (tmp_path / "kb").exists()


def test_a_second_page_on_the_same_instance_is_told_where_the_first_one_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for variable in (*instance.MODULE_VARIABLES, instance.BATCH_VARIABLE):
        monkeypatch.setenv(variable, "")
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.setenv("KB_DAGSTER_DATABASE_URL", "postgresql+psycopg2://nobody@127.0.0.1:1/none")
    with serve.only_one(tmp_path) as lock:
        lock.write("http://127.0.0.1:3000 (process 7)\n")
        lock.flush()
        with handlers_kept():
            assert serve.main() == 75
    assert "already running at http://127.0.0.1:3000 (process 7)" in capsys.readouterr().err
    # It goes with whoever holds it.
    with serve.only_one(tmp_path) as lock:
        assert lock.read() == ""


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Give the process back what it did on signals."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)
