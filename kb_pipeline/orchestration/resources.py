"""What the assets reach the world through: the database and the price files.

Both are plain objects and not configurable: run config is open to everyone who reaches the web
page, so it must not choose a server, hold a password or name a file.
"""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import dagster as dg
import psycopg

from kb_pipeline.errors import BadArgumentError, DatabaseError
from kb_pipeline.orchestration.partitions import SYMBOLS, WORKSPACES, PartitionChanges, partition_changes
from kb_pipeline.storage import orchestration, paths, price_files
from kb_pipeline.storage.activity import run_session_name
from kb_pipeline.storage.postgres import Connection, connect
from kb_pipeline.storage.price_files import PriceFile
from kb_pipeline.storage.symbols import SymbolInfo, load_symbols


class Database:
    """The database that KB_DATABASE_URL names, else the embedded one."""

    @contextmanager
    def session(self, purpose: str, run_id: str | None = None) -> Iterator[Connection]:
        """Open a session; its purpose is what others see who wait for it, and for a run the sign of life.

        Raises:
            DatabaseError: It cannot be reached, or lacks the tables.
        """
        name = run_session_name(purpose, run_id) if run_id else f"dagster {purpose}"
        with connect(application_name=name) as connection:
            try:
                yield connection
            except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn) as error:
                raise DatabaseError(f"{error.diag.message_primary}. Run: kb-pipeline db migrate") from error

    def workspaces(self) -> list[orchestration.Workspace]:
        """Return the active workspaces, by slug."""
        with self.session("partitions") as connection:
            return orchestration.active_workspaces(connection)


class Prices:
    """The price files under a data root."""

    def __init__(self, root: Path | None = None) -> None:
        self._root = root

    @property
    def root(self) -> Path:
        """The directory of symbols.yaml and ohlcv/."""
        return self._root or paths.data_root()

    def files(self) -> list[PriceFile]:
        """Return all price files, by symbol."""
        return price_files.list_price_files(self.root)

    def of_one_run(self) -> "Prices":
        """Return the same files as one run sees them."""
        return _PricesOfOneRun(self._root)

    def files_of(self, symbol: str, timeframe: str | None) -> list[PriceFile]:
        """Return the files of one symbol, at least one.

        Raises:
            BadArgumentError: There is none, of that timeframe where one is given.
        """
        of_symbol = [file for file in self.files() if file.symbol == symbol]
        found = [file for file in of_symbol if timeframe in (None, file.timeframe)]
        if not found:
            needed = f"{symbol}_{timeframe or '1d'}.csv"
            raise BadArgumentError(
                f"There is no price file of {symbol}{f' with bars of {timeframe}' if timeframe else ''} "
                f"in {self.root / 'ohlcv'}. Put one there, named like {needed}."
            )
        return found

    def symbols(self) -> list[str]:
        """Return the symbols that have a price file."""
        return sorted({file.symbol for file in self.files()})

    def listing_state(self) -> str | None:
        """Return what changes when a price file comes or goes; None where one may have just now."""
        return price_files.listing_state(self.root, time.time())

    def info(self, symbol: str) -> SymbolInfo | None:
        """Return calendar and time zone of a symbol, None where symbols.yaml does not list it."""
        path = paths.symbols_file(self.root)
        return load_symbols(path).get(symbol) if path.is_file() else None


class _PricesOfOneRun(Prices):
    """Listed once, when first asked for: 500 symbols among 500 files would take six seconds to list."""

    @cached_property
    def _listed(self) -> list[PriceFile]:
        return super().files()

    def files(self) -> list[PriceFile]:
        return self._listed


def sync_partitions(
    instance: dg.DagsterInstance, database: Database, prices: Prices, *, remove: bool
) -> dict[str, PartitionChanges]:
    """Register the partitions of the database and the price files; remove those that are gone, if wanted."""
    found = {
        WORKSPACES: [workspace.slug for workspace in database.workspaces()],
        SYMBOLS: prices.symbols(),
    }
    return {str(kind.name): _sync(instance, kind, names, remove=remove) for kind, names in found.items()}


def _sync(
    instance: dg.DagsterInstance, kind: dg.DynamicPartitionsDefinition, found: Iterable[str], *, remove: bool
) -> PartitionChanges:
    name = str(kind.name)
    changes = partition_changes(found, instance.get_dynamic_partitions(name))
    if changes.add:
        instance.add_dynamic_partitions(name, changes.add)
    for key in changes.remove if remove else ():
        instance.delete_dynamic_partition(name, key)
    return changes
