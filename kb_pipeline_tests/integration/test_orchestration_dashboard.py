"""The page that the asset `regime_uplift` writes, and where it says it is."""

from pathlib import Path
from uuid import UUID

import dagster as dg
import pytest

from kb_pipeline.backfills.attribution import AttributionRequest, backfill_attribution
from kb_pipeline.dashboard.page import dashboard_path
from kb_pipeline.definitions import build_definitions
from kb_pipeline.orchestration.partitions import WORKSPACES
from kb_pipeline.orchestration.resources import Database, Prices
from kb_pipeline.storage.postgres import Connection
from kb_pipeline_tests.acceptance.commands import ANY_ID
from kb_pipeline_tests.builders import TREND_SNAPSHOT, add_trial, add_tune
from kb_pipeline_tests.conftest import Workspace

_UPLIFT = dg.AssetKey("regime_uplift")


@pytest.fixture
def definitions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dg.Definitions:
    """The code location with a home of its own and a data root without prices."""
    monkeypatch.setenv("KB_HOME", str(tmp_path / "home"))
    (tmp_path / "data" / "ohlcv").mkdir(parents=True)
    (tmp_path / "data" / "symbols.yaml").write_text("symbols: {}\n")
    return build_definitions(database=Database(), prices=Prices(tmp_path / "data"))


def test_a_materialization_writes_the_page_of_its_workspace_and_says_where(
    connection: Connection, workspace: Workspace, definitions: dg.Definitions, tmp_path: Path
) -> None:
    tune_id = add_tune(connection, workspace)
    add_trial(connection, workspace, tune_id, sharpe=1.5, regime=TREND_SNAPSHOT)
    backfill_attribution(connection, AttributionRequest(workspace_id=workspace.id), dry_run=False)
    with dg.DagsterInstance.ephemeral(tempdir=str(tmp_path)) as instance:
        instance.add_dynamic_partitions(str(WORKSPACES.name), ["quant"])
        result = definitions.resolve_implicit_global_asset_job_def().execute_in_process(
            instance=instance, asset_selection=[_UPLIFT], partition_key="quant"
        )
    assert result.success
    (materialization,) = result.asset_materializations_for_node("regime_uplift")
    page = tmp_path / "home" / "dashboards" / "quant.html"
    assert materialization.metadata["dashboard"].value == str(page)
    assert materialization.metadata["dashboard_bytes"].value == page.stat().st_size
    text = page.read_text(encoding="utf-8")
    assert "uplift measured 20" in text, "the page is written after the measurement"
    assert str(tune_id) in text


@pytest.mark.parametrize("slug", ["../../etc/passwd", "a/b", ".hidden", "", "a\nb", "quant\n", "x" * 200])
def test_a_short_name_that_is_no_file_name_gives_way_to_the_id(
    slug: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KB_HOME", str(tmp_path))
    assert dashboard_path(UUID(ANY_ID), slug) == tmp_path / "dashboards" / f"{ANY_ID}.html"
