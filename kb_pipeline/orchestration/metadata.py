"""What a materialization or a dry run shows in the UI, made from a backfill's report."""

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Final

import dagster as dg

from kb_pipeline.backfills.report import BackfillReport
from kb_pipeline.domain.uplift_cells import UpliftReport, UpliftScope
from kb_pipeline.orchestration.plots import reason_plot, uplift_plot
from kb_pipeline.plain_text import markdown_block, printable
from kb_pipeline.questions.uplift import cell_words, uplift_text
from kb_pipeline.storage.orchestration import Workspace

Metadata = dict[str, Any]

SHOWN_IDS: Final = 3
"""Rows named beside each reason; a command's --list names more."""

SHOWN_ROWS: Final = 100
"""Rows of a table in the event log; the counts beside it are complete."""


SAID_PARTITIONS: Final = 20
"""Partitions named in what a step logs; the page lists all."""

_COUNTS: Final = {
    "dagster/row_count": "bars",
    "scanned": "scanned",
    "updated": "updated",
    "skipped": "skipped",
    "known": "with known uplift",
}
"""The numbers a line has room for, and their words."""


def counted(metadata: Mapping[str, Any]) -> str:
    """Return the counts of a partition in a few words: `135 scanned, 105 updated, 30 skipped`."""
    return ", ".join(f"{metadata[name]} {word}" for name, word in _COUNTS.items() if name in metadata)


def step_lines(asset: str, done: Mapping[str, Metadata], *, named: bool) -> str:
    """Return what a step did, all its partitions together; where wanted, the first of them a line each."""
    if len(done) == 1:
        return "".join(f"{asset}, {key}: {counted(metadata)}" for key, metadata in done.items())
    total: Counter[str] = Counter()
    for metadata in done.values():
        total.update({name: metadata[name] for name in _COUNTS if name in metadata})
    lines = [f"{asset}, {len(done)} partitions: {counted(total)}"]
    if named:
        lines += [f"{key}: {counted(done[key])}" for key in islice(done, SAID_PARTITIONS)]
        lines += [f"... and {len(done) - SAID_PARTITIONS} more"] if len(done) > SAID_PARTITIONS else []
    return "\n".join(lines)


def report_metadata(workspace: Workspace, report: BackfillReport, *, plotted: bool = False) -> Metadata:
    """Return a report as numbers the UI draws over time, a table of reasons, and the text people know."""
    metadata: Metadata = {
        "workspace": printable(workspace.name),
        "workspace_id": str(workspace.id),
        "scanned": report.scanned,
        "would_update" if report.dry_run else "updated": report.updated,
        "skipped": sum(report.skipped.values()),
        "changed_meanwhile": report.changed_meanwhile,
        "conflicts": report.conflicts,
        "report": dg.MetadataValue.md(markdown_block(report.to_text())),
    }
    if report.skipped:
        metadata["reasons"] = reason_table({workspace.slug: report})
    if report.skipped and plotted:
        metadata["reasons_plot"] = reason_plot(
            f"{workspace.name}: why {report.kind} left rows", report.skipped
        )
    return metadata


def uplift_metadata(
    workspace: Workspace, report: UpliftReport, page: Path, *, plotted: bool = False
) -> Metadata:
    """Return a measurement of uplift as numbers, tables by regime and strategy, the text, and its page."""
    regimes = report.of_scope(UpliftScope.REGIME)
    metadata: Metadata = {
        "workspace": printable(workspace.name),
        "workspace_id": str(workspace.id),
        "scanned": report.scanned,
        "known": report.known,
        "unknown": report.scanned - report.known,
        "thin_regimes": sum(cell.thin for cell in regimes),
        "dashboard": dg.MetadataValue.path(page),
        "dashboard_bytes": page.stat().st_size,
        "report": dg.MetadataValue.md(markdown_block(uplift_text(report))),
        "by_regime": table(map(cell_words, regimes)),
        "by_strategy": table(map(cell_words, report.of_scope(UpliftScope.STRATEGY))),
    }
    if plotted and any(cell.uplift.n for cell in regimes):
        metadata["uplift_plot"] = uplift_plot(
            f"{workspace.name}: uplift by regime, median and interval", regimes
        )
    return metadata


def reason_table(reports: Mapping[str, BackfillReport]) -> dg.TableMetadataValue:
    """Return a table of reasons with their counts and the first rows of each, per target."""
    return table(
        {
            "target": target,
            "reason": reason,
            "rows": rows,
            "first": ", ".join(row.split()[0] for row in report.examples.get(reason, [])[:SHOWN_IDS]),
        }
        for target, report in reports.items()
        for reason, rows in report.skipped.items()
    )


def table(rows: Iterable[Mapping[str, str | int | float | None]]) -> dg.TableMetadataValue:
    """Return rows as a table that the UI shows in place; the types are those of the first row."""
    # str() makes plain text of enumeration members, which the event log refuses.
    plain = [
        {name: printable(str(it)) if isinstance(it, str) else it for name, it in row.items()} for row in rows
    ]
    records = [dg.TableRecord(row) for row in plain[:SHOWN_ROWS]]
    types = {str: "string", int: "int", float: "float"}
    first = records[0].data if records else {}
    columns = [dg.TableColumn(name, types.get(type(value), "string")) for name, value in first.items()]
    return dg.MetadataValue.table(records, dg.TableSchema(columns))
