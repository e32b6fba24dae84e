"""`Transactions` in SQLite: WAL, synchronous=FULL, one thread for readers and one for writers. Knows no rules."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

from prompt_store.disk.blobs import no_failpoint
from prompt_store.disk.layout import NAMES_FILE
from prompt_store.disk.sqlite_tables import SCHEMA_VERSION, SqliteTables, create_schema
from prompt_store.errors import StoreCorruptError, StoreError, StoreFullError, StoreUnavailableError
from prompt_store.rules.tables import T, Tables

FAILPOINTS = ("names_begun", "names_written", "names_committed")


class SqliteTransactions:
    """`Transactions` over one file that several processes may share; must be opened by one of them at a time."""

    def __init__(self, path: Path, busy_timeout_s: float, failpoint: Callable[[str], None] = no_failpoint) -> None:
        self._writer = _Connection(path, busy_timeout_s, failpoint)
        self._reader = _Connection(path, busy_timeout_s, no_failpoint)

    async def read(self, work: Callable[[Tables], T]) -> T:
        """Run `work` on one snapshot; writers do not make it wait."""
        return await self._reader.run("DEFERRED", work)

    async def write(self, work: Callable[[Tables], T]) -> T:
        """Run `work` under the write lock, which it takes before it reads."""
        return await self._writer.run("IMMEDIATE", work)

    async def close(self) -> None:
        """Finish what runs and close the file."""
        await self._reader.close()
        await self._writer.close()


class _Connection:
    """One connection that lives in one thread of its own."""

    def __init__(self, path: Path, busy_timeout_s: float, failpoint: Callable[[str], None]) -> None:
        self._failpoint = failpoint
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="softmux-names")
        try:
            self._connection = self._thread.submit(_open, path, busy_timeout_s).result()
        except BaseException:
            self._thread.shutdown()
            raise

    async def run(self, mode: Literal["DEFERRED", "IMMEDIATE"], work: Callable[[Tables], T]) -> T:
        loop = asyncio.get_running_loop()
        try:
            ran = loop.run_in_executor(self._thread, self._transact, mode, work)
        except RuntimeError as error:
            raise StoreUnavailableError("the store is closed") from error
        return await ran

    async def close(self) -> None:
        with contextlib.suppress(RuntimeError):  # closed before
            await asyncio.get_running_loop().run_in_executor(self._thread, self._connection.close)
        self._thread.shutdown(wait=False)

    def _transact(self, mode: str, work: Callable[[Tables], T]) -> T:
        with _sqlite_errors():
            self._connection.execute(f"BEGIN {mode}")
            try:
                self._failpoint("names_begun")
                result = work(SqliteTables(self._connection))
                self._failpoint("names_written")
                self._connection.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):  # SQLite may have rolled back itself, on a full disk
                    self._connection.execute("ROLLBACK")
                raise
            self._failpoint("names_committed")
        return result


def _open(path: Path, busy_timeout_s: float) -> sqlite3.Connection:
    with _sqlite_errors():
        connection = sqlite3.connect(path, timeout=busy_timeout_s, isolation_level=None)
        try:
            _prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection


def _prepare(connection: sqlite3.Connection) -> None:
    (found,) = connection.execute("PRAGMA user_version").fetchone()
    if found > SCHEMA_VERSION:
        raise StoreUnavailableError(
            f"the store has schema {found} and this softmux knows {SCHEMA_VERSION}; use the newer softmux"
        )
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    if found < SCHEMA_VERSION:
        connection.execute("BEGIN IMMEDIATE")
        create_schema(connection)
        connection.execute("COMMIT")


@contextlib.contextmanager
def _sqlite_errors() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise _translated(error) from error


def _translated(error: sqlite3.Error) -> StoreError:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF  # the primary code of an extended one
    if code == sqlite3.SQLITE_FULL:
        return StoreFullError(f"the store's names could not be written: {error}. Free some space, then retry")
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return StoreCorruptError(f"the store's names cannot be read: {error}. Restore {NAMES_FILE} from a backup")
    return StoreUnavailableError(f"the store's names did not answer: {error}. Retry")
