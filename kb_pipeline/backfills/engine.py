"""How every backfill runs: read a page, decide, write in batches, account for every row.

What to read, how to decide and what to write is given by a `Work`; one is in each sibling module.
Here are the promises they share: one writer, a limit that is a budget, cursor and values in one
transaction, guarded writes, and counts that add up.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Final, Protocol
from uuid import UUID

import psycopg

from kb_pipeline.backfills.ahead import ahead
from kb_pipeline.backfills.announced import announced
from kb_pipeline.backfills.report import Tally
from kb_pipeline.rules import MAX_TRANSACTION_ATTEMPTS, READ_PAGE_ROWS, BackfillKind
from kb_pipeline.storage import session
from kb_pipeline.storage.backfill_runs import (
    PART_SETTING,
    Ledger,
    LedgerCounts,
    Position,
    Span,
    last_position,
)
from kb_pipeline.storage.events import Event, tell
from kb_pipeline.storage.locks import writer_lock
from kb_pipeline.storage.postgres import Connection, many_small_commits, read_only_session
from kb_pipeline.storage.session import in_its_workspace

Rows = Sequence[tuple[Any, ...]]

_NO_LIMIT: Final = 2**31 - 1
"""For reading the span of a page again: others may have inserted rows into it meanwhile."""


@dataclass(slots=True)
class Page:
    """Rows read at once, column by column; `payload` is what the decision leaves for the write."""

    span: Span
    ids: Sequence[str]
    created_at: Sequence[str]
    versions: Sequence[str]
    columns: tuple[Sequence[Any], ...]
    payload: Any = None

    @classmethod
    def of(cls, span: Span, rows: Rows) -> "Page":
        """Turn fetched rows (id, created_at, version, ...) into a page."""
        ids, created_at, versions, *columns = zip(*rows, strict=True) if rows else ((), (), ())
        return cls(span, ids, created_at, versions, tuple(columns))

    def position(self, row: int) -> Position:
        """Return the place of one row in scan order."""
        return Position(self.created_at[row], self.ids[row])


@dataclass(frozen=True, slots=True)
class Decisions:
    """One outcome a row: None to write it, else the reason to leave it.

    Notices are extra counts; `describe(row)` says more about a row in the listing of reasons.
    """

    outcomes: Sequence[str | None]
    notices: Mapping[str, int] = field(default_factory=dict)
    payload: Any = None
    describe: Callable[[int], str] = lambda _row: ""


class Work(Protocol):
    """What distinguishes one backfill from another.

    A page is read and decided in one thread while the page before it is written in another.
    """

    @property
    def kind(self) -> BackfillKind:
        """Which backfill this is."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """What makes two calls 'the same settings': JSON values, without limit and batch size."""

    def fetch(self, connection: Connection, span: Span, rows: int) -> Rows:
        """Return the next rows of a span that wait for this backfill, as the database gives them."""

    def read(self, connection: Connection, span: Span, rows: int) -> Page:
        """Return them with all that is needed to decide."""

    def decide(self, page: Page) -> Decisions:
        """Return what to do with each row. Reads nothing but the page, and may remember for `conclude`."""

    def write(self, connection: Connection, page: Page, rows: Sequence[int]) -> set[str]:
        """Write the given rows of a page, guarded; return the ids that were changed."""


@dataclass(frozen=True, slots=True)
class Watch:
    """How a caller looks on: `progress(scanned)` after each batch; `stop()` names a signal to end on."""

    progress: Callable[[int], None] = lambda _scanned: None
    stop: Callable[[], str | None] = lambda: None


class Request(Protocol):
    """What every backfill is asked: where, and how much of it at once."""

    @property
    def workspace_id(self) -> UUID:
        """The workspace to work in."""

    @property
    def limit(self) -> int | None:
        """Rows to scan; None: all."""

    @property
    def batch_size(self) -> int:
        """Rows to write in one transaction."""

    @property
    def from_start(self) -> bool:
        """Whether to begin again instead of after the last row scanned."""


class _Scope:
    """The rows a backfill is for, all of them or a part, and the settings that say so."""

    def __init__(self, work: Work, part: Span | None) -> None:
        self.work = work
        self.is_part = part is not None
        self.limit_reached = False
        self._rows = part or Span()
        is_all = self._rows == Span()
        self.settings = work.settings if is_all else {**work.settings, PART_SETTING: str(part)}

    def spans(self, start: Position | None) -> list[Span]:
        """Return what to read: from the start to the end, then from the beginning up to the start."""
        if start is None:
            return [self._rows]
        return [replace(self._rows, after=start), replace(self._rows, until=start)]


@in_its_workspace
def run_backfill(
    connection: Connection,
    request: Request,
    work: Work,
    *,
    dry_run: bool,
    watch: Watch | None,
    conclude: Callable[[Tally], None] = lambda _tally: None,
    part: Span | None = None,
) -> Tally:
    """Run one backfill and return its counts.

    `part` confines it to some rows, for the holder of a lease on them. `conclude` does what is left once
    all rows are seen, before the ledger says so, and may add to the counts or mark them as interrupted.

    Raises:
        BadArgumentError: There is no such workspace.
        AlreadyRunningError: Another process writes this workspace and kind (never in a dry run).
        ConservationError: The counts do not add up to the rows scanned.
    """
    session.require_workspace(connection, request.workspace_id)
    scope = _Scope(work, part)
    run = _dry_run if dry_run else _real_run
    with announced(work.kind, request.workspace_id, dry_run=dry_run) as result:
        tally = run(connection, request, scope, watch or Watch(), conclude)
        result |= tally.totals()
    return tally


def _real_run(
    connection: Connection, request: Request, scope: _Scope, watch: Watch, conclude: Callable[[Tally], None]
) -> Tally:
    kind, workspace_id = scope.work.kind, request.workspace_id
    with writer_lock(connection, kind, workspace_id, part=scope.is_part):
        start = _start(connection, request, scope)
        ledger = Ledger.open(connection, kind, workspace_id, scope.settings, start, part=scope.is_part)
        writer = _Writer(connection, scope.work, ledger, request.batch_size, watch)
        try:
            with (
                read_only_session(connection) as reader,
                _pages_ahead(reader, request, scope, start, writer.hears_stop) as pages,
                many_small_commits(connection),
            ):
                for page, decisions in pages:
                    writer.take(page, decisions)
                    if writer.tally.interrupted:
                        break
            writer.tally.limit_reached = scope.limit_reached
            if not writer.tally.interrupted:
                conclude(writer.tally)
            writer.finish()
        except BaseException as error:
            _close_failed(connection, ledger, error)
            raise
    writer.tally.check_conservation()
    return writer.tally


def _pages_ahead(
    reader: Connection, request: Request, scope: _Scope, start: Position | None, stop: Callable[[], object]
) -> AbstractContextManager[Iterator[tuple[Page, Decisions]]]:
    """Read and decide pages in a thread; a request to stop breaks off even a statement that takes long."""
    decided = _decided(reader, scope, start, request.limit)
    return ahead(decided, stop=stop, cancel=reader.cancel_safe)


def _start(connection: Connection, request: Request, scope: _Scope) -> Position | None:
    if request.from_start:
        return None
    return last_position(connection, scope.work.kind, request.workspace_id, scope.settings)


def _pages(
    connection: Connection, scope: _Scope, start: Position | None, limit: int | None
) -> Iterator[Page]:
    budget = limit if limit is not None else float("inf")
    spans = scope.spans(start)
    for span in spans:
        after: Position | None = span.after
        while after is not None:
            rest = replace(span, after=after)
            if budget <= 0:
                # the rows of the second span were seen by the calls before this one
                scope.limit_reached = span is spans[0] and bool(scope.work.fetch(connection, rest, 1))
                return
            wanted = int(min(READ_PAGE_ROWS, budget))
            page = scope.work.read(connection, rest, wanted)
            rows = len(page.ids)
            budget -= rows
            after = page.position(rows - 1) if rows == wanted else None
            if rows:
                yield page


def _decided(
    connection: Connection, scope: _Scope, start: Position | None, limit: int | None
) -> Iterator[tuple[Page, Decisions]]:
    for page in _pages(connection, scope, start, limit):
        yield page, scope.work.decide(page)


def _dry_run(
    connection: Connection,
    request: Request,
    scope: _Scope,
    watch: Watch,
    conclude: Callable[[Tally], None],
) -> Tally:
    """Scan the rows a real run would and count the same things; Postgres refuses any write."""
    tally = Tally()
    with (
        read_only_session(connection) as reader,
        _pages_ahead(reader, request, scope, _start(reader, request, scope), watch.stop) as pages,
    ):
        for page, decisions in pages:
            tally = tally.plus_page(page.ids, decisions.outcomes, decisions.describe)
            tally.notices.update(decisions.notices)
            tally.updated += sum(outcome is None for outcome in decisions.outcomes)
            watch.progress(tally.scanned)
            if watch.stop():
                break
    tally.limit_reached = scope.limit_reached
    tally.interrupted = watch.stop()
    if not tally.interrupted:
        conclude(tally)
    tally.check_conservation()
    return tally


class _Writer:
    """Writes the eligible rows of pages in batches and keeps the ledger with them."""

    def __init__(
        self, connection: Connection, work: Work, ledger: Ledger, batch_size: int, watch: Watch
    ) -> None:
        self._connection = connection
        self._work = work
        self._ledger = ledger
        self._batch_size = batch_size
        self._watch = watch
        self._position: Position | None = None
        self.tally = Tally()

    def take(self, page: Page, decisions: Decisions) -> None:
        """Write a page batch by batch; a stop request is heard between two batches."""
        page.payload = decisions.payload
        self.tally.notices.update(decisions.notices)
        for begin, end in _segments(decisions.outcomes, self._batch_size):
            if self.hears_stop():
                return
            self._take_segment(page, decisions, begin, end)
            self._watch.progress(self.tally.scanned)

    def hears_stop(self) -> bool:
        """Tell whether to stop, and remember what by."""
        self.tally.interrupted = self._watch.stop()
        return self.tally.interrupted is not None

    def _take_segment(self, page: Page, decisions: Decisions, begin: int, end: int) -> None:
        outcomes = decisions.outcomes
        tally = self.tally.plus_page(
            page.ids[begin:end], outcomes[begin:end], lambda row: decisions.describe(begin + row)
        )
        self._position = page.position(end - 1)
        rows = [row for row in range(begin, end) if outcomes[row] is None]
        missing = self._write(page, rows, tally)
        for _ in range(MAX_TRANSACTION_ATTEMPTS - 1):
            if not missing or self.hears_stop():
                return
            missing = self._sweep(page, missing)

    def _write(self, page: Page, rows: Sequence[int], tally: Tally) -> set[str]:
        """Write rows, counts and cursor in one transaction; return the ids that did not change.

        Rows not (yet) accounted for stand in the counts as conflicts. After a deadlock or a lock
        timeout nothing of the batch is committed and all of it is to be read again.
        """
        expected = {page.ids[row] for row in rows}
        changed: set[str] = set()
        try:
            with self._connection.transaction():
                if rows:
                    in_id_order = sorted(rows, key=page.ids.__getitem__)
                    changed = self._work.write(self._connection, page, in_id_order)
                self._ledger.advance(self._position, _counts(tally, len(changed), len(expected - changed)))
        except session.OTHERS_IN_THE_WAY as error:
            changed = set()
            tell(Event.BATCH_PUT_OFF, kind=self._work.kind, rows=len(rows), error=type(error).__name__)
            session.step_aside()
        tally.updated += len(changed)
        tally.conflicts += len(expected - changed)
        self.tally = tally
        return expected - changed

    def _sweep(self, page: Page, missing: set[str]) -> set[str]:
        """Read rows that did not change again: decide and write those that still wait."""
        fresh = self._reread(page, missing)
        decisions = self._work.decide(fresh)
        fresh.payload = decisions.payload
        tally = self.tally.without_conflicts(len(missing))
        tally.changed_meanwhile += len(missing) - len(fresh.ids)
        tally = tally.plus_outcomes(fresh.ids, decisions.outcomes, decisions.describe)
        rows = [row for row, outcome in enumerate(decisions.outcomes) if outcome is None]
        return self._write(fresh, rows, tally)

    def _reread(self, page: Page, wanted: set[str]) -> Page:
        span = Span(page.span.after, page.position(len(page.ids) - 1))
        again = self._work.read(self._connection, span, _NO_LIMIT)
        first = dict(zip(reversed(again.ids), reversed(range(len(again.ids))), strict=True))
        keep = sorted(first[row_id] for row_id in wanted & first.keys())
        columns = (again.ids, again.created_at, again.versions, *again.columns)
        return Page.of(span, [tuple(column[row] for column in columns) for row in keep])

    def finish(self) -> None:
        """Close the ledger row; this commit waits for the disk, and with it for all before it."""
        status = "interrupted" if self.tally.interrupted else "completed"
        with self._connection.transaction():
            if self._position:
                self._ledger.advance(self._position, _counts(self.tally))
            self._ledger.close(status)


def _segments(outcomes: Sequence[str | None], batch_size: int) -> Iterator[tuple[int, int]]:
    """Cut a page into runs of rows that hold at most one batch of writes each."""
    writes = [row for row, outcome in enumerate(outcomes) if outcome is None]
    bounds = [0, *writes[batch_size::batch_size], len(outcomes)]
    yield from pairwise(bounds)


def _counts(tally: Tally, changed: int = 0, missing: int = 0) -> LedgerCounts:
    by_reason = Counter(tally.skipped)
    by_reason["changed_meanwhile"] = tally.changed_meanwhile
    return LedgerCounts(
        scanned=tally.scanned,
        updated=tally.updated + changed,
        skipped=sum(by_reason.values()),
        conflicts=tally.conflicts + missing,
        by_reason={reason: count for reason, count in by_reason.items() if count},
    )


def _close_failed(connection: Connection, ledger: Ledger, error: BaseException) -> None:
    """Leave the error in the ledger, if the connection still carries one more statement."""
    try:
        with connection.transaction():
            ledger.close("failed", f"{type(error).__name__}: {error}"[:2_000])
    except psycopg.Error:
        return  # the next run closes the row; the first error is the one to show
