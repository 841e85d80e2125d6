"""Every rule of the domain that is a number or a name.

Thresholds, tag names and their order, schema versions, statuses, batch sizes and time limits. Only
the standard library is imported here, so that anything may depend on it. How a rule is applied is
the work of `domain`; what is done about it is the work of `backfills`.
"""

import sys
from enum import StrEnum
from typing import Final, NamedTuple

# --- Regime snapshot ---------------------------------------------------------------------------

REGIME_SCHEMA_VERSION: Final = "regime_v1_1"
"""Layout of the snapshots this project writes."""

READABLE_REGIME_SCHEMA_VERSIONS: Final = frozenset({"regime_v1", "regime_v1_1"})
"""Layouts this project reads. Any other version is refused by name, never guessed."""

MAX_WINDOW_BARS: Final = 200
"""A snapshot describes at most the last 200 bars it is given."""

MIN_WINDOW_BARS: Final = 50
"""Fewer bars than the trend lookback leave half of the features undefined."""

ATR_PERIOD_BARS: Final = 14
"""Span of the exponential mean of the true range: alpha = 2 / (14 + 1), not Wilder's 1/14."""

RSI_PERIOD_BARS: Final = 14
"""Span of the exponential means of gains and losses: alpha = 2 / (14 + 1)."""

BAND_PERIOD_BARS: Final = 20
"""Closes in the Bollinger bands, in std_pct and in the z-score."""

BAND_WIDTH_STD: Final = 2.0
"""Bands lie this many standard deviations from their mean, so their width is twice that."""

TREND_LOOKBACK_BARS: Final = 50
"""Closes in the trend line."""

TREND_SLOPE_MIN_PER_BAR: Final = 0.001
"""A slope of at most 0.1 % of the mean close per bar has no direction."""

EFFICIENCY_MAX_PERIOD_BARS: Final = 50
"""The efficiency ratio looks back min(50, bars // 2); Kaufman's own choice was 10."""

BAD_TICK_RETURN_FRACTION: Final = 0.5
"""A move of more than half between adjacent closes is probably an unadjusted split or a bad tick."""

FEATURE_NAMES: Final = (
    "atr_pct",
    "std_pct",
    "bb_width_pct",
    "range_pct",
    "trend_strength",
    "trend_dir",
    "zscore",
    "rsi",
    "return_pct",
    "drift_bps_per_bar",
    "efficiency_ratio",
)
"""The features of a snapshot, in stored order."""

FEATURE_PARAMS: Final = {
    "atr_period": ATR_PERIOD_BARS,
    "rsi_period": RSI_PERIOD_BARS,
    "bb_period": BAND_PERIOD_BARS,
    "bb_k": BAND_WIDTH_STD,
    "z_period": BAND_PERIOD_BARS,
    "trend_lookback": TREND_LOOKBACK_BARS,
}
"""Stored with every snapshot, in this order."""

FEATURE_DEFAULTS: Final = {
    "rsi": 100.0,
    "efficiency_ratio": 0.5,
    "trend_dir": 0,
}
"""What readers of the schema find for a feature that could not be computed; 0.0 where not named."""


class SnapshotWarning(StrEnum):
    """What a reader of a snapshot should know, in stored order."""

    INSUFFICIENT_BARS = "insufficient_bars"
    LOW_EFFECTIVE_BARS = "low_effective_bars"
    POSSIBLE_BAD_TICKS = "possible_bad_ticks"
    ZERO_ATR = "zero_atr"
    ZERO_VARIANCE = "zero_variance"


# --- Tags, ruleset default_v1 ------------------------------------------------------------------

TAG_RULESET_ID: Final = "default_v1"


class TagRule(NamedTuple):
    """One comparison. A tag holds when all rules of one of its groups hold."""

    rule_id: str
    tag: str
    metric: str
    op: str
    threshold: float
    group: str = "default"
    transform: str | None = None
    units: str | None = None


