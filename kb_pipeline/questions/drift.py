"""Ask of each strategy and symbol whether the market has left the regimes its parameters were chosen in.

What drift is stands in `domain.drift`. Here the training windows meet the newest bars of the price
files, what was found is kept, and an alarm that is new becomes an event that somebody is told of.
"""

import json
import subprocess
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Final
from uuid import UUID

from kb_pipeline.domain.drift import judge_drift
from kb_pipeline.domain.drift_null import DriftNull, TrainingWindow
from kb_pipeline.domain.matching import feature_vector
from kb_pipeline.domain.regime import RegimeSnapshot
from kb_pipeline.domain.regime_key import compute_regime_key
from kb_pipeline.errors import (
    BadArgumentError,
    InvalidSnapshotError,
    OhlcvFileError,
    UnknownSchemaVersionError,
)
from kb_pipeline.plain_text import printable
from kb_pipeline.questions.drift_bars import PriceSeries, PriceShelf
from kb_pipeline.questions.drift_report import DriftEvaluation, DriftReport, DriftSkip
from kb_pipeline.questions.subject import strategy_of
from kb_pipeline.rules import DRIFT_CONSECUTIVE, DriftReason
from kb_pipeline.storage import drift_events
from kb_pipeline.storage.alerts import send_alert
from kb_pipeline.storage.drift_events import Before, DriftSeries, TrainingTune, WaitingAlert
from kb_pipeline.storage.postgres import Connection, read_only_session
from kb_pipeline.storage.session import in_its_workspace, require_workspace

_NS_PER_SECOND: Final = 10**9
_LISTED_SERIES: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftRequest:
    """What to look at: by default every series of the workspace that has attributed tunes.

    `ohlcv_file` holds the newest bars of one symbol, instead of the files under `data_root` (None: as
    the environment says). `strategy` is an id or a name.
    """

    workspace_id: UUID
    strategy: str | None = None
    symbol: str | None = None
    ohlcv_file: Path | None = None
    timeframe: str | None = None
    data_root: Path | None = None


@in_its_workspace
def evaluate_drift(connection: Connection, request: DriftRequest, *, dry_run: bool) -> DriftReport:
    """Look for drift in each series, keep what was found, and tell of new events.

    A dry run finds the same and keeps and tells nothing; Postgres itself refuses it any write.

    Raises:
        BadArgumentError: The workspace, strategy, symbol or data root is unknown.
        OhlcvFileError: The price file given is refused; those of the data root are skipped by name.
    """
    require_workspace(connection, request.workspace_id)
    shelf = PriceShelf(request.data_root, request.ohlcv_file, request.symbol, request.timeframe)
    if dry_run:
        with read_only_session(connection) as reader:
            return _report(reader, request, shelf, dry_run=True)
    return _report(connection, request, shelf, dry_run=False)


def _report(
    connection: Connection, request: DriftRequest, shelf: PriceShelf, *, dry_run: bool
) -> DriftReport:
    strategy = request.strategy and strategy_of(connection, request.workspace_id, request.strategy)[0]
    tunes = [
        tune
        for tune in drift_events.training_tunes(
            connection, request.workspace_id, strategy_id=strategy, symbol=shelf.only_symbol
        )
        if shelf.only_timeframe in (None, tune.timeframe)
    ]
    elsewhere = "" if tunes else _tunes_elsewhere(connection, request.workspace_id, strategy, shelf)
    if elsewhere and request.symbol:
        raise BadArgumentError(elsewhere)
    found = [
        _look_at(connection, request.workspace_id, list(group), shelf, dry_run=dry_run)
        for _, group in groupby(tunes, attrgetter("strategy_id", "symbol", "timeframe"))
    ]
    told, untold = ([], []) if dry_run else _tell(connection, request.workspace_id)
    return DriftReport(
        workspace_id=request.workspace_id,
        dry_run=dry_run,
        evaluations=[it for it in found if isinstance(it, DriftEvaluation)],
        skipped=[it for it in found if isinstance(it, DriftSkip)],
        told=told,
        untold=untold,
        notes=shelf.notes,
        **({"nothing": elsewhere} if elsewhere else {}),
    )


def _tunes_elsewhere(
    connection: Connection, workspace_id: UUID, strategy: str | None, shelf: PriceShelf
) -> str:
    """Return of which other symbols or bars there are tunes than those asked for; empty where of none."""
    others = drift_events.training_tunes(connection, workspace_id, strategy_id=strategy, symbol=None)
    named = sorted({f"{it.symbol} {it.timeframe}" for it in others if it.symbol})
    if not named:
        return ""
    wanted = [f"symbol {shelf.only_symbol!r}"] if shelf.only_symbol else []
    wanted += [f"{shelf.only_timeframe} bars"] if shelf.only_timeframe else []
    listed = ", ".join(map(printable, named[:_LISTED_SERIES]))
    rest = f" and {len(named) - _LISTED_SERIES} more" if len(named) > _LISTED_SERIES else ""
    return f"No attributed tune of {' and '.join(wanted)}; there are {listed}{rest}."


# --- One series --------------------------------------------------------------------------------


