"""The connection ends just before a COMMIT reaches the server, or just after."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from kb_pipeline.rules import BackfillKind
from kb_pipeline.storage.paths import postgres_directory
from kb_pipeline_tests.conftest import as_app
from kb_pipeline_tests.faults.harness import KINDS, Scene
from kb_pipeline_tests.faults.proxy import line

SOCKET = ".s.PGSQL.5432"


@pytest.fixture
def cable() -> Iterator[Path]:
    """Return a directory for a socket; short, because a socket's path must be."""
    with tempfile.TemporaryDirectory(prefix="kbline", dir="/tmp") as directory:
        yield Path(directory)


def _written_until_cut(
    stage: Scene, cable: Path, kb_home: Path, kind: BackfillKind, *, commit: int, after: bool
) -> int:
    stage.begin()
    through = as_app(stage.url).replace(quote(str(postgres_directory(kb_home))), quote(str(cable)))
    with line(cable, postgres_directory(kb_home) / SOCKET, commit=commit, after=after) as opened:
        working = stage.start(kind, KB_DATABASE_URL=through)
        assert working.end() == 1
        assert opened.was_cut
        assert "Run the same command again to go on." in working.printed(".err")
    (cable / SOCKET).unlink()
    stage.wait_alone()
    stage.keeps_its_promises()
    return stage.written(kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_whose_commit_was_cut_off_is_done_once_whether_or_not_it_arrived(
    stage: Scene, undisturbed: Any, cable: Path, kb_home: Path, kind: BackfillKind
) -> None:
    commit = stage.chance.randint(2, 4)  # the first one is before the batches
    written = {}
    for after in (False, True):
        written[after] = _written_until_cut(stage, cable, kb_home, kind, commit=commit, after=after)
        stage.finishes(kind, undisturbed(kind))
    assert written[False] < written[True] <= written[False] + 10, "the commit that arrived has counted"
