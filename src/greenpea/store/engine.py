"""The database behind the store: one thread writes, many read.

Whatever is queued when the writer is free goes into one transaction, and is acknowledged after its commit: one
fsync for all of them (group commit). On SQLite every write transaction is ``BEGIN IMMEDIATE`` in WAL mode with
``synchronous=FULL``; PostgreSQL commits durably by default.
"""

from __future__ import annotations

import contextlib
import json
import queue
import select
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    DisconnectionError,
    IntegrityError,
    SQLAlchemyError,
    StatementError,
)

from greenpea.errors import GreenpeaError

LARGEST_GROUP = 128  # jobs in a transaction: bounds how long the first of them waits
IDLE = 5.0  # seconds after which a connection to PostgreSQL is asked whether it still works
ATTEMPTS = 5  # for a transaction that lost against another process
# PostgreSQL: serialization failure, deadlock, and a row that somebody else inserted meanwhile and is now to be found.
LOST_A_RACE = {"40001", "40P01", "23505"}
WAL_ATTEMPTS = 100
PAUSE = 0.005  # seconds before another attempt

Single = Callable[[Connection], Any]
Item = TypeVar("Item", int, str)
Many = Callable[[Connection, Sequence[Any]], Sequence[Any]]


def engine_for(url: str, write: bool) -> Engine:
    """Return an engine for a SQLite or PostgreSQL URL; on SQLite one that only reads, unless ``write``."""
    try:
        place = make_url(url)
    except ArgumentError as error:
        raise GreenpeaError(
            f"{url!r} is not a database's address: write sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME"
        ) from error
    if place.drivername in ("postgresql", "postgres"):
        place = place.set(drivername="postgresql+psycopg")
    if place.get_backend_name() == "postgresql":
        size = {"pool_size": 1, "max_overflow": 1} if write else {"pool_size": 8, "max_overflow": 16}
        # What only reads asks one question at a time: without a transaction around it, it is asked twice as fast.
        level: Any = "READ COMMITTED" if write else "AUTOCOMMIT"
        engine = create_engine(place, isolation_level=level, json_serializer=_json, **size)
        event.listen(engine, "checkin", _note_the_time)
        event.listen(engine, "checkout", _ping_if_idle)
        return engine
    if place.get_backend_name() != "sqlite":
        raise GreenpeaError(f"the store runs on SQLite and PostgreSQL, not on {place.get_backend_name()}")
    engine = create_engine(place, pool_size=1 if write else 16, max_overflow=0 if write else 32, json_serializer=_json)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_immediate if write else _begin)
    return engine


def _note_the_time(connection: Any, record: Any) -> None:
    record.info["used_at"] = time.monotonic()


def _ping_if_idle(connection: Any, record: Any, proxy: Any) -> None:
    """Ask a connection whether its server is still there, where it was idle or something has arrived unasked.

    A server that stops says so; to ask each time would double what a question costs.
    """
    if time.monotonic() - record.info.get("used_at", 0.0) > IDLE or _something_arrived(connection.pgconn.socket):
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1")
            connection.rollback()
        except Exception as error:
            raise DisconnectionError from error  # the pool takes another


def _something_arrived(socket: int) -> bool:
    waiting = select.poll()
    waiting.register(socket, select.POLLIN | select.POLLHUP | select.POLLERR)
    return bool(waiting.poll(0))


