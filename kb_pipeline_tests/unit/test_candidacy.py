"""The quality gate, against answers made without it, and the reading of stored metrics."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kb_pipeline.domain.candidacy import (
    CandidacyConfig,
    VariantMetricsForCandidacy,
    is_candidate,
    read_metrics,
    stored_experiment_types,
)
from kb_pipeline.rules import ExperimentType

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "candidacy.json").read_text(encoding="utf-8"))
NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def _golden_id(row: list[Any]) -> str:
    return " ".join(str(value) for value in row[:7])


@pytest.mark.parametrize("row", GOLDEN["rows"], ids=_golden_id)
def test_the_gate_gives_the_golden_verdict(row: list[Any]) -> None:
    *stored, has_regime, experiment_type, config_name, eligible, reason = row
    values = [NON_FINITE.get(value, value) if isinstance(value, str) else value for value in stored]
    config = GOLDEN["configs"][config_name]
    decision = is_candidate(
        VariantMetricsForCandidacy(*values),
        {} if has_regime else None,
        experiment_type,
        None if config is None else CandidacyConfig(**config),
    )
    assert (decision.eligible, decision.reason) == (eligible, reason)


def test_equality_passes_every_gate() -> None:
    at_the_limits = VariantMetricsForCandidacy(5, 0.25, 0.30, 0.1)
    assert is_candidate(at_the_limits, {}, "sweep").reason == "passed_all_gates"


def test_the_first_failed_gate_names_the_reason() -> None:
    everything_wrong = VariantMetricsForCandidacy(0, 0.9, 0.9, -1.0)
    assert is_candidate(everything_wrong, None, "sweep").reason == "missing_regime_oos"
    assert is_candidate(everything_wrong, {}, "sweep").reason == "insufficient_oos_trades"


def test_a_sharpe_that_is_not_a_number_never_passes() -> None:
    assert (
        is_candidate(VariantMetricsForCandidacy(60, 0.1, None, math.nan), {}, "sweep").reason
        == "invalid_metric"
    )


anything = st.one_of(
    st.none(), st.floats(), st.integers(), st.text(max_size=5), st.booleans(), st.just(10**400)
)


@given(trades=anything, drawdown=anything, gap=anything, sharpe=anything, experiment_type=anything)
def test_the_gate_never_raises_and_passes_only_finite_metrics(
    trades: Any, drawdown: Any, gap: Any, sharpe: Any, experiment_type: Any
) -> None:
    metrics = VariantMetricsForCandidacy(trades, drawdown, gap, sharpe)
    if is_candidate(metrics, {}, experiment_type).eligible:
        given_values = [value for value in (trades, drawdown, gap, sharpe) if value is not None]
        assert all(isinstance(value, int | float) and math.isfinite(value) for value in given_values)


def _read(trades: str | None = "60", drawdown: str | None = "-12.5", sharpe: str | None = "1.2") -> Any:
    return read_metrics([trades], [drawdown], [sharpe])


def test_metrics_are_read_as_fractions_and_counts() -> None:
    read = _read()
    assert (read.trades[0], read.drawdown_fractions[0], read.sharpes[0]) == (60, 0.125, 1.2)
    assert not read.invalid


@pytest.mark.parametrize("absent", [None, "null"])
def test_an_absent_metric_is_not_zero(absent: str | None) -> None:
    read = _read(absent, absent, absent)
    assert np.isnan([read.trades[0], read.drawdown_fractions[0], read.sharpes[0]]).all()
    assert not read.invalid


@pytest.mark.parametrize("text", ['"1.5"', '"-2"', '".5"', '"1e-3"', '"+7"'])
def test_a_decimal_string_is_read_as_a_number_and_counted(text: str) -> None:
    read = _read(sharpe=text)
    assert (read.sharpes[0], read.coerced, read.invalid) == (float(text.strip('"')), 1, {})


@pytest.mark.parametrize(
    "text",
    [
        '"NaN"',
        '"Infinity"',
        "1" + "0" * 400,
        "true",
        '{"v": 1.2}',
        "[1]",
        '"١٢"',
        '"0x10"',
        '""',
        '" 1"',
        '"1_0"',
    ],
)
def test_anything_else_is_an_invalid_metric_and_named(text: str) -> None:
    assert _read(sharpe=text).invalid == {0: "sharpe"}


@pytest.mark.parametrize("text", ["-3", "12.5", "1e18", '"12.5%"', "false"])
def test_a_trade_count_is_a_whole_number_that_can_be(text: str) -> None:
    assert _read(trades=text).invalid == {0: "trades"}


@pytest.mark.parametrize("text", ["250", "-100.1", '"12.5%"'])
def test_a_drawdown_is_at_most_all_of_the_equity(text: str) -> None:
    assert _read(drawdown=text).invalid == {0: "max_drawdown_pct"}


def test_an_experiment_type_is_the_default_only_where_absent() -> None:
    codes = stored_experiment_types([None, "null", '"tune"', '"grid"', "7"], ExperimentType.ABLATION)
    assert codes.tolist() == [2, 2, 0, -1, -1]
