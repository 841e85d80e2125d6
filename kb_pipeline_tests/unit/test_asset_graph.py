"""The code location as Dagster loads it: what is there, what it hangs on, and what a person may set."""

import click
import dagster as dg
import pytest

from kb_pipeline.cli import backfills
from kb_pipeline.definitions import defs

WHERE = {"workspaces", "symbols"}
"""Set by name in a run, by id and by file in a command."""
ASKED_OF_COMMANDS_ALONE = {"workspace_id", "ohlcv_file", "symbol", "dry_run", "as_json", "listed"}
OWN_DEFAULTS = {"limit", "timeframe"}
"""A run goes through all rows, and takes the bars of the one file there is."""

GRAPH = {
    "backtest_runs": ("platform", [], [], None),
    "backtest_tunes": ("platform", [], [], None),
    "ohlcv": ("prices", [], ["ohlcv_coverage", "ohlcv_schema"], "1"),
    "regime_snapshots": ("regimes", ["backtest_runs", "ohlcv"], ["regime_dry_run"], "regime_v1_1"),
    "candidacy_decisions": (
        "knowledge",
        ["backtest_runs", "regime_snapshots"],
        [
            *("batches_bounded", "candidacy_dry_run", "changes_audited_once", "human_decisions_kept"),
            "ledger_conserved",
        ],
        "1",
    ),
    "tune_regime_attribution": (
        "regimes",
        ["backtest_tunes", "regime_snapshots"],
        [
            *("attribution_dry_run", "decisions_repeatable", "fingerprint_matches_key", "regime_drift"),
            "tags_match_key",
        ],
        "default_v1",
    ),
    "kb_trials": ("knowledge", ["candidacy_decisions", "tune_regime_attribution"], [], "1"),
    "regime_uplift": ("knowledge", ["tune_regime_attribution"], [], "1"),
}
"""Each asset's group, what it is made from, its checks, and the version of its code."""


def _specs() -> dict[str, dg.AssetSpec]:
    return {it.key.to_user_string(): it for it in defs.resolve_all_asset_specs()}


def test_the_graph_is_this_one() -> None:
    checks: dict[str, list[str]] = {}
    for check in defs.resolve_asset_graph().asset_check_keys:
        checks.setdefault(check.asset_key.to_user_string(), []).append(check.name)
    found = {
        name: (
            spec.group_name,
            sorted(it.asset_key.to_user_string() for it in spec.deps),
            sorted(checks.get(name, [])),
            spec.code_version,
        )
        for name, spec in _specs().items()
    }
    assert found == GRAPH


@pytest.mark.parametrize("name", GRAPH)
def test_every_asset_says_what_it_is_whose_and_how_it_is_kept(name: str) -> None:
    spec = _specs()[name]
    assert spec.description
    assert spec.owners == ["team:quant-research"]
    assert spec.kinds
    assert spec.partitions_def is not None
    is_ours = spec.code_version is not None
    assert bool({"kb/writes", "kb/reads"} & spec.tags.keys()) == is_ours
    if is_ours:
        assert defs.resolve_assets_def(name).backfill_policy == dg.BackfillPolicy.single_run()


def test_only_bars_that_break_their_schema_stop_what_is_made_from_them() -> None:
    graph = defs.resolve_asset_graph()
    blocking = [it.name for it in graph.asset_check_keys if graph.get(it).blocking]  # type: ignore[attr-defined]
    assert blocking == ["ohlcv_schema"]


def _fields(asset: str) -> dict[str, dg.Field]:
    fields: dict[str, dg.Field] = defs.resolve_assets_def(asset).op.config_field.config_type.fields  # type: ignore[union-attr, attr-defined]
    return fields


@pytest.mark.parametrize("asset", [name for name, (*_, version) in GRAPH.items() if version])
def test_the_launchpad_shows_each_setting_with_its_meaning_and_default(asset: str) -> None:
    for name, field in _fields(asset).items():
        assert field.description, name
        # What has no default of its own may be left empty, and its meaning says so.
        assert field.default_provided or "Empty:" in field.description, name


@pytest.mark.parametrize(
    ("asset", "command"),
    [
        ("regime_snapshots", backfills.backfill_regime),
        ("candidacy_decisions", backfills.backfill_candidacy),
        ("tune_regime_attribution", backfills.backfill_attribution),
        ("kb_trials", backfills.ingest_trials),
    ],
)
def test_an_asset_is_set_as_its_command_is(asset: str, command: click.Command) -> None:
    options = command.make_context("command", [], resilient_parsing=True).params
    fields = _fields(asset)
    assert fields.keys() - WHERE == options.keys() - ASKED_OF_COMMANDS_ALONE
    for name in fields.keys() - WHERE - OWN_DEFAULTS:
        default = fields[name].default_value if fields[name].default_provided else None
        assert default == options[name], name