TAG_RULES: Final = (
    TagRule("uptrend_strength", "uptrend", "trend_strength", ">=", 0.6),
    TagRule("uptrend_dir", "uptrend", "trend_dir", ">", 0),
    TagRule("downtrend_strength", "downtrend", "trend_strength", ">=", 0.6),
    TagRule("downtrend_dir", "downtrend", "trend_dir", "<", 0),
    TagRule("trending_strength", "trending", "trend_strength", ">=", 0.6),
    TagRule("trending_dir", "trending", "trend_dir", "==", 0),
    TagRule("flat_weak_trend", "flat", "trend_strength", "<", 0.3),
    TagRule("low_vol_atr", "low_vol", "atr_pct", "<", 0.005, units="%"),
    TagRule("high_vol_atr", "high_vol", "atr_pct", ">", 0.015, units="%"),
    TagRule("mr_flat", "mean_reverting", "trend_strength", "<", 0.3),
    TagRule("mr_zscore", "mean_reverting", "zscore", ">", 1.0, transform="abs", units="σ"),
    TagRule("choppy_flat", "choppy", "trend_strength", "<", 0.3),
    TagRule("choppy_bb", "choppy", "bb_width_pct", "<", 0.02, units="%"),
    TagRule("noisy_er", "noisy", "efficiency_ratio", "<", 0.3),
    TagRule("efficient_er", "efficient", "efficiency_ratio", ">", 0.7),
    TagRule("oversold_zscore", "oversold", "zscore", "<", -1.5, group="zscore", units="σ"),
    TagRule("oversold_rsi", "oversold", "rsi", "<", 30.0, group="rsi", units="RSI"),
    TagRule("overbought_zscore", "overbought", "zscore", ">", 1.5, group="zscore", units="σ"),
    TagRule("overbought_rsi", "overbought", "rsi", ">", 70.0, group="rsi", units="RSI"),
)
"""The ruleset in evidence order. AND inside a (tag, group), OR across the groups of a tag."""

TREND_TAGS_BY_PRIORITY: Final = ("uptrend", "downtrend", "trending", "flat")
VOLATILITY_TAGS_BY_PRIORITY: Final = ("high_vol", "low_vol")
EFFICIENCY_TAGS_BY_PRIORITY: Final = ("efficient", "noisy")
"""The first of each that a snapshot carries stands in its regime key."""

EXCLUSIVE_TAG_PAIRS: Final = (("uptrend", "downtrend"), ("high_vol", "low_vol"), ("efficient", "noisy"))
"""A stored snapshot that carries both tags of a pair contradicts itself and is not attributed."""

REGIME_KEY_SEPARATOR: Final = "|"
REGIME_KEY_ABSENT: Final = "_"
"""Stands in a regime key for a dimension without a tag."""

# --- Runs --------------------------------------------------------------------------------------

BACKFILL_RUN_KIND: Final = "test_variant"
COMPLETED_RUN_STATUSES: Final = ("completed", "success")

MAX_OOS_RATIO: Final = 0.5
"""An out-of-sample share above one half is not a hold-out any more."""

MIN_COVERAGE_FRACTION: Final = 0.9
"""Share of the calendar's bars that a window must hold."""

# --- Candidacy ---------------------------------------------------------------------------------


class KbStatus(StrEnum):
    """Where a run stands in the knowledge base."""

    EXCLUDED = "excluded"
    CANDIDATE = "candidate"
    PROMOTED = "promoted"
    REJECTED = "rejected"


class ExperimentType(StrEnum):
    """What kind of search a run belongs to."""

    TUNE = "tune"
    SWEEP = "sweep"
    ABLATION = "ablation"
    MANUAL = "manual"


MIN_OOS_TRADES: Final = 5
MAX_DRAWDOWN_FRACTION: Final = 0.25
MAX_OVERFIT_GAP: Final = 0.30
MIN_OOS_SHARPE: Final = 0.1

MAX_STORED_DRAWDOWN_PERCENT: Final = 100.0
"""An account cannot lose more than all of itself; a larger stored drawdown is a broken metric."""

MAX_STORED_TRADES: Final = 2**31 - 1
"""The platform stores counts as integers; a larger one is a broken metric."""


class GateReason(StrEnum):
    """Verdict of the quality gate: the first failed gate only, so that counts add up."""

    UNKNOWN_EXPERIMENT_TYPE = "unknown_experiment_type"
    MANUAL_EXPERIMENT_EXCLUDED = "manual_experiment_excluded"
    MISSING_REGIME_OOS = "missing_regime_oos"
    INSUFFICIENT_OOS_TRADES = "insufficient_oos_trades"
    DRAWDOWN_TOO_HIGH = "dd_too_high"
    OVERFIT_TOO_HIGH = "overfit_too_high"
    SHARPE_TOO_LOW = "sharpe_too_low"
    PASSED_ALL_GATES = "passed_all_gates"


