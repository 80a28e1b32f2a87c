"""The two threads that talk to SQLite: one writes, one reads, so that reads wait for no commit.

Each takes all that has queued up and does it in one transaction: a thousand users entering at
once cost the writer a few fsyncs, not a thousand. What fails for a reason of its own does not
take the rest with it. Results go back to the event loop in one wake-up for the whole group.

The number of SQL statements must not grow with the number of rows, here and in what runs here:
SQLite's module gives up the interpreter lock around each, and has to win it back from an event
loop that may be busy.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import NamedTuple, TypeVar, cast

from chatservice.store import StoreError, StoreErrorKind
from chatservice.store.sqlite_database import Database, Session
from chatservice.store.sqlite_file import checkpoint, connect_to_read, connect_to_write

T = TypeVar("T")

Work = Callable[[Session], T]
"""Runs in a thread, in a transaction. Raises StoreError only before it has written anything."""


class _Job(NamedTuple):
    work: Work[object]
    future: asyncio.Future[object]


class _Outcome(NamedTuple):
    future: asyncio.Future[object]
    result: object
    error: StoreError | None


class _Worker(threading.Thread):
    """Runs work in the order submitted, as much as there is in one transaction."""

    BEGIN: str
    END: str
    GROUP: int
    MUST_EXIST: bool

    def __init__(
        self, database: Database, connect: Callable[[Path, float], sqlite3.Connection], name: str
    ) -> None:
        super().__init__(name=name, daemon=True)  # a hung disk must not keep the process alive
        self.transactions = 0
        """How many were committed."""
        self._database = database
        self._connect = connect
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._session: Session | None = None
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[object] = self._loop.create_future()

    def submit(self, work: Work[T]) -> asyncio.Future[T]:
        """Have `work` done; call from the event loop. The future fails with a StoreError only."""
        future: asyncio.Future[object] = self._loop.create_future()
        self._queue.put(_Job(work, future))
        return cast("asyncio.Future[T]", future)

    async def stop(self) -> None:
        """Finish what was submitted, close the connection, end the thread."""
        self._queue.put(None)
        await asyncio.shield(self._ended)
        self.join()

    def run(self) -> None:
        """Work until told to stop."""
        try:
            more = True
            while more:
                more, jobs = self._next_group()
                if jobs:
                    self._deliver(self._perform(jobs))
            if self._session is not None:
                self._before_closing(self._session.connection)
                self._session.connection.close()
        finally:
            self._deliver([_Outcome(self._ended, None, None)])

    def _next_group(self) -> tuple[bool, list[_Job]]:
        """Wait for work; take what is there. False: nothing comes after it."""
        jobs: list[_Job] = []
        job = self._queue.get()
        while job is not None:
            jobs.append(job)
            if len(jobs) == self.GROUP:
                return True, jobs
            try:
                job = self._queue.get_nowait()
            except Empty:
                return True, jobs
        return False, jobs

    def _perform(self, jobs: list[_Job]) -> list[_Outcome]:
        """Do the work of a group in one transaction; after an unforeseen failure, each alone."""
        try:
            session = self._session = self._database.session(
                self._session, self._connect, must_exist=self.MUST_EXIST
            )
        except Exception as error:
            return _all_failed(jobs, self._database.failed(error))
        connection = session.connection
        try:
            connection.execute(self.BEGIN)
            outcomes = [self._do(job, session) for job in jobs]
            connection.execute(self.END)
            self._after_commit(session)
        except Exception as error:
            self._roll_back(connection)
            failure = self._database.failed(error)
            if failure.kind is StoreErrorKind.INTERNAL and len(jobs) > 1:
                return [outcome for job in jobs for outcome in self._perform([job])]
            return _all_failed(jobs, failure)
        self.transactions += 1
        return outcomes

    def _do(self, job: _Job, session: Session) -> _Outcome:
        try:
            return _Outcome(job.future, job.work(session), None)
        except StoreError as refusal:
            return _Outcome(job.future, None, refusal)

    def _roll_back(self, connection: sqlite3.Connection) -> None:
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        except sqlite3.Error:
            # Not to be trusted any more. Closing it ends the transaction, too.
            connection.close()
            self._session = None

    def _deliver(self, outcomes: list[_Outcome]) -> None:
        try:
            self._loop.call_soon_threadsafe(_settle, outcomes)
        except RuntimeError:
            return  # the event loop is closed: nobody waits any more

    def _after_commit(self, session: Session) -> None:
        """Take a last look before anybody is told."""

    def _before_closing(self, connection: sqlite3.Connection) -> None:
        """Put the connection's affairs in order."""


class Writer(_Worker):
    """The only thread that writes."""

    BEGIN = "BEGIN IMMEDIATE"
    END = "COMMIT"
    GROUP = 10_000
    MUST_EXIST = True

    def __init__(self, database: Database) -> None:
        super().__init__(
            database,
            lambda path, timeout: connect_to_write(path, busy_timeout=timeout),
            "store-writer",
        )

    def _after_commit(self, session: Session) -> None:
        self._database.require_in_place(session)

    def _before_closing(self, connection: sqlite3.Connection) -> None:
        checkpoint(connection, shrink=self._database.has_space())


class Reader(_Worker):
    """Reads a consistent state in each transaction. Stays of use while the disk is full."""

    BEGIN = "BEGIN"
    END = "ROLLBACK"  # after damage was met, a COMMIT fails
    GROUP = 256  # an answer must not wait for too many others
    MUST_EXIST = False

    def __init__(self, database: Database) -> None:
        super().__init__(
            database,
            lambda path, timeout: connect_to_read(path, busy_timeout=timeout),
            "store-reader",
        )

    def _do(self, job: _Job, session: Session) -> _Outcome:
        """One damaged page fails those who read it, and nobody else."""
        try:
            return _Outcome(job.future, job.work(session), None)
        except Exception as error:
            if not session.connection.in_transaction:  # an I/O error ends it
                session.connection.execute(self.BEGIN)
            return _Outcome(job.future, None, self._database.failed(error))


def _all_failed(jobs: list[_Job], failure: StoreError) -> list[_Outcome]:
    # An exception of its own for each: one that many raise gathers all their tracebacks.
    return [_Outcome(job.future, None, StoreError(failure.kind, str(failure))) for job in jobs]


def _settle(outcomes: list[_Outcome]) -> None:
    """Tell the callers; runs on the event loop. Who was cancelled no longer asks."""
    for future, result, error in outcomes:
        if future.done():
            continue
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