def _look_at(
    connection: Connection, workspace_id: UUID, tunes: list[TrainingTune], shelf: PriceShelf, *, dry_run: bool
) -> DriftEvaluation | DriftSkip:
    first = tunes[0]

    def skipped(reason: DriftReason, detail: str) -> DriftSkip:
        return DriftSkip(first.strategy, first.symbol, first.timeframe, reason, detail)

    if first.symbol is None or first.timeframe is None:
        return skipped(DriftReason.NO_SYMBOL, "no run of these tunes names its symbol and its bars' length")
    try:
        prices = shelf.newest(first.symbol, first.timeframe)
        training = _training_windows(tunes, first.symbol, first.timeframe, shelf)
    except OhlcvFileError as error:
        return skipped(DriftReason.PRICE_FILE_REFUSED, str(error).splitlines()[0])
    if prices is None:
        return skipped(
            DriftReason.NO_PRICE_FILE, f"needed {first.symbol}_{first.timeframe}.csv in the data root"
        )
    if not training:
        return skipped(DriftReason.NO_READABLE_SNAPSHOT, f"none of {len(tunes)} snapshots can be read")
    series = DriftSeries(workspace_id, first.strategy_id, first.symbol, first.timeframe)
    return _evaluate(connection, series, first.strategy, training, prices, dry_run=dry_run)


def _training_windows(
    tunes: list[TrainingTune], symbol: str, timeframe: str, shelf: PriceShelf
) -> list[TrainingWindow]:
    """Return the windows of the tunes whose snapshots can be read, with their bars where there are any."""
    windows = []
    for tune in tunes:
        snapshot = _snapshot_or_none(tune.snapshot)
        if snapshot is not None:
            start_ns, end_ns = _instant_ns(snapshot.ts_start), _instant_ns(snapshot.ts_end)
            bars = shelf.window(symbol, timeframe, start_ns, end_ns, snapshot.n_bars)
            features = feature_vector(snapshot.to_dict())
            windows.append(TrainingWindow(compute_regime_key(snapshot), features, start_ns, end_ns, bars))
    return windows


def _snapshot_or_none(text: str) -> RegimeSnapshot | None:
    try:
        return RegimeSnapshot.from_dict(json.loads(text))
    except (InvalidSnapshotError, UnknownSchemaVersionError, ValueError, RecursionError):
        return None


def _instant_ns(text: str) -> int:
    """Return a stored time as UTC nanoseconds; 0, where no bars are, for one that cannot be read."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return 0
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()) * _NS_PER_SECOND


def _evaluate(
    connection: Connection,
    series: DriftSeries,
    strategy: str,
    training: list[TrainingWindow],
    prices: PriceSeries,
    *,
    dry_run: bool,
) -> DriftEvaluation:
    newest_bar = prices.newest_bar
    before = drift_events.evaluations_before(connection, series, newest_bar)
    verdict = judge_drift(prices.newest(), DriftNull.of(training), sum(it.departed for it in before))
    found = DriftEvaluation(
        series.strategy_id, strategy, series.symbol, series.timeframe, newest_bar, verdict
    )
    if dry_run or verdict.key_now is None:
        return found
    with connection.transaction():
        return replace(found, is_new_event=_keep(connection, series, found, before))


def _keep(connection: Connection, series: DriftSeries, found: DriftEvaluation, before: list[Before]) -> bool:
    """Keep an evaluation; return whether an event begins with it. An event ends as it begins: not at once."""
    verdict, newest_bar = found.verdict, found.newest_bar
    is_newest = drift_events.land_evaluation(connection, series, newest_bar, verdict)
    if not is_newest:
        return False
    if verdict.is_alarm:
        return drift_events.open_event(connection, series, newest_bar, verdict, found.sentence)
    if len(before) == DRIFT_CONSECUTIVE - 1 and not any(it.is_alarm for it in before):
        drift_events.end_event(connection, series, newest_bar)
    return False


# --- Alerts ------------------------------------------------------------------------------------


def _tell(connection: Connection, workspace_id: UUID) -> tuple[list[str], list[str]]:
    """Tell of events that last and that nobody was told of; return what was told, and what failed.

    An event is marked as told before it is, so that two processes do not tell it twice; where telling
    fails the mark is taken back, and the next evaluation tries again.
    """
    told: list[str] = []
    untold: list[str] = []
    tried: list[str] = []
    while (event := drift_events.claim_alert(connection, workspace_id, tried)) is not None:
        tried.append(event.id)
        try:
            receivers = send_alert(_message(workspace_id, event))
        except (OSError, subprocess.SubprocessError, BadArgumentError) as error:
            why = _why_untold(error)
            drift_events.give_back_alert(connection, workspace_id, event.id, why)
            untold.append(f"{event.sentence} ({why})")
            continue
        if not receivers:
            drift_events.give_back_alert(connection, workspace_id, event.id, None)
            break
        told.append(f"{' and '.join(receivers)}: {event.sentence}")
    return told, untold


def _why_untold(error: Exception) -> str:
    """Return why telling failed, without the command line, which may hold a secret."""
    if isinstance(error, subprocess.CalledProcessError):
        return f"KB_ALERT_COMMAND ended with exit status {error.returncode}"
    if isinstance(error, subprocess.TimeoutExpired):
        return f"KB_ALERT_COMMAND took longer than {error.timeout:g} s"
    return f"{error}"


def _message(workspace_id: UUID, event: WaitingAlert) -> dict[str, str]:
    named = {name: str(value) for name, value in event._asdict().items() if name != "id"}
    first_bar = event.first_bar.astimezone(UTC).isoformat()
    return {
        "event": "regime_drift",
        "event_id": event.id,
        "workspace_id": str(workspace_id),
        **named,
        "first_bar": first_bar,
    }
