"""Decide whether a run may become a knowledge-base candidate.

Holds the quality gate and the reading of stored metrics. Thresholds and the names of verdicts are
in `rules`; reading runs is storage's work, marking them is the backfill's.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from kb_pipeline import rules
from kb_pipeline.rules import ExperimentType, GateReason, SkipReason

Floats = npt.NDArray[np.float64]

EXPERIMENT_TYPES: Final = tuple(str(member) for member in ExperimentType)
_MANUAL: Final = EXPERIMENT_TYPES.index(ExperimentType.MANUAL)
UNKNOWN_EXPERIMENT_TYPE: Final = -1
"""Code of an experiment type the gate does not know; known ones are positions in EXPERIMENT_TYPES."""

_GATES_IN_ORDER: Final = (
    GateReason.UNKNOWN_EXPERIMENT_TYPE,
    GateReason.MANUAL_EXPERIMENT_EXCLUDED,
    GateReason.MISSING_REGIME_OOS,
    GateReason.INSUFFICIENT_OOS_TRADES,
    GateReason.DRAWDOWN_TOO_HIGH,
    GateReason.OVERFIT_TOO_HIGH,
    GateReason.SHARPE_TOO_LOW,
)
VERDICTS: Final = (*_GATES_IN_ORDER, GateReason.PASSED_ALL_GATES)
"""What `gate_verdicts` answers with: positions in this tuple."""

PASSED: Final = VERDICTS.index(GateReason.PASSED_ALL_GATES)


@dataclass(frozen=True, slots=True)
class CandidacyConfig:
    """Thresholds of the gate. Equality passes.

    Units: trades as a count, drawdown as a fraction of equity, the overfit gap and Sharpe as ratios.
    """

    require_regime: bool = True
    min_trades: float = rules.MIN_OOS_TRADES
    max_drawdown: float = rules.MAX_DRAWDOWN_FRACTION
    max_overfit_gap: float = rules.MAX_OVERFIT_GAP
    min_sharpe: float = rules.MIN_OOS_SHARPE


@dataclass(frozen=True, slots=True)
class VariantMetricsForCandidacy:
    """Out-of-sample metrics of one run; None where the run does not have the metric.

    An absent trade count or drawdown counts as 0; an absent gap or Sharpe skips its gate.
    """

    n_trades_oos: float | None = None
    max_dd_frac_oos: float | None = None
    overfit_gap: float | None = None
    sharpe_oos: float | None = None


METRIC_NAMES: Final = ("n_trades_oos", "max_dd_frac_oos", "overfit_gap", "sharpe_oos")


@dataclass(frozen=True, slots=True)
class CandidacyDecision:
    """The verdict and its reason: the first gate that failed, or `passed_all_gates`."""

    eligible: bool
    reason: GateReason | SkipReason


def gate_verdicts(
    *,
    experiment_types: npt.NDArray[np.int8],
    has_regime: npt.NDArray[np.bool_],
    trades: Floats,
    drawdown_fractions: Floats,
    overfit_gaps: Floats,
    sharpes: Floats,
    config: CandidacyConfig,
) -> npt.NDArray[np.int8]:
    """Return the verdict of each run as a position in VERDICTS, all arrays of shape (runs,).

    NaN means absent and skips its gate; the callers see to it that a metric that is *stored* as
    something that is not a finite number never gets here as one.
    """
    failed = (
        experiment_types == UNKNOWN_EXPERIMENT_TYPE,
        experiment_types == _MANUAL,
        ~has_regime & config.require_regime,
        trades < config.min_trades,
        drawdown_fractions > config.max_drawdown,
        overfit_gaps > config.max_overfit_gap,
        sharpes < config.min_sharpe,
    )
    verdicts = np.full(len(trades), PASSED, dtype=np.int8)
    for position in reversed(range(len(_GATES_IN_ORDER))):
        verdicts[failed[position]] = position
    return verdicts


def experiment_type_code(name: object) -> int:
    """Return the position of an experiment type in EXPERIMENT_TYPES, -1 for one unknown."""
    return EXPERIMENT_TYPES.index(name) if name in EXPERIMENT_TYPES else UNKNOWN_EXPERIMENT_TYPE


def is_candidate(
    metrics: VariantMetricsForCandidacy,
    regime_oos: object | None,
    experiment_type: str,
    config: CandidacyConfig | None = None,
) -> CandidacyDecision:
    """Put one run through the gate: `gate_verdicts` with one row. Never raises.

    For callers with one run at hand. The backfill calls `gate_verdicts` itself, a page at a time; that its
    reading of metrics leads to the same verdicts is what `test_the_backfill_decides_as_is_candidate_does`
    holds it to.

    A metric that is not a finite number never passes: where no gate fails, it is `invalid_metric`.
    """
    trades, drawdown = metrics.n_trades_oos or 0, metrics.max_dd_frac_oos or 0
    usable = {name: _number_or_nan(getattr(metrics, name)) for name in METRIC_NAMES}
    verdict = gate_verdicts(
        experiment_types=np.array([experiment_type_code(experiment_type)], dtype=np.int8),
        has_regime=np.array([regime_oos is not None]),
        trades=np.array([_number_or_nan(trades)]),
        drawdown_fractions=np.array([_number_or_nan(drawdown)]),
        overfit_gaps=np.array([usable["overfit_gap"]]),
        sharpes=np.array([usable["sharpe_oos"]]),
        config=config or CandidacyConfig(),
    )[0]
    broken = any(
        not math.isfinite(usable[name]) and getattr(metrics, name) is not None for name in METRIC_NAMES
    )
    if verdict == PASSED and broken:
        return CandidacyDecision(False, SkipReason.INVALID_METRIC)
    return CandidacyDecision(bool(verdict == PASSED), VERDICTS[verdict])


def _number_or_nan(value: object) -> float:
    try:
        return float(value) if isinstance(value, int | float) else math.nan
    except OverflowError:  # an integer beyond the floats
        return math.nan


# --- Stored metrics ----------------------------------------------------------------------------

_DECIMAL_STRING = re.compile(r'"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?"', re.ASCII)


@dataclass(slots=True)
class StoredMetrics:
    """Metrics of a page of runs as read from their summaries.

    Arrays have shape (runs,); NaN where absent. `invalid` maps a row to the name of the first
    metric that is stored but is not a usable number; `coerced` counts numbers stored as text.
    """

    trades: Floats
    drawdown_fractions: Floats
    sharpes: Floats
    invalid: dict[int, str]
    coerced: int


def read_metrics(
    trades: Sequence[str | None], drawdown_percents: Sequence[str | None], sharpes: Sequence[str | None]
) -> StoredMetrics:
    """Read metrics from the JSON text of each value (None or `null` where absent).

    Finite numbers are taken as they are, ASCII decimal strings are read as numbers and counted.
    Everything else, a negative or fractional count, and a drawdown beyond 100 percent are invalid.
    """
    read = StoredMetrics(np.empty(0), np.empty(0), np.empty(0), {}, 0)
    # the last one read wins the name in `invalid`, so the most telling metric is read last
    read.drawdown_fractions = np.abs(_numbers("max_drawdown_pct", drawdown_percents, read)) / 100
    read.trades = _numbers("trades", trades, read)
    read.sharpes = _numbers("sharpe", sharpes, read)
    too_deep = read.drawdown_fractions > rules.MAX_STORED_DRAWDOWN_PERCENT / 100
    no_count = (read.trades < 0) | (read.trades > rules.MAX_STORED_TRADES) | (read.trades % 1 != 0)
    _mark_invalid(read, too_deep, "max_drawdown_pct")
    _mark_invalid(read, no_count & ~np.isnan(read.trades), "trades")
    return read


def _mark_invalid(read: StoredMetrics, rows: npt.NDArray[np.bool_], name: str) -> None:
    read.invalid.update(dict.fromkeys(np.flatnonzero(rows).tolist(), name))


def _numbers(name: str, texts: Sequence[str | None], read: StoredMetrics) -> Floats:
    """Return one metric of every row; rows that hold no usable number go to `read.invalid`."""
    values = [math.nan] * len(texts)
    for row, text in enumerate(texts):
        if text is None or text == "null":
            continue
        if text[0] == '"' and _DECIMAL_STRING.fullmatch(text):
            read.coerced += 1
            text = text[1:-1]
        try:
            value = float(text)
        except ValueError:
            value = math.inf
        if math.isfinite(value):
            values[row] = value
        else:
            read.invalid[row] = name
    return np.array(values)


def stored_experiment_types(texts: Sequence[str | None], default: ExperimentType) -> npt.NDArray[np.int8]:
    """Return the code of each run's experiment type from its JSON text, the default where absent."""
    known: dict[str | None, int] = {f'"{name}"': code for code, name in enumerate(EXPERIMENT_TYPES)}
    known |= dict.fromkeys((None, "null"), EXPERIMENT_TYPES.index(default))
    return np.array([known.get(text, UNKNOWN_EXPERIMENT_TYPE) for text in texts], dtype=np.int8)


def absent_as_zero(values: Floats) -> Floats:
    """Return the values with absent ones as 0, which is how the gate counts trades and drawdown."""
    return np.nan_to_num(values, nan=0.0)
