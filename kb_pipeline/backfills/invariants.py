"""The one list of what must hold of a workspace, in a test after a fault as in production.

Most rules are queries (`storage/invariants.py`); two decide again, by the functions the backfills use,
and hold the answer against what is stored.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Final
from uuid import UUID

from kb_pipeline.backfills.candidacy import CandidacyRequest, decide_rows
from kb_pipeline.domain.tags import evaluate_tags
from kb_pipeline.rules import MAX_BATCH_SIZE_ROWS
from kb_pipeline.storage.invariants import (
    STORED_RULES,
    Breach,
    newest_regimes,
    stored_breaches,
    untouched_candidates,
)
from kb_pipeline.storage.postgres import Connection
from kb_pipeline.storage.session import in_its_workspace

DECIDED_AGAIN: Final = 200
"""Rows of each kind that are decided again: the newest, at a cost that does not grow with the history."""


@in_its_workspace
def breaches(
    connection: Connection,
    workspace_id: UUID,
    rules: Iterable[str] | None = None,
    *,
    batch_rows: int = MAX_BATCH_SIZE_ROWS,
) -> dict[str, list[Breach]]:
    """Return the first breaches of each rule of RULES (None: of all) that is broken in a workspace."""
    found: dict[str, list[Breach]] = {}
    for rule in RULES if rules is None else rules:
        if rule in _REDECIDED:
            found[rule] = _REDECIDED[rule](connection, workspace_id)
        else:
            found[rule] = stored_breaches(connection, workspace_id, rule, batch_rows=batch_rows)
    return {rule: rows for rule, rows in found.items() if rows}


def _candidates_against_metrics(connection: Connection, workspace_id: UUID) -> list[Breach]:
    """Return candidates that the gate at its most lenient rejects; the ledger may have asked for more."""
    inputs = untouched_candidates(connection, workspace_id, DECIDED_AGAIN)
    request = CandidacyRequest(workspace_id=workspace_id)
    decided = decide_rows(request, list(inputs.values())) if inputs else []
    return [
        Breach(str(run_id), reason, detail)
        for run_id, (reason, detail) in zip(inputs, decided, strict=True)
        if reason is not None
    ]


def _regimes_against_features(connection: Connection, workspace_id: UUID) -> list[Breach]:
    """Return runs whose snapshot carries other tags than its features give."""
    texts = newest_regimes(connection, workspace_id, DECIDED_AGAIN)
    snapshots = {run_id: json.loads(text) for run_id, text in texts.items()}
    expected = {run_id: evaluate_tags(snapshot) for run_id, snapshot in snapshots.items()}
    return [
        Breach(run_id, f"expected {' '.join(expected[run_id])}", " ".join(snapshot["regime_tags"]))
        for run_id, snapshot in snapshots.items()
        if snapshot["regime_tags"] != expected[run_id]
    ]


_REDECIDED: Final[Mapping[str, Callable[[Connection, UUID], list[Breach]]]] = {
    "candidates_against_metrics": _candidates_against_metrics,
    "regimes_against_features": _regimes_against_features,
}

RULES: Final = (*STORED_RULES, *_REDECIDED)
"""Every rule by name; each must find nothing."""
