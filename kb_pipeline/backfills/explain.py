"""Explain one run: what the gate reads of it, the thresholds, the decision, and who decided when."""

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import compress
from typing import Any
from uuid import UUID

from kb_pipeline.backfills.candidacy import CandidacyRequest, decide_rows
from kb_pipeline.domain.candidacy import CandidacyConfig
from kb_pipeline.domain.regime import RegimeSnapshot
from kb_pipeline.domain.regime_key import compute_regime_key
from kb_pipeline.domain.tags import explain_tags
from kb_pipeline.errors import BadArgumentError, KbPipelineError
from kb_pipeline.plain_text import printable
from kb_pipeline.rules import (
    BACKFILL_RUN_KIND,
    COMPLETED_RUN_STATUSES,
    ExperimentType,
    GateReason,
    KbStatus,
)
from kb_pipeline.storage import backtest_runs
from kb_pipeline.storage.postgres import Connection
from kb_pipeline.storage.session import all_workspaces


@dataclass(frozen=True, slots=True)
class RunExplanation:
    """All that bears on one run's place in the knowledge base.

    `options` are those of the backfill under which it would decide so.
    """

    run_id: str
    workspace_id: str
    run: dict[str, Any]
    inputs: dict[str, str | None]
    thresholds: dict[str, Any]
    options: str
    decision: str
    regime: dict[str, Any]
    history: list[dict[str, str | None]]

    def to_dict(self) -> dict[str, Any]:
        """Return everything for machines."""
        return asdict(self)

    def to_text(self) -> str:
        """Return everything for people, a fact a line."""
        sections = {
            f"Run {self.run_id}": {"workspace": self.workspace_id, **self.run},
            "Inputs of the gate": self.inputs,
            "Thresholds": self.thresholds | {"max_drawdown": self._drawdowns()},
            "Decision of the gate today": {
                "verdict": self.decision + self._settled(),
                "options": self.options,
            },
            "Regime out of sample": self.regime,
        }
        lines = [line for title, facts in sections.items() for line in (title, *_fact_lines(facts), "")]
        changes = [printable(" ".join(str(it) for it in entry.values() if it)) for entry in self.history]
        return "\n".join(
            [*lines, "Audited changes, newest first", *(f"  {it}" for it in changes or ["none"])]
        )

    def _drawdowns(self) -> str:
        """Return the threshold, a fraction, in the unit in which the run's own is stored."""
        most: float = self.thresholds["max_drawdown"]
        text = f"{most:g}, which is {most * 100:g} %"
        with suppress(TypeError, ValueError):
            text += f"; this run had {abs(float(self.inputs['max_drawdown_pct'] or '')):.6g} %"
        return text

    def _settled(self) -> str:
        """Return that the backfill will not look at the run again, where that is so."""
        status = self.run["kb_status"]
        return "" if status in (None, KbStatus.EXCLUDED) else f"; left alone, the run is {status} already"


def explain_run(
    connection: Connection,
    run_id: UUID,
    *,
    workspace_id: UUID | None = None,
    experiment_type: ExperimentType = ExperimentType.SWEEP,
    require_regime: bool = False,
    require_metrics: bool = False,
) -> RunExplanation:
    """Return what decides about a run, read and decided by the code of the backfill itself.

    The options are those of the backfill.

    Raises:
        BadArgumentError: There is no such run (in that workspace).
    """
    workspaces = [workspace_id] if workspace_id else all_workspaces(connection)
    found = (backtest_runs.read_run(connection, it, run_id) for it in workspaces)
    row = next((it for it in found if it is not None), None)
    if row is None:
        where = f" in workspace {workspace_id}" if workspace_id else ""
        raise BadArgumentError(f"There is no run {run_id}{where}. Check the id and KB_DATABASE_URL.")
    found_in = UUID(row["workspace_id"])
    request = CandidacyRequest(
        workspace_id=found_in,
        experiment_type=experiment_type,
        require_regime=require_regime,
        require_metrics=require_metrics,
    )
    outcome, detail = decide_rows(request, [row["gate_columns"]])[0]
    return RunExplanation(
        run_id=str(run_id),
        workspace_id=row["workspace_id"],
        run=row["run"],
        inputs=row["inputs"],
        thresholds=asdict(CandidacyConfig(require_regime=require_regime)),
        options=_options(request),
        decision=_decision(row["run"], outcome, detail),
        regime=_regime(row["regime_oos"]),
        history=backtest_runs.status_history(connection, found_in, run_id),
    )


def _options(request: CandidacyRequest) -> str:
    flags = {"--require-regime": request.require_regime, "--require-metrics": request.require_metrics}
    return " ".join([f"--experiment-type {request.experiment_type}", *compress(flags, flags.values())])


def _decision(run: dict[str, Any], outcome: str | None, detail: str) -> str:
    if run["run_kind"] != BACKFILL_RUN_KIND:
        return (
            f"not looked at: the backfill reads runs of kind {BACKFILL_RUN_KIND}, this is a {run['run_kind']}"
        )
    if run["status"] not in COMPLETED_RUN_STATUSES:
        return f"not looked at: the run is {run['status']}"
    return f"{outcome} ({detail})" if detail else (outcome or GateReason.PASSED_ALL_GATES)


def _regime(text: str | None) -> dict[str, Any]:
    """Return key, tags and the evidence of each tag, or why there is none."""
    if text is None or text == "null":
        return {"snapshot": "none yet"}
    try:
        snapshot = RegimeSnapshot.from_dict(json.loads(text))
        key = compute_regime_key(snapshot)
    except (KbPipelineError, ValueError, RecursionError) as error:
        return {"snapshot": f"cannot be read: {error}"}
    evidence = {
        f"{rule['tag']} by {rule['metric']}": f"{rule['value']:.6g} {rule['op']} {rule['threshold']:g}"
        for rule in explain_tags(snapshot)
        if rule["passed"] and rule["tag"] in snapshot.regime_tags
    }
    return {
        "key": key,
        "bars": snapshot.n_bars,
        "tags": ", ".join(snapshot.regime_tags) or "none",
        **evidence,
    }


def _fact_lines(facts: dict[str, Any]) -> list[str]:
    width = max(len(name) for name in facts) + 2
    shown = {name: "absent" if value is None else printable(str(value)) for name, value in facts.items()}
    return [f"  {name:<{width}}{value}" for name, value in shown.items()]
