"""Where things lie, in a checkout and installed."""

import sys
from pathlib import Path

import pytest

from kb_pipeline.storage import paths


def test_state_lies_in_dot_kb_unless_kb_home_or_the_caller_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for unset in ("", " "):
        monkeypatch.setenv("KB_HOME", unset)
        assert paths.kb_home() == tmp_path / ".kb"
    monkeypatch.setenv("KB_HOME", "state")
    assert paths.kb_home() == tmp_path / "state"
    assert paths.postgres_directory() == tmp_path / "state" / "postgres"
    assert paths.kb_home(Path("given")) == tmp_path / "given"


def test_a_short_symlink_stands_for_a_path_too_long(tmp_path: Path) -> None:
    (tmp_path / "long").mkdir()
    (tmp_path / "s").symlink_to(tmp_path / "long")
    assert paths.kb_home(tmp_path / "s") == tmp_path / "s"


def test_a_checkout_uses_its_own_migrations_and_data() -> None:
    root = Path(__file__).parents[2]
    assert paths.migrations_directory() == root / "migrations"
    assert paths.data_directory() == root / "data"


def test_prices_and_calendars_lie_in_the_data_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KB_DATA_ROOT", " ")
    assert paths.symbols_file() == paths.data_directory() / "symbols.yaml"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KB_DATA_ROOT", "mine")
    assert paths.symbols_file() == tmp_path / "mine" / "symbols.yaml"
    assert paths.symbols_file(tmp_path) == tmp_path / "symbols.yaml"


def test_an_installation_uses_what_the_wheel_brought_and_not_a_neighbours_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site_packages = tmp_path / "site-packages"
    (site_packages / "migrations").mkdir(parents=True)
    monkeypatch.setattr(paths, "project_root", lambda: site_packages)
    monkeypatch.chdir(tmp_path)
    assert paths.migrations_directory() == Path(sys.prefix) / "share" / "kb_pipeline" / "migrations"
    assert paths.data_directory() == tmp_path / "data"
