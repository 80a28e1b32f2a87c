"""The store on one host: SQLite with a write-ahead log, every commit synced to disk.

One thread writes and one reads. The file is opened anew by itself after damage, after an I/O
error, and when a backup was put in its place while the service runs; in that last case every
workspace gets a new epoch, and calls for one that was opened before fail with `STALE`.

Two processes may have the database open, as when one takes over from the other, so nothing is
remembered from one transaction to the next.

What a lower `history.keep` made superfluous is hidden at once, and deleted from disk when the
workspace is next written to.

Of a commit that the disk failed to sync nobody can say whether it would survive a crash at that
moment; it is rolled back, and the next commit overwrites it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from chatservice.protocol import Message
from chatservice.store import (
    Append,
    Committed,
    Entry,
    MemberState,
    MoveCursor,
    Page,
    StoreError,
    StoreErrorKind,
    WorkspaceState,
)
from chatservice.store import sqlite_read as reading
from chatservice.store import sqlite_write as writing
from chatservice.store.migrate import MIGRATIONS
from chatservice.store.sqlite_database import Database
from chatservice.store.sqlite_worker import Reader, Writer


class SqliteStore:
    """Implements `chatservice.store.Store`, which says what each method promises.

    Args:
        path: the database; its directory must exist.
        keep: how many messages are kept of each workspace.
        busy_timeout: how long to wait for another process that holds the database, in seconds.
        migrations: the directory of the migrations.
    """

    def __init__(
        self, path: Path, *, keep: int, busy_timeout: float, migrations: Path = MIGRATIONS
    ) -> None:
        self._path = path
        self._database = Database(path, keep=keep, busy_timeout=busy_timeout, migrations=migrations)
        self._lifecycle = asyncio.Lock()
        self._threads: tuple[Writer, Reader] | None = None
        self._closed = False

    @property
    def transactions(self) -> int:
        """How many write transactions were committed since `start`."""
        return self._writer.transactions

    async def start(self) -> None:
        """Start both threads, open the file, and migrate it where it is older than the release."""
        async with self._lifecycle:
            if self._closed:
                raise self._unusable()
            if self._threads is not None:
                return
            writer, reader = Writer(self._database), Reader(self._database)
            writer.start()
            reader.start()
            try:
                # The session that runs this has been opened: that is the point.
                await writer.submit(lambda _: None)
                await reader.submit(lambda _: None)
            except BaseException:
                await reader.stop()
                await writer.stop()
                raise
            self._threads = writer, reader

    async def close(self) -> None:
        """Finish what was submitted, empty the log into the database, end both threads."""
        self._closed = True
        async with self._lifecycle:
            if self._threads is not None:
                writer, reader = self._threads
                await reader.stop()
                await writer.stop()  # last, so that nobody hinders its checkpoint
                self._threads = None

    async def check(self) -> None:
        """Commit a heartbeat and read it back; after damage, check the whole file first."""
        if self._database.suspect:
            await self._reader.submit(partial(reading.prove_whole, path=self._path))
            self._database.suspect = False
        await self._writer.submit(writing.beat)
        await self._reader.submit(lambda _: self._database.require_space())
        await self._reader.submit(partial(reading.prove_readable, path=self._path))

    async def open(self, workspace: str) -> WorkspaceState:
        """Read the state of a workspace; only a new one costs a write."""
        state = await self._reader.submit(
            lambda session: reading.workspace_state(session, workspace)
        )
        if state is None:
            state = await self._writer.submit(
                lambda session: writing.create_workspace(session, workspace)
            )
        return state

    async def enter(
        self, workspace: str, user: str, name: str, *, upto: int, after: int | None, newest: int
    ) -> Entry:
        """Read what the user needs; only a new member or a new name costs a write."""
        entry, known_as = await self._reader.submit(
            lambda session: reading.entry(
                session, workspace, user, upto=upto, after=after, newest=newest
            )
        )
        if known_as != name:
            await self._writer.submit(
                lambda session: writing.note_member(session, workspace, user, name)
            )
        return entry

    async def commit(self, appends: Sequence[Append], reads: Sequence[MoveCursor]) -> Committed:
        """Store one batch in one transaction."""
        return await self._writer.submit(lambda session: writing.commit(session, appends, reads))

    async def since(self, workspace: str, after: int, upto: int) -> list[Message]:
        """Read messages by number."""
        return await self._reader.submit(
            lambda session: reading.since(session, workspace, after, upto)
        )

    async def since_each(self, wanted: Sequence[tuple[str, int, int]]) -> list[list[Message]]:
        """Read messages of several workspaces."""
        return await self._reader.submit(
            lambda session: [reading.since(session, *each) for each in wanted]
        )

    async def history(self, workspace: str, before: int, limit: int) -> Page:
        """Read a page of messages."""
        return await self._reader.submit(
            lambda session: reading.history(session, workspace, before, limit)
        )

    async def members(self, workspace: str) -> list[MemberState]:
        """Read everyone who has ever entered."""
        return await self._reader.submit(lambda session: reading.members(session, workspace))

    async def forget(self, workspace: str) -> bool:
        """Delete a workspace."""
        return await self._writer.submit(lambda session: writing.forget(session, workspace))

    async def idle_workspaces(self, prefix: str, before_ts: int) -> list[str]:
        """Read which workspaces of that prefix were last written to before then."""
        return await self._reader.submit(
            lambda session: reading.idle_workspaces(session, prefix, before_ts)
        )

    async def size_bytes(self) -> int:
        """Add up the database, its log and the log's index."""
        return await self._reader.submit(lambda _: reading.size_bytes(self._path))

    @property
    def _writer(self) -> Writer:
        return self._running()[0]

    @property
    def _reader(self) -> Reader:
        return self._running()[1]

    def _running(self) -> tuple[Writer, Reader]:
        if self._threads is None or self._closed:
            raise self._unusable()
        return self._threads

    def _unusable(self) -> StoreError:
        why = "was closed" if self._closed else "was not started"
        return StoreError(StoreErrorKind.CLOSED, f"{self._path}: the store {why}")