def _prepare_sqlite(connection: sqlite3.Connection, record: object) -> None:
    connection.isolation_level = None  # transactions begin where the engine says, not where the driver guesses
    cursor = connection.cursor()
    _set_wal(cursor)
    for pragma in (
        "busy_timeout = 30000",
        "synchronous = FULL",
        "foreign_keys = ON",
        "cache_size = -65536",
        "temp_store = MEMORY",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _set_wal(cursor: sqlite3.Cursor) -> None:
    """Switch to a write-ahead log; of several processes that open a new file at once, each until it is done."""
    for attempt in range(WAL_ATTEMPTS):
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError:  # SQLite does not wait for this by itself
            if attempt == WAL_ATTEMPTS - 1:
                raise
            time.sleep(10 * PAUSE)


def _begin_immediate(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN")


@dataclass
class _Job:
    """Something to write: one function alone, or one value for a function that takes many."""

    function: Single | None
    many: Many | None
    value: Any
    done: Future[Any]
    attempts: int = 0


class Again(Exception):
    """What was written should be tried once more in a new transaction; ``result`` is what there is without."""

    def __init__(self, result: Any) -> None:
        super().__init__("try again")
        self.result = result


class _Failed(Exception):
    """One job of a group failed by itself: the others can go on without it."""

    def __init__(self, job: _Job, error: Exception) -> None:
        super().__init__(str(error))
        self.job, self.error = job, error


def text_of(value: str) -> str:
    """Return text as both databases take it: PostgreSQL has no place for a NUL character."""
    return value.replace("\x00", "")


def fitting(value: str, most: int, what: str) -> str:
    """Return text that both databases keep. Raises GreenpeaError where it is longer than ``most`` characters."""
    if len(value) > most:
        raise GreenpeaError(f"{what} has at most {most} characters; this has {len(value)}: shorten it")
    return text_of(value)


def padded(values: Iterable[Item]) -> list[Item]:
    """Return values in order, the last repeated up to the next power of two.

    A list in a statement is as many parameters: few lengths are few statements for the database to prepare.
    """
    some = sorted(values)
    return some + some[-1:] * ((1 << max(len(some) - 1, 0).bit_length()) - len(some))


class Database:
    """Two engines on one database, and the thread that writes."""

    def __init__(self, url: str, group: bool = True) -> None:
        self.reader, self.writer = engine_for(url, write=False), engine_for(url, write=True)
        self.kind: str = self.writer.dialect.name
        self.last_commit: datetime | None = None
        self._commits, self._look_after = 0, 300
        self._looking: threading.Thread | None = None
        self.group = group
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._starting, self._closed = threading.Lock(), False

    # ---- reading -------------------------------------------------------------------------------

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Yield a connection to read with; on PostgreSQL two statements may see two states of the database."""
        try:
            with self.reader.connect() as connection:
                yield connection
        except (DataError, OverflowError, UnicodeError) as error:
            raise GreenpeaError(f"there can be no such thing in the store: {_reason(error)}") from error

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """Yield a connection that sees one state of the database, however long it reads."""
        with self.reader.connect() as connection:
            if self.kind == "postgresql":
                connection = connection.execution_options(isolation_level="REPEATABLE READ")
            yield connection

    # ---- writing -------------------------------------------------------------------------------

    def write(self, function: Single) -> Any:
        """Run ``function(connection)`` in the next transaction; return its result after the commit."""
        return self.submit(function).result()

    def submit(self, function: Single) -> Future[Any]:
        """Queue ``function(connection)``; the future is done after the commit."""
        return self._put(_Job(function, None, None, Future()))

    def submit_to(self, many: Many, value: Any) -> Future[Any]:
        """Queue ``value`` for ``many(connection, values)``, which gets all that wait and returns a result for each."""
        return self._put(_Job(None, many, value, Future()))

    @property
    def waiting(self) -> int:
        """How many writes are queued."""
        return self._jobs.qsize()

    def analyze(self) -> None:
        """Let PostgreSQL count what its tables hold: without, it plans as if they were empty."""
        if self.kind == "postgresql":
            with self.reader.connect() as connection:
                connection.exec_driver_sql("ANALYZE")

    def close(self) -> None:
        """Write what is queued, then let go of the database."""
        with self._starting:
            self._closed = True
            thread, self._thread = self._thread, None
        if thread is not None:
            self._jobs.put(None)
            thread.join()
        if self._looking is not None:
            self._looking.join()
        self.reader.dispose()
        self.writer.dispose()

    def _put(self, job: _Job) -> Future[Any]:
        with self._starting:
            if self._closed:
                raise GreenpeaError("the store is closed")
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="greenpea-writer", daemon=True)
                self._thread.start()
            self._jobs.put(job)
        return job.done

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            jobs, stop = [job], False
            while self.group and len(jobs) < LARGEST_GROUP and not self._jobs.empty():
                if (another := self._jobs.get()) is None:
                    stop = True
                    break
                jobs.append(another)
            # Whoever gave up waiting in the queue is left out; from here on nobody can.
            self._commit([job for job in jobs if job.done.set_running_or_notify_cancel()])
            self._look()
            if stop:
                return

    def _commit(self, jobs: list[_Job]) -> None:
        """Run jobs in one transaction; one that fails by itself is left out, so that it spoils no other."""
        later: list[_Job] = []
        while jobs:
            try:
                results = self._transaction(jobs)
            except _Failed as failed:
                jobs = [job for job in jobs if job is not failed.job]
                later += self._settle(failed.job, failed.error)
            except BaseException as error:  # whoever waits must hear of it, whatever it was
                if len(jobs) == 1:
                    jobs[0].done.set_exception(_told(error))
                    break
                for job in jobs:  # it cannot be told whose fault it was
                    self._commit([job])
                break
            else:
                self.last_commit = datetime.now(UTC)
                for job, result in zip(jobs, results, strict=True):
                    job.done.set_result(result)
                break
        for job in later:
            time.sleep(PAUSE)
            self._commit([job])

    def _settle(self, job: _Job, error: Exception) -> list[_Job]:
        """Answer a job that failed by itself; return it if it should be tried again."""
        if not isinstance(error, Again):
            job.done.set_exception(_told(error))
            return []
        job.attempts += 1
        if job.attempts >= ATTEMPTS:
            job.done.set_result(error.result)
            return []
        return [job]

    def _look(self) -> None:
        """Refresh PostgreSQL's statistics as the tables fill: its own come only after minutes. Nobody waits for it."""
        self._commits += 1
        if self._commits == self._look_after and self.kind == "postgresql":
            self._look_after *= 3
            self._looking = threading.Thread(target=self._look_around, name="greenpea-looking", daemon=True)
            self._looking.start()

    def _look_around(self) -> None:
        with contextlib.suppress(SQLAlchemyError):  # statistics are a help, and no more: the next time will do
            self.analyze()

    def _transaction(self, jobs: list[_Job]) -> list[Any]:
        for attempt in range(ATTEMPTS):
            ready = False
            try:
                with self.writer.begin() as connection:
                    results = _run(connection, jobs)
                    ready = True
                return results
            except DBAPIError as error:
                # A connection lost while committing may have committed: only whoever asked can know what to do.
                lost = error.connection_invalidated and not ready
                raced = getattr(error.orig, "sqlstate", None) in LOST_A_RACE
                if attempt == ATTEMPTS - 1 or not (lost or raced):
                    raise
                time.sleep(PAUSE)
        raise AssertionError("unreachable")


def _run(connection: Connection, jobs: list[_Job]) -> list[Any]:
    """Run what takes many values first: it locks rows in one order for everybody, so two processes do not deadlock."""
    results: dict[int, Any] = {}
    together: dict[Many, list[_Job]] = {}
    for job in jobs:
        if job.many is not None:
            together.setdefault(job.many, []).append(job)
    for many, some in together.items():
        found = many(connection, [job.value for job in some])
        results |= {id(job): result for job, result in zip(some, found, strict=True)}
    for job in jobs:
        if job.function is not None:
            results[id(job)] = _run_one(connection, job, job.function)
    return [results[id(job)] for job in jobs]


def _run_one(connection: Connection, job: _Job, function: Single) -> Any:
    try:
        return function(connection)
    except DBAPIError:  # it may have lost a race: that is for the whole transaction to try again
        raise
    except Exception as error:
        raise _Failed(job, error) from error


def _told(error: BaseException) -> BaseException:
    """Return an error as whoever wrote should hear it: in words, where a value was not what a database keeps."""
    odd = isinstance(error, DataError | IntegrityError | OverflowError | UnicodeError)
    if odd or (isinstance(error, StatementError) and not isinstance(error, DBAPIError)):
        told = GreenpeaError(f"the store cannot keep this: {_reason(error)}")
        told.__cause__ = error
        return told
    return error


def _reason(error: BaseException) -> str:
    return str(getattr(error, "orig", None) or error).splitlines()[0]


def _json(value: Any) -> str:
    """Return JSON. Raises GreenpeaError for what JSON has not, such as NaN, which PostgreSQL would refuse."""
    try:
        return json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise GreenpeaError(f"the store keeps JSON, and this is none: {error}") from error
