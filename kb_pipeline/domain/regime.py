"""Describe the market regime of windows of bars: the snapshot `regime_v1_1`.

Holds the snapshot, its stored form, and its computation for one window or for many at once. The
numbers come from `features`, the tags from `tags`; which window a run was scored in is the work of
`windows`.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from kb_pipeline.domain.features import (
    FloatArray,
    IntArray,
    WindowFeatures,
    compute_features,
    distinct_windows,
)
from kb_pipeline.domain.flags import Flags, flagged_names, pack_flags
from kb_pipeline.domain.price_bars import PriceBars, time_texts
from kb_pipeline.domain.stored_snapshot import read_stored_fields
from kb_pipeline.domain.tags import TAGS, tag_flags
from kb_pipeline.errors import (
    BadArgumentError,
    NoBarsError,
    NonFinitePriceError,
)
from kb_pipeline.rules import (
    FEATURE_DEFAULTS,
    FEATURE_NAMES,
    FEATURE_PARAMS,
    MAX_WINDOW_BARS,
    MIN_WINDOW_BARS,
    REGIME_SCHEMA_VERSION,
    SnapshotWarning,
)

if TYPE_CHECKING:
    import pandas as pd

_WARNINGS: Final = tuple(warning.value for warning in SnapshotWarning)
_to_json = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


@dataclass(frozen=True, kw_only=True)
class RegimeSnapshot:
    """The regime of one window; the fields are the stored ones, in stored order.

    Percentages (`_pct`) are fractions of the last close. A feature named in `undefined_features`
    could not be computed and holds the default that readers of the schema expect.
    """

    schema_version: str = REGIME_SCHEMA_VERSION
    feature_params: dict[str, Any] = field(default_factory=lambda: dict(FEATURE_PARAMS))
    timeframe: str | None = None
    computed_at: str = ""
    computation_source: str = ""
    n_bars: int = 0
    effective_n_bars: int = 0
    ts_start: str = ""
    ts_end: str = ""
    atr_pct: float = 0.0
    std_pct: float = 0.0
    bb_width_pct: float = 0.0
    range_pct: float = 0.0
    trend_strength: float = 0.0
    trend_dir: int = 0
    zscore: float = 0.0
    rsi: float = FEATURE_DEFAULTS["rsi"]
    return_pct: float = 0.0
    drift_bps_per_bar: float = 0.0
    efficiency_ratio: float = FEATURE_DEFAULTS["efficiency_ratio"]
    instrument: str | None = None
    source: str = ""
    regime_tags: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    undefined_features: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return the stored form: JSON values, in stored order."""
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: Any) -> Self:
        """Return the snapshot that a stored form holds.

        Unknown fields are ignored and missing ones take their defaults; a feature that is missing or
        null is undefined.

        Raises:
            UnknownSchemaVersionError: The schema_version is missing, or none that this project reads.
            InvalidSnapshotError: A field cannot be read, or two tags exclude each other.
        """
        known = read_stored_fields(stored, {item.name: item.type for item in fields(cls)})
        undefined = known.get("undefined_features", ())
        known["undefined_features"] = [
            name for name in FEATURE_NAMES if name in undefined or name not in known
        ]
        return cls(**known)