class SkipReason(StrEnum):
    """Why a row was left alone before or after the decision about it."""

    # candidacy
    MISSING_SUMMARY = "missing_summary"
    MISSING_METRICS = "missing_metrics"
    INVALID_METRIC = "invalid_metric"
    HUMAN_DECISION = "human_decision"
    # regime
    MISSING_SYMBOL = "missing_symbol"
    SYMBOL_MISMATCH = "symbol_mismatch"
    MISSING_DATE_RANGE = "missing_date_range"
    INVALID_DATE_RANGE = "invalid_date_range"
    INSUFFICIENT_OHLCV_COVERAGE = "insufficient_ohlcv_coverage"
    # attribution
    NO_COMPLETED_RUNS = "no_completed_runs"
    MISSING_METRICS_OOS = "missing_metrics_oos"
    MISSING_REGIME_OOS = "missing_regime_oos"
    INVALID_REGIME = "invalid_regime"
    # trials
    RUN_OF_ANOTHER_TRIAL = "run_of_another_trial"
    # any
    UNREADABLE_ROW = "unreadable_row"


BACKFILL_ACTOR: Final = "backfill"
"""Who stands in kb_status_changed_by and in the audit rows of a backfill."""

# --- Tunes --------------------------------------------------------------------------------------

MAX_TRIALS_PER_TUNE: Final = 200
"""The platform stores no tune with more trials."""

MEAN_SCORE_DECIMALS: Final = 12
"""Mean scores that agree to this many decimals are equal: sums differ by the order of adding."""

# --- Backfills ---------------------------------------------------------------------------------


class BackfillKind(StrEnum):
    """What a backfill writes; one writer a workspace and kind."""

    REGIME = "regime"
    CANDIDACY = "candidacy"
    ATTRIBUTION = "attribution"
    TRIALS = "trials"
    UPLIFT = "uplift"


BATCH_SIZE_ROWS: Final = 100
"""Rows changed in one transaction unless --batch-size says otherwise."""

MAX_BATCH_SIZE_ROWS: Final = 10_000

READ_PAGE_ROWS: Final = 2_000
"""Rows fetched at once. Independent of the batch: it bounds memory and round trips, not writes."""

CANDIDACY_LIMIT_ROWS, REGIME_LIMIT_ROWS = 1_000, 500
ATTRIBUTION_LIMIT_ROWS, TRIALS_LIMIT_ROWS = 1_000, 10_000

LISTED_ROWS_PER_REASON: Final = 20
"""Ids kept per reason for the listing; the counts are complete."""

MAX_TRANSACTION_ATTEMPTS: Final = 5
"""Tries of one batch whose rows changed under it or were locked, before they count as conflicts."""

LOCK_TIMEOUT_MS: Final = 2_000
STATEMENT_TIMEOUT_MS: Final = 30_000
IDLE_IN_TRANSACTION_TIMEOUT_MS: Final = 10_000
CLIENT_CONNECTION_CHECK_MS: Final = 2_000
"""How soon the server notices that a client is gone, so that no orphan statement commits later."""

CONNECT_TIMEOUT_S: Final = 10
"""How long a connection may take before the database counts as out of reach."""

STALE_TUNE_S: Final = 3_600
"""A completed tune that waits longer for its regime is worth an operator's look."""

OLDEST_SUPPORTED_POSTGRES: Final = 15

MIGRATION_LOCK_WAIT_S: Final = 60
"""How long a migration waits for another process's migration, or for a table someone is using."""

EMBEDDED_START_TIMEOUT_S, EMBEDDED_STOP_TIMEOUT_S = 60, 30
"""How long a server may take to recover from a crash and answer; the embedded one, to stop in order."""

MAX_SOCKET_PATH_BYTES: Final = 107 if sys.platform == "linux" else 103
"""The kernel's room for a Unix socket's path, without the closing NUL."""


class ExitCode:
    """What a process says when it ends."""

    DONE = 0
    FAILURE = 1
    BAD_INPUT = 2
    CONFLICTS_REMAIN = 3
    ALREADY_RUNNING = 75
    INTERRUPTED = 130
    TERMINATED = 143


# --- OHLCV files -------------------------------------------------------------------------------

MAX_FILE_ERRORS_LISTED: Final = 20
"""The message about a bad file names this many failures and counts the rest."""

MAX_OHLCV_FILE_BYTES: Final = 1 << 30
MAX_OHLCV_UNPACKED_BYTES: Final = 256 << 20
"""Unpacked size that a compressed file may reach; a gzip bomb stops here."""

MAX_OHLCV_JSON_BYTES, MAX_OHLCV_JSON_VALUES = 32 << 20, 2_000_000
"""A third of a million bars. Parsed, JSON takes up to thirty times its size: more is for CSV or Parquet."""

MAX_OHLCV_LINE_BYTES: Final = 64 << 10  # also of one value in JSON
MAX_OHLCV_COLUMNS: Final = 64
"""A price file with more columns is a table of something else."""

