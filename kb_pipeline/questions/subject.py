"""What a question is asked about: a regime key, a run, a price file or a snapshot; and which strategy."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import compress
from pathlib import Path
from typing import Final
from uuid import UUID

import numpy as np

from kb_pipeline.domain.matching import Floats, feature_vector, regime_parts
from kb_pipeline.domain.regime import RegimeSnapshot, compute_regime_snapshot
from kb_pipeline.domain.regime_key import compute_regime_key
from kb_pipeline.errors import BadArgumentError, KbPipelineError
from kb_pipeline.plain_text import printable
from kb_pipeline.rules import DISTANCE_FEATURES, TIMEFRAMES_SECONDS
from kb_pipeline.storage import questions
from kb_pipeline.storage.ohlcv_files import read_ohlcv_file
from kb_pipeline.storage.postgres import Connection
from kb_pipeline.storage.session import in_its_workspace, require_workspace

_LISTED_STRATEGIES: Final = 20


@dataclass(frozen=True, slots=True)
class Subject:
    """The regime asked about.

    `features` are those of `domain.matching`, None where only a key is known. `timeframe` is the bar
    length of what was asked about, None where it names none. `itself` are the ids of the run asked
    about and of the tunes it is a trial of: none of them may answer.
    """

    label: str
    regime_key: str
    features: Floats | None = None
    timeframe: str | None = None
    itself: frozenset[str] = field(default_factory=frozenset)

    @property
    def warnings(self) -> list[str]:
        """What is not known of the regime, whose key has no tag then, as if the market had none."""
        if self.features is None or not np.isnan(self.features).any():
            return []
        unknown = compress(DISTANCE_FEATURES, np.isnan(self.features))
        return [
            f"Could not be computed of {self.label}: {', '.join(unknown)}. "
            "A tag that needs one of them is missing from the regime asked about."
        ]


def subject_of(
    connection: Connection,
    workspace_id: UUID,
    *,
    regime_key: str | None = None,
    snapshot: RegimeSnapshot | None = None,
    run_id: UUID | None = None,
    ohlcv_file: Path | None = None,
    timeframe: str | None = None,
) -> Subject:
    """Return what a question is about, of which exactly one form must be given.

    `timeframe` is that of the file's bars; by default its name says it.

    Raises:
        BadArgumentError: None or several were given, the key is unknown, there is no such run in the
            workspace, or it has no regime that can be read.
        OhlcvFileError: The price file is refused.
    """
    if sum(it is not None for it in (regime_key, snapshot, run_id, ohlcv_file)) != 1:
        raise BadArgumentError("Give exactly one of --regime-key, --run and --ohlcv-file to ask about.")
    if run_id is not None:
        return _of_run(connection, workspace_id, run_id)
    if ohlcv_file is not None:
        return _of_file(ohlcv_file, timeframe)
    if snapshot is not None:
        return _of_snapshot("the snapshot given", snapshot, snapshot.timeframe)
    regime_parts(str(regime_key))
    return Subject("the key given", str(regime_key))


def _of_run(connection: Connection, workspace_id: UUID, run_id: UUID) -> Subject:
    row = questions.asked_run(connection, workspace_id, run_id)
    if row is None:
        raise BadArgumentError(f"There is no run {run_id} in workspace {workspace_id}. Check both ids.")
    text, timeframe, tune_ids = row
    if text is None:
        raise BadArgumentError(f"Run {run_id} has no regime yet. Run: kb-pipeline backfill-regime")
    try:
        snapshot = RegimeSnapshot.from_dict(json.loads(text))
    except (KbPipelineError, ValueError, RecursionError) as error:
        raise BadArgumentError(f"The regime of run {run_id} cannot be read: {error}") from error
    itself = frozenset({str(run_id), *tune_ids})
    return _of_snapshot(f"run {run_id}", snapshot, timeframe or snapshot.timeframe, itself)


def _of_file(path: Path, timeframe: str | None) -> Subject:
    named = Path(path.name.removesuffix(".gz")).stem.rpartition("_")[2]
    known = timeframe or (named if named in TIMEFRAMES_SECONDS else None)
    read = read_ohlcv_file(path, timeframe=known)
    snapshot = compute_regime_snapshot(read.frame, instrument=read.symbol, timeframe=known)
    return _of_snapshot(f"the last {snapshot.n_bars} bars of {path.name}", snapshot, known)


def _of_snapshot(
    label: str, snapshot: RegimeSnapshot, timeframe: str | None, itself: frozenset[str] = frozenset()
) -> Subject:
    return Subject(label, compute_regime_key(snapshot), feature_vector(snapshot.to_dict()), timeframe, itself)


@in_its_workspace
def strategy_of(connection: Connection, workspace_id: UUID, strategy: str) -> tuple[str, str]:
    """Return the id and name of the strategy of a workspace with this id or name.

    Raises:
        BadArgumentError: There is none, or several have the name; the message lists them.
    """
    found = questions.strategies_named(connection, workspace_id, strategy)
    return only_strategy(connection, workspace_id, strategy, found)


def only_strategy(
    connection: Connection, workspace_id: UUID, strategy: str, found: Sequence[tuple[str, str]]
) -> tuple[str, str]:
    """Return the one strategy that was found by an id or a name.

    Raises:
        BadArgumentError: There is none, or several have the name; the message lists them.
    """
    if len(found) == 1:
        return found[0][0], found[0][1]
    require_workspace(connection, workspace_id)
    listed = found or questions.strategies(connection, workspace_id)
    names = [f"{printable(name)} ({strategy_id})" for strategy_id, name in listed[:_LISTED_STRATEGIES]]
    rest = f" and {len(listed) - len(names)} more" if len(listed) > len(names) else ""
    problem = f"{len(found)} strategies are named" if found else "There is no strategy"
    advice = "Give an id" if found else "The workspace has"
    raise BadArgumentError(f"{problem} {strategy!r}. {advice}: {', '.join(names) or 'none'}{rest}.")
