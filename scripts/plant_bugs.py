"""Plant known bugs into a copy of the project, one at a time, and see each caught by the fault tests.

`make plant` runs it; its last lines are the table of docs/faults.md. A bug that no test catches, a patch
that does not fit the code any more, and a test that fails without any bug each end it with exit code 1.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PROJECT: Final = Path(__file__).resolve().parents[1]
COPIED: Final = ("data", "kb_pipeline", "kb_pipeline_tests", "migrations", "pyproject.toml")

FAULTS: Final = "kb_pipeline_tests/faults/"
RACES: Final = "kb_pipeline_tests/integration/test_write_races.py"
TENANTS: Final = "kb_pipeline_tests/integration/test_tenants.py"
RETRIES: Final = "kb_pipeline_tests/integration/test_retries.py"
RUNS_SQL: Final = "kb_pipeline/sql/backtest_runs.sql"
TUNES_SQL: Final = "kb_pipeline/sql/backtest_tunes.sql"
ENGINE: Final = "kb_pipeline/backfills/engine.py"


@dataclass(frozen=True)
class Patch:
    """One text in one file that is replaced by another; it must stand there exactly once."""

    file: str
    old: str
    new: str


@dataclass(frozen=True)
class Bug:
    """A way to break a promise, and the tests that must see it."""

    name: str
    patches: Sequence[Patch]
    tests: Sequence[str]


_MARK_VERSION: Final = "       AND run.xmin = read.version\n       AND (run.kb_status = 'excluded'"
_MARK_STATUS: Final = "       AND (run.kb_status = 'excluded' OR run.kb_status IS NULL)\n       AND (run.kb_"
_MARK_PERSON: Final = (
    "       AND (run.kb_status_changed_by IS NULL OR run.kb_status_changed_by = %(actor)s)\n RETURNING"
)
_MARK_GUARD: Final = (
    "       AND run.xmin = read.version\n"
    "       AND (run.kb_status = 'excluded' OR run.kb_status IS NULL)\n"
    "       AND (run.kb_status_changed_by IS NULL OR run.kb_status_changed_by = %(actor)s)\n"
)
_AUDIT: Final = """), audited AS (
    INSERT INTO kb_status_history
           (workspace_id, source_type, source_id, from_status, to_status, actor_type, actor_id, reason)
    SELECT %(workspace_id)s, 'test_variant', changed.id, 'excluded', 'candidate', 'auto', %(actor)s, %(gate)s
      FROM changed
)
SELECT changed.id::text FROM changed
"""
_TRANSACTION: Final = """            with self._connection.transaction():
                if rows:
                    in_id_order = sorted(rows, key=page.ids.__getitem__)
                    changed = self._work.write(self._connection, page, in_id_order)
                self._ledger.advance(self._position, _counts(tally, len(changed), len(expected - changed)))
"""
_CANDIDACY_RACES: Final = (f"{RACES}::test_a_write_beside_another_session",)

BUGS: Final = (
    Bug("no re-check at all", (Patch(RUNS_SQL, _MARK_GUARD, ""),), _CANDIDACY_RACES),
    Bug(
        "the status alone is checked again",
        (
            Patch(RUNS_SQL, _MARK_VERSION, "       AND (run.kb_status = 'excluded'"),
            Patch(RUNS_SQL, _MARK_PERSON, " RETURNING"),
        ),
        _CANDIDACY_RACES,
    ),
    Bug(
        "the condition stands in a sub-select",
        (
            Patch(
                RUNS_SQL,
                _MARK_GUARD,
                "       AND run.id IN (SELECT id FROM backtest_runs WHERE xmin = read.version"
                " AND (kb_status = 'excluded' OR kb_status IS NULL)"
                " AND (kb_status_changed_by IS NULL OR kb_status_changed_by = %(actor)s))\n",
            ),
        ),
        _CANDIDACY_RACES,
    ),
    Bug(
        "a regime is written whatever version of the run was read",
        (
            Patch(
                RUNS_SQL,
                "   AND run.xmin = read.version\n   AND (run.regime_oos IS NULL",
                "   AND (run.regime_oos IS NULL",
            ),
        ),
        _CANDIDACY_RACES,
    ),
    Bug(
        "a tune is attributed whatever version of it was read",
        (Patch(TUNES_SQL, "       AND tune.xmin = read.version\n", ""),),
        (f"{RACES}::test_a_tune_that_completes_again_meanwhile_gets_what_it_completed_with",),
    ),
    Bug(
        "progress is committed before the values",
        (
            Patch(
                ENGINE,
                _TRANSACTION,
                """            with self._connection.transaction():
                self._ledger.advance(self._position, _counts(tally, len(rows), 0))
            with self._connection.transaction():
                if rows:
                    in_id_order = sorted(rows, key=page.ids.__getitem__)
                    changed = self._work.write(self._connection, page, in_id_order)