STORED_FIELDS: Final = tuple(item.name for item in fields(RegimeSnapshot))
"""The fields of a stored snapshot, in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegimeSnapshots:
    """Snapshots of many windows as columns; every array has shape (windows,).

    `features` holds them by name, NaN where undefined. `tags`, `warnings` and `undefined` hold one
    bit for each of `TAGS`, `SnapshotWarning` and `FEATURE_NAMES`. `ts_start` and `ts_end` are times
    as `PriceBars` has them. The other fields are the same in every snapshot.
    """

    source: str
    instrument: str | None
    timeframe: str | None
    computed_at: str
    n_bars: IntArray
    ts_start: NDArray[Any]
    ts_end: NDArray[Any]
    features: dict[str, FloatArray]
    tags: Flags
    warnings: Flags
    undefined: Flags

    def __len__(self) -> int:
        return int(self.n_bars.size)

    def __getitem__(self, row: int) -> RegimeSnapshot:
        return RegimeSnapshot(
            timeframe=self.timeframe,
            computed_at=self.computed_at,
            computation_source=self.source,
            n_bars=int(self.n_bars[row]),
            effective_n_bars=int(self.n_bars[row]),
            ts_start=time_texts(self.ts_start[[row]])[0],
            ts_end=time_texts(self.ts_end[[row]])[0],
            **{name: _stored(name, self.features[name][[row]]).item() for name in FEATURE_NAMES},
            instrument=self.instrument,
            source=self.source,
            regime_tags=flagged_names(self.tags[row], TAGS),
            warnings=flagged_names(self.warnings[row], _WARNINGS),
            undefined_features=flagged_names(self.undefined[row], FEATURE_NAMES),
        )

    def to_json(self) -> list[str]:
        """Return the stored JSON of every snapshot: what `to_dict` of each would give, in compact form."""
        if not len(self):
            return []
        bars = _number_texts(self.n_bars)
        columns = {
            "n_bars": bars,
            "effective_n_bars": bars,
            "ts_start": map(_to_json, time_texts(self.ts_start)),
            "ts_end": map(_to_json, time_texts(self.ts_end)),
            **{name: _number_texts(_stored(name, self.features[name])) for name in FEATURE_NAMES},
            "regime_tags": _list_texts(self.tags, TAGS),
            "warnings": _list_texts(self.warnings, _WARNINGS),
            "undefined_features": _list_texts(self.undefined, FEATURE_NAMES),
        }
        constants = {name: _to_json(value).replace("%", "%%") for name, value in self[0].to_dict().items()}
        template = ",".join(
            f'"{name}":{"%s" if name in columns else constants[name]}' for name in STORED_FIELDS
        )
        varying = (columns[name] for name in STORED_FIELDS if name in columns)
        return [f"{{{template}}}" % row for row in zip(*varying, strict=True)]


def compute_regime_snapshot(
    df: "pd.DataFrame | PriceBars",
    source: str = "live",
    instrument: str | None = None,
    timeframe: str | None = None,
) -> RegimeSnapshot:
    """Return the regime of the last 200 of these bars, computed now.

    Args:
        df: Bars, oldest first, as `compute_regime_snapshots` takes them.
        source: Stored as computation_source and source.
        instrument: Stored as given.
        timeframe: Stored as given.

    Raises:
        NoBarsError: There are no bars.
        NonFinitePriceError: A price among the last 200 bars is NaN or infinite.
        BadArgumentError: A price column cannot be used.
    """
    if not len(df):
        raise NoBarsError("A regime was asked of no bars, but needs at least one.")
    bars = _as_bars(df)
    return compute_regime_snapshots(
        bars, [0], [len(bars)], source=source, instrument=instrument, timeframe=timeframe
    )[0]


def compute_regime_snapshots(
    bars: "pd.DataFrame | PriceBars",
    starts: ArrayLike,
    ends: ArrayLike,
    *,
    source: str = "backfill",
    instrument: str | None = None,
    timeframe: str | None = None,
    computed_at: datetime | None = None,
) -> RegimeSnapshots:
    """Return the regimes of many windows of one series, one row a window, in the order given.

    Args:
        bars: Bars in ascending time order; a frame as `PriceBars.from_frame` reads it.
        starts: Position of the first bar of each window, shape (windows,), from 0.
        ends: Position behind its last bar: window i is the bars starts[i] to ends[i] - 1. Of more
            than 200 bars, the last 200 count.
        source: Stored as computation_source and source.
        instrument: Stored as given.
        timeframe: Stored as given.
        computed_at: Aware time of the computation. None reads the clock, as nothing else here does.

    Raises:
        NoBarsError: A window holds no bars.
        NonFinitePriceError: A price inside a window is NaN or infinite; bars that no window's last
            200 include may hold anything.
        BadArgumentError: A window lies outside the series, or a price column cannot be used.
    """
    series = _as_bars(bars)
    starts, ends = _checked_windows(starts, ends, len(series))
    starts, ends, row = distinct_windows(np.maximum(starts, ends - MAX_WINDOW_BARS), ends)
    computed = _compute(series, starts, ends)
    undefined = pack_flags(np.isnan(computed.values[name]) for name in FEATURE_NAMES)
    tags = tag_flags(computed.values)
    return RegimeSnapshots(
        source=source,
        instrument=instrument,
        timeframe=timeframe,
        computed_at=_utc_text(computed_at or datetime.now(UTC)),
        n_bars=(ends - starts)[row],
        ts_start=series.times[starts][row],
        ts_end=series.times[ends - 1][row],
        # Popped, because both copies of every feature at once would be most of the memory.
        features={name: computed.values.pop(name)[row] for name in FEATURE_NAMES},
        tags=tags[row],
        warnings=_warning_flags(computed, ends - starts)[row],
        undefined=undefined[row],
    )


# --- Computing ---------------------------------------------------------------------------------


def _as_bars(bars: "pd.DataFrame | PriceBars") -> PriceBars:
    return bars if isinstance(bars, PriceBars) else PriceBars.from_frame(bars)


def _checked_windows(starts: ArrayLike, ends: ArrayLike, bars: int) -> tuple[IntArray, IntArray]:
    first, behind = np.atleast_1d(starts), np.atleast_1d(ends)
    if first.ndim != 1 or first.shape != behind.shape:
        raise BadArgumentError(
            f"starts and ends have shapes {first.shape} and {behind.shape}, needed one (windows,)."
        )
    if first.size and not (first.dtype.kind in "iu" and behind.dtype.kind in "iu"):
        raise BadArgumentError(
            f"starts and ends are {first.dtype} and {behind.dtype}, needed whole bar positions."
        )
    for window in np.flatnonzero((first < 0) | (behind > bars) | (first >= behind))[:1]:
        start, end = first[window], behind[window]
        if start == end:
            raise NoBarsError(f"Window {window}, bars [{start}, {end}), is empty; a regime needs a bar.")
        raise BadArgumentError(
            f"Window {window} is the bars [{start}, {end}), needed 0 <= start < end <= {bars}, "
            "the number of bars."
        )
    return first.astype(np.int64), behind.astype(np.int64)


def _compute(bars: PriceBars, starts: IntArray, ends: IntArray) -> WindowFeatures:
    """Compute on the bars that some window holds: the others cost time, and may hold anything."""
    windows_opened = np.bincount(starts, minlength=len(bars) + 1)
    windows_closed = np.bincount(ends, minlength=len(bars) + 1)
    is_used = np.cumsum(windows_opened - windows_closed)[:-1] > 0
    _require_finite(bars, is_used)
    place = np.concatenate(([0], np.cumsum(is_used)))
    return compute_features(
        bars.high[is_used], bars.low[is_used], bars.close[is_used], place[starts], place[ends]
    )


def _require_finite(bars: PriceBars, is_used: NDArray[np.bool_]) -> None:
    for name in ("high", "low", "close"):
        prices = getattr(bars, name)
        for position in np.flatnonzero(is_used & ~np.isfinite(prices))[:1]:
            time = f" ({text})" if (text := time_texts(bars.times[[position]])[0]) else ""
            raise NonFinitePriceError(
                f"{name} of bar {position}{time} was {prices[position]}, but every price of a window "
                "must be finite. Repair the bars, or choose a window without this one."
            )


def _warning_flags(computed: WindowFeatures, n_bars: IntArray) -> Flags:
    is_short = n_bars < MIN_WINDOW_BARS
    holds = {
        SnapshotWarning.INSUFFICIENT_BARS: is_short,
        SnapshotWarning.LOW_EFFECTIVE_BARS: is_short,
        SnapshotWarning.POSSIBLE_BAD_TICKS: computed.possible_bad_ticks,
        SnapshotWarning.ZERO_ATR: computed.zero_atr,
        SnapshotWarning.ZERO_VARIANCE: computed.zero_variance,
    }
    return pack_flags(holds[warning] for warning in SnapshotWarning)


# --- Writing -----------------------------------------------------------------------------------


def _utc_text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _stored(name: str, values: FloatArray) -> NDArray[Any]:
    default = FEATURE_DEFAULTS.get(name, 0.0)
    stored = np.where(np.isnan(values), default, values)
    return stored.astype(np.int64) if isinstance(default, int) else stored


def _number_texts(numbers: NDArray[Any]) -> list[str]:
    """Return the shortest text that reads back as the same number; Arrow writes it faster than repr."""
    texts: list[str] = pa.array(numbers).cast(pa.string()).to_pylist()
    return texts


def _list_texts(flags: Flags, names: Sequence[str]) -> list[str]:
    texts = {bits: _to_json(flagged_names(bits, names)) for bits in np.unique(flags).tolist()}
    return [texts[bits] for bits in flags.tolist()]
