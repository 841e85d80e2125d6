"""What a trial of the knowledge base holds: metrics as fractions, its regime's names, its content hash."""

import json
import math
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final

from kb_pipeline.domain.attribution import RegimeIdentity, regime_identity
from kb_pipeline.rules import MAX_STORED_TRADES

SOURCE_COLUMNS: Final = (
    "source_type",
    "tune_id",
    "strategy_entity_id",
    "strategy_name",
    "experiment_type",
    "kb_status",
    "params",
    "timeframe",
    "symbol",
    "objective",
    "objective_score",
    "sharpe_oos",
    "return_percent",
    "max_drawdown_percent",
    "trades_oos",
    "sharpe_is",
    "regime_oos",
)
"""What is read of a source, in order; `params` and `regime_oos` as JSON text, metrics but for
`objective_score` finite or None."""


def trial_of(source: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of `kb_trials` for one source, percent values divided by 100.

    A regime that cannot be read leaves the regime columns None: the trial then serves where no
    regime is asked for. The content hash covers everything but the versions and times.
    """
    params, snapshot = json.loads(source["params"]), _snapshot(source["regime_oos"])
    identity = _identity(snapshot)
    trial: dict[str, Any] = {name: source[name] for name in SOURCE_COLUMNS if name in _COPIED}
    trial |= {
        "objective_score": _finite(source["objective_score"]),
        "params": params,
        "params_fingerprint": params_fingerprint(params),
        "return_fraction_oos": _fraction(source["return_percent"]),
        "max_drawdown_fraction_oos": _absolute(_fraction(source["max_drawdown_percent"])),
        "trades_oos": _count(source["trades_oos"]),
        "regime_schema_version": identity.schema_version if identity else None,
        "regime_oos": snapshot if identity else None,
        "regime_key": identity.regime_key if identity else None,
        "trend_tag": identity.trend_tag if identity else None,
        "vol_tag": identity.vol_tag if identity else None,
        "efficiency_tag": identity.efficiency_tag if identity else None,
    }
    content = json.dumps(trial, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return trial | {"content_hash": sha256(content.encode()).hexdigest()}


_COPIED: Final = frozenset(SOURCE_COLUMNS) - {
    *("objective_score", "params", "regime_oos", "return_percent", "max_drawdown_percent", "trades_oos"),
}


def params_fingerprint(params: object) -> str:
    """Return the SHA-256 of parameters as JSON with sorted keys and no spaces."""
    return sha256(json.dumps(params, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _snapshot(text: str | None) -> dict[str, Any] | None:
    try:
        snapshot = json.loads(text) if text else None
    except (ValueError, RecursionError):  # a number of too many digits, or nesting without end
        return None
    return snapshot if isinstance(snapshot, dict) else None


def _identity(snapshot: Mapping[str, Any] | None) -> RegimeIdentity | None:
    if snapshot is None:
        return None
    texts = (json.dumps(snapshot.get(name)) for name in ("schema_version", "regime_tags"))
    identity = regime_identity(*texts)
    return identity if isinstance(identity, RegimeIdentity) else None


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _fraction(percent: float | None) -> float | None:
    return None if percent is None else percent / 100


def _absolute(value: float | None) -> float | None:
    return None if value is None else abs(value)


def _count(value: float | None) -> int | None:
    usable = value is not None and value == int(value) and 0 <= value <= MAX_STORED_TRADES
    return int(value) if usable and value is not None else None
