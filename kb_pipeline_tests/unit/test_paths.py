"""Where things lie, in a checkout and installed."""

import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from kb_pipeline.orchestration import instance
from kb_pipeline.storage import paths

ROOT = Path(__file__).parents[2]


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
    assert paths.migrations_directory() == ROOT / "migrations"
    assert paths.data_directory() == ROOT / "data"


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


def test_the_wheel_brings_what_is_looked_for_beside_the_package(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    _, _, names = zip(*(it.partition("/share/kb_pipeline/") for it in ZipFile(wheel).namelist()), strict=True)
    brought = {name for name in names if name}
    assert brought == {"dagster.yaml", "workspace.yaml"} | {
        f"migrations/{it.name}" for it in (ROOT / "migrations").iterdir()
    }
    built = (ROOT / "deploy" / "Dockerfile").read_text().rpartition("\nFROM ")[0]
    assert "dagster.yaml workspace.yaml" in built, "the image builds the wheel, too"


def test_dagster_s_settings_are_linked_to_and_one_s_own_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KB_DAGSTER_DATABASE_URL", "postgresql+psycopg2://nobody@127.0.0.1:1/none")
    for variable in (*instance.MODULE_VARIABLES, instance.BATCH_VARIABLE):
        monkeypatch.setenv(variable, "")
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    placed = tmp_path / "dagster.yaml"
    for before in (None, tmp_path / "gone"):
        if before:
            placed.unlink()
            placed.symlink_to(before)
        instance.prepare_environment()
        assert placed.readlink() == ROOT / "dagster.yaml"
    placed.unlink()
    placed.write_text("telemetry: {enabled: false}")
    instance.prepare_environment()
    assert placed.read_text() == "telemetry: {enabled: false}"
