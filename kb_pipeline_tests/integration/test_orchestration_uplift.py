"""Uplift as an asset and a job: what a materialization shows, and that the examples' steps are there."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from kb_pipeline.backfills.attribution import AttributionRequest, backfill_attribution
from kb_pipeline.definitions import build_definitions
from kb_pipeline.orchestration.partitions import WORKSPACES
from kb_pipeline.orchestration.resources import Database, Prices
from kb_pipeline.storage.postgres import Connection
from kb_pipeline.storage.regime_uplift import read_uplift
from kb_pipeline_tests.builders import TREND_SNAPSHOT, add_trial, add_tune
from kb_pipeline_tests.conftest import Workspace

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def instance(workspace: Workspace, tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """An instance of the test's own that knows the workspace."""
    with dg.DagsterInstance.ephemeral(tempdir=str(tmp_path)) as found:
        found.add_dynamic_partitions(str(WORKSPACES.name), ["quant"])
        yield found


@pytest.fixture
def definitions(tmp_path: Path) -> dg.Definitions:
    """The code location over a data root without prices."""
    (tmp_path / "data" / "ohlcv").mkdir(parents=True)
    (tmp_path / "data" / "symbols.yaml").write_text("symbols: {}\n")
    return build_definitions(database=Database(), prices=Prices(tmp_path / "data"))


def _six_tunes(connection: Connection, workspace: Workspace) -> None:
    for number in range(6):
        tune_id = add_tune(connection, workspace)
        for params, sharpe in (({"n": 1}, 1.0 + number), ({"n": 2}, 0.0)):
            add_trial(
                connection,
                workspace,
                tune_id,
                params=params,
                sharpe=sharpe,
                regime=TREND_SNAPSHOT,
                run={"dataset_meta": {"symbol": f"S{number % 3}", "timeframe": "1d"}},
            )
    backfill_attribution(connection, AttributionRequest(workspace_id=workspace.id), dry_run=False)


def _metadata(instance: dg.DagsterInstance) -> dict[str, Any]:
    event = instance.get_latest_materialization_event(dg.AssetKey("regime_uplift"))
    assert event is not None
    assert event.asset_materialization is not None
    assert event.asset_materialization.partition == "quant"
    return dict(event.asset_materialization.metadata)


def test_a_materialization_shows_numbers_tables_a_picture_and_the_text(
    connection: Connection, workspace: Workspace, instance: dg.DagsterInstance, definitions: dg.Definitions
) -> None:
    _six_tunes(connection, workspace)
    result = definitions.resolve_implicit_global_asset_job_def().execute_in_process(
        instance=instance, asset_selection=[dg.AssetKey("regime_uplift")], partition_key="quant"
    )
    assert result.success
    found = _metadata(instance)
    assert [found[name].value for name in ("scanned", "known", "unknown", "thin_regimes")] == [6, 6, 0, 0]
    (row,) = found["by_regime"].records
    assert (row.data["regime"], row.data["n"]) == ("uptrend high_vol efficient", "6 of 6")
    assert found["by_strategy"].records[0].data["strategy"] == "trend_following"
    assert found["uplift_plot"].value.startswith("![Quant: uplift by regime")
    assert "data:image/png;base64,iVBOR" in found["uplift_plot"].value
    assert "interval    Meant to hold" in found["report"].value
    assert read_uplift(connection, workspace.id) is not None


@pytest.mark.parametrize("job", ["measure_uplift", "everything"])
def test_the_jobs_of_the_examples_measure_the_workspaces_they_name(
    job: str,
    connection: Connection,
    workspace: Workspace,
    instance: dg.DagsterInstance,
    definitions: dg.Definitions,
) -> None:
    _six_tunes(connection, workspace)
    text = (EXAMPLES / f"{job}.yaml").read_text().replace("[demo]", "[quant]")
    result = definitions.resolve_job_def(job).execute_in_process(
        instance=instance, run_config=yaml.safe_load(text)
    )
    assert result.success
    assert _metadata(instance)["known"].value == 6