MIN_BAR_YEAR: Final = 1900
MAX_BAR_YEAR: Final = 2200
"""A bar outside these years is a typing error; both ends are accepted."""

MIN_DAILY_STEP_SECONDS: Final = 18 * 3_600
"""Daily bars stand further apart than this. A half day that is stamped at its close comes 20 hours
after the day before it where the clocks change too."""
MAX_DAILY_STEP_SECONDS: Final = 4 * 86_400  # most bars of a day: a weekend with a holiday on both sides

EXCHANGE_FIRST_DATE: Final = "1970-01-01"
EXCHANGE_LAST_DATE: Final = "2060-12-31"
"""Years an exchange's calendar is built for, where its rules reach that far: 0.2 s for New York.
exchange_calendars knows no holidays before 1970 and would call every weekday a session."""

TIMEFRAMES_SECONDS: Final = {
    "1m": 60,
    "5m": 300,
    "15m": 900,
    "30m": 1_800,
    "1h": 3_600,
    "4h": 14_400,
    "1d": 86_400,
}
"""Bar lengths understood, in seconds."""

# --- Recommendations ---------------------------------------------------------------------------

TIERS: Final = {
    "exact": (1.0, None),
    "partial_trend_vol": (0.85, None),
    "partial_trend": (0.7, 10),
    "partial_vol": (0.7, 10),
    "distance": (0.5, 20),
    "global_best": (0.3, None),
}
"""In the order walked: the confidence of each tier and the most candidates it gives (None: all asked for)."""

_NOT_IN_DISTANCE: Final = {"range_pct", "return_pct", "drift_bps_per_bar"}
DISTANCE_FEATURES: Final = tuple(name for name in FEATURE_NAMES if name not in _NOT_IN_DISTANCE)
DISTANCE_SCALE_FLOORS: Final = (0.0005, 0.001, 0.004, 0.05, 1.0, 0.25, 2.5, 0.05)
"""No feature counts in finer steps, however alike the snapshots of a workspace are in it."""
MIN_SHARED_FEATURES: Final = 4  # two snapshots that share fewer have no distance
MAD_TO_STD: Final = 1.4826

RECOMMENDED_CANDIDATES, MIN_SAMPLES = 20, 5
MAX_COUNTED: Final = 1_000  # where only an order of magnitude is told, counting ends here

# --- Uplift ------------------------------------------------------------------------------------


class UpliftUnknown(StrEnum):
    """Why the uplift of a tune is unknown: the first that holds, so that counts add up."""

    NOT_ATTRIBUTED = "not_attributed"
    NO_SCORE = "no_score"
    UNKNOWN_BASELINE = "unknown_baseline"
    NO_LIKE_REGIME = "no_like_regime"
    SELECTED_NOT_TRIED = "selected_not_tried"


UPLIFT_TIERS: Final = tuple(TIERS)[:4]  # those by key: the best overall is not chosen by regime
INTERVAL_LEVEL, BOOTSTRAP_DRAWS, BOOTSTRAP_SEED = 0.95, 1_000, 20_250_101
MIN_INTERVAL_TUNES, FEW_SYMBOLS = 5, 15

# --- Dashboard ---------------------------------------------------------------------------------

MAX_DASHBOARD_BYTES: Final = 200_000  # it is mailed and kept; tables are cut until it fits

# --- Drift -------------------------------------------------------------------------------------

DriftReason = StrEnum(
    "DriftReason",
    "STABLE KEY_DIFFERS_BY_CHANCE UNCONFIRMED KEY_CHANGED DISTANCE_BEYOND_NULL TOO_FEW_TRAINING_SNAPSHOTS "
    "TRAINING_BARS_MISSING FEATURES_UNDEFINED NOT_ENOUGH_BARS NO_PRICE_FILE PRICE_FILE_REFUSED NO_SYMBOL "
    "NO_READABLE_SNAPSHOT",
)
DRIFT_RARE_SHARE, DRIFT_RARE_KEY_SHARE = 0.01, 0.002  # of resampled windows: as far away; with such a key
DRIFT_CONSECUTIVE, DRIFT_FAR_BARS = 3, 10  # evaluations in a row with such a key; newest bars so far away
MIN_DRIFT_SNAPSHOTS, MAX_DRIFT_SNAPSHOTS = 4, 20  # of windows apart from each other; the newest, looked at
DRIFT_BLOCK_BARS, DRIFT_NULL_WINDOWS, DRIFT_SEED = 20, 1_000, 20_250_101  # mean length; a training window