""",
            ),
        ),
        (f"{FAULTS}test_kills.py",),
    ),
    Bug(
        "the audit rows are of a later transaction",
        (
            Patch(RUNS_SQL, _AUDIT, ")\nSELECT changed.id::text FROM changed\n"),
            Patch(
                ENGINE,
                "        except session.OTHERS_IN_THE_WAY as error:\n            changed = set()\n",
                """            if self._work.kind == "candidacy" and changed:
                self._connection.execute(
                    "INSERT INTO kb_status_history (workspace_id, source_type, source_id, from_status,"
                    " to_status, actor_type, actor_id) SELECT workspace_id, 'test_variant', id, 'excluded',"
                    " 'candidate', 'auto', 'backfill' FROM backtest_runs WHERE id = ANY (%s::uuid[])",
                    [list(changed)],
                )
        except session.OTHERS_IN_THE_WAY as error:
            changed = set()
""",
            ),
        ),
        (f"{FAULTS}test_kills.py",),
    ),
    Bug(
        "every statement commits by itself",
        (
            Patch(
                ENGINE, _TRANSACTION, _TRANSACTION.replace("with self._connection.transaction()", "if True")
            ),
        ),
        (f"{FAULTS}test_kills.py",),
    ),
    Bug(
        "batches of 1,000 rows",
        (
            Patch(
                ENGINE,
                "in _segments(decisions.outcomes, self._batch_size)",
                "in _segments(decisions.outcomes, 1000)",
            ),
        ),
        (f"{FAULTS}test_kills.py",),
    ),
    Bug(
        "a run goes on where a dry run stopped",
        (
            Patch(
                ENGINE,
                "    tally.interrupted = watch.stop()\n    if not tally.interrupted:\n",
                """    ledger = Ledger.open(connection, work.kind, request.workspace_id, work.settings, None)
    ledger.advance(page.position(len(page.ids) - 1), _counts(tally))
    ledger.close("completed")
    tally.interrupted = watch.stop()
    if not tally.interrupted:
""",
            ),
        ),
        (
            f"{FAULTS}test_kills.py::test_a_dry_run_after_a_kill_leaves_no_trace_and_the_next_run_goes_on_where_the_killed_one_was",
        ),
    ),
    Bug(
        "the sensor looks for what completed since it last found something",
        (
            Patch(
                "kb_pipeline/sql/orchestration.sql",
                "   AND due.status = 'completed'\n   AND (due.regime_key IS NULL OR",
                "   AND due.status = 'completed'\n   AND due.completed_at > (SELECT"
                " coalesce(max(attributed_completed_at), '-infinity') FROM backtest_tunes)\n"
                "   AND (due.regime_key IS NULL OR",
            ),
        ),
        (f"{RACES}::test_a_tune_that_commits_after_a_later_one_was_attributed_is_still_due",),
    ),
    Bug(
        "a run whose process is gone counts as running for ever",
        (
            Patch(
                "kb_pipeline/orchestration/sensors.py",
                "        if run and not run.is_finished:\n",
                "        if run and not run:\n",
            ),
        ),
        (f"{FAULTS}test_sensor_kills.py",),
    ),
    Bug(
        "the workspace is left out of a read and its write",
        (
            Patch(
                "kb_pipeline/sql/backtest_tunes.sql",
                " WHERE tune.workspace_id = %(workspace_id)s\n   AND tune.status = 'completed'\n"
                "   AND (tune.regime_key",
                " WHERE tune.status = 'completed'\n   AND (tune.regime_key",
            ),
            Patch(
                TUNES_SQL,
                "     WHERE tune.id = read.id\n       AND tune.workspace_id = %(workspace_id)s\n",
                "     WHERE tune.id = read.id\n",
            ),
        ),
        (TENANTS,),
    ),
    Bug(
        "the workspace is not set again after a commit",
        (
            Patch(
                "kb_pipeline/storage/postgres.py",
                "            if begins and self.workspace_id is not None:\n",
                "            if begins and self.workspace_id is not None and not hasattr(self, 'named'):\n"
                "                self.named = True\n",
            ),
        ),
        (f"{FAULTS}test_kills.py",),
    ),
    Bug(
        "the workspace stays set in the session",
        (
            Patch(
                "kb_pipeline/sql/session.sql",
                "SET LOCAL app.workspace_id",
                "SET app.workspace_id",
            ),
        ),
        (TENANTS,),
    ),
    Bug(
        "nobody holds the writer's lock",
        (
            Patch(
                "kb_pipeline/sql/session.sql",
                "SELECT pg_try_advisory_lock(%(key)s)",
                "SELECT %(key)s IS NOT NULL",
            ),
        ),
        (f"{FAULTS}test_side_by_side.py",),
    ),
    Bug(
        "a deadlock or a lock timeout is the end",
        (
            Patch(
                "kb_pipeline/storage/session.py",
                "(SerializationFailure, DeadlockDetected, LockNotAvailable)",
                "()",
            ),
        ),
        (RETRIES,),
    ),
    Bug(
        "rows that changed are tried again as they were read first",
        (
            Patch(
                ENGINE,
                "        again = self._work.read(self._connection, span, _NO_LIMIT)\n",
                "        again = page\n",
            ),
        ),
        _CANDIDACY_RACES,
    ),
    Bug(
        "a signal is heard between two batches only",
        (Patch(ENGINE, "if not missing or self.hears_stop():", "if not missing:"),),
        (f"{FAULTS}test_signals.py::test_a_signal_is_heard_while_somebody_else_holds_the_rows",),
    ),
    Bug(
        "the last commit does not wait for the disk either",
        (
            Patch(
                "kb_pipeline/storage/postgres.py",
                '            set_session(connection, {"synchronous_commit": "on"})\n',
                "            pass\n",
            ),
        ),
        (f"{FAULTS}test_server_faults.py::test_what_was_reported_as_written_outlives_a_crash",),
    ),
    Bug(
        "a run that was killed is not closed by the next one",
        (Patch("kb_pipeline/sql/kb_backfill_runs.sql", "   AND status = 'running'\n", "   AND false\n"),),
        (f"{FAULTS}test_kills.py",),
    ),
)


def main() -> int:
    """Plant the bugs that are named, all without arguments; return the exit code."""
    wanted = [bug for bug in BUGS if not sys.argv[1:] or any(it in bug.name for it in sys.argv[1:])]
    with tempfile.TemporaryDirectory(prefix="kbplant", dir="/tmp") as directory:
        copy = Path(directory)
        _copy_project(copy)
        tests = sorted({test for bug in wanted for test in bug.tests})
        print(f"without a bug: {len(tests)} files and tests ...", flush=True)
        if failed := _failed(copy, tests):
            print(f"fails without any bug: {failed}")
            return 1
        caught = {bug.name: _caught(copy, bug) for bug in wanted}
    print("\n| planted | caught by |\n|---|---|")
    for name, test in caught.items():
        print(f"| {name} | {test or 'NOTHING'} |")
    print(f"\n{sum(map(bool, caught.values()))} of {len(caught)} caught")
    return 0 if all(caught.values()) else 1


def _copy_project(copy: Path) -> None:
    for name in COPIED:
        source = PROJECT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, copy / name)


def _caught(copy: Path, bug: Bug) -> str:
    """Return the test that saw a bug, empty where none did."""
    with _planted(copy, bug):
        failed = _failed(copy, bug.tests)
    print(f"{bug.name}: {failed or 'NOT CAUGHT'}", flush=True)
    return failed


@contextmanager
def _planted(copy: Path, bug: Bug) -> Iterator[None]:
    before = {it.file: (copy / it.file).read_text(encoding="utf-8") for it in bug.patches}
    try:
        for it in bug.patches:
            text = (copy / it.file).read_text(encoding="utf-8")
            times = text.count(it.old)
            if times != 1:
                raise SystemExit(f"{bug.name}: the text to replace stands {times} times in {it.file}")
            (copy / it.file).write_text(text.replace(it.old, it.new), encoding="utf-8")
        yield
    finally:
        for file, text in before.items():
            (copy / file).write_text(text, encoding="utf-8")


def _failed(copy: Path, tests: Sequence[str]) -> str:
    """Run tests in the copy up to the first that fails; return its name, empty where all pass."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False, timeout=900)
    if done.returncode == 0:
        return ""
    found = re.search(r"^FAILED \S+/(\w+)\.py::(\w+)(\[[^\]]+\])?", done.stdout, re.MULTILINE)
    if done.returncode != 1 or found is None:
        raise SystemExit(f"The tests did not run:\n{done.stdout[-3000:]}{done.stderr[-1000:]}")
    case = f" ({found[3][1:-1].replace('_', ' ')})" if found[3] else ""
    return f"`{found[1]}`: {found[2].removeprefix('test_').replace('_', ' ')}{case}"


if __name__ == "__main__":
    sys.exit(main())
