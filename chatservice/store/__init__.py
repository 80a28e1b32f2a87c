"""The durable side: messages, cursors, epochs, behind one interface.

Promises: when `commit` returns, everything in the batch is on disk (fsync), or none of it is;
a workspace's messages are numbered 1, 2, 3 ... in commit order without a gap; the same
(workspace, user, id) is stored once for as long as the message is in history.

Lifecycle: construct, `start`, use from one event loop, `close`. A failure is raised as
`StoreError` and leaves the store usable: each later call tries anew, so that it recovers by
itself when the disk, the lock or the server does.

Imports nothing of chatservice but `protocol`.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Protocol

import msgspec

from chatservice.protocol import Message


class StoreErrorKind(StrEnum):
    """What kept the store from answering; also a metric label, so the set is closed."""

    FULL = "full"
    """No space is left for the database."""
    LOCKED = "locked"
    """Another process holds the database for longer than the busy timeout."""
    CORRUPT = "corrupt"
    """The file is damaged, or is not a database."""
    IO = "io"
    """The operating system failed to read, write or open it."""
    SCHEMA = "schema"
    """The database was migrated by a newer release, which this one cannot read."""
    STALE = "stale"
    """The workspace is not the one that was opened: it was forgotten, or the database was
    replaced (a backup was restored). Let go of what is known of it, and open it again."""
    CLOSED = "closed"
    """The store was closed, or not yet started."""
    INTERNAL = "internal"
    """Anything else; a bug."""


class StoreError(Exception):
    """The store did not do it. Nothing of the failed call was stored."""

    def __init__(self, kind: StoreErrorKind, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Append(msgspec.Struct, frozen=True, gc=False):
    """A message to be numbered and stored. `ts`: milliseconds since the Unix epoch."""

    workspace: str
    user: str
    name: str
    id: str
    text: str
    ts: int


class MoveCursor(msgspec.Struct, frozen=True, gc=False):
    """A user has read up to `seq`; a cursor never moves back, nor beyond the newest message.

    The user has entered before. Who has not is noted as a member under their id.
    """

    workspace: str
    user: str
    seq: int


class Appended(msgspec.Struct, frozen=True, gc=False):
    """Where a message stands. `repeated`: it was there before, under this number and time.

    Before: in history, or earlier in the same batch. Once the first has left history, the same
    id is a new message.
    """

    seq: int
    ts: int
    repeated: bool


class Cursor(msgspec.Struct, frozen=True, gc=False):
    """How far a user has read, and how many kept messages of others come after it."""

    read: int
    unread: int


class Committed(msgspec.Struct, frozen=True, gc=False):
    """The results of one batch, in the order of its parts.

    `newest`: where other nodes write too, the number as of which the unread counts of each
    workspace with a cursor in the batch were taken; it may be ahead of what this node has seen.
    """

    appended: list[Appended]
    cursors: list[Cursor]
    newest: dict[str, int] = {}


class WorkspaceState(msgspec.Struct, frozen=True, gc=False):
    """A workspace as stored: kept are the messages numbered `floor + 1` to `seq`."""

    epoch: str
    seq: int
    floor: int


class Entry(msgspec.Struct, frozen=True, gc=False):
    """What one user needs on arrival, as of one number.

    `resumed`: `messages` are all those after the client's number; otherwise they are the newest,
    and `more` says that older ones are kept.
    """

    cursor: Cursor
    messages: list[Message]
    resumed: bool
    more: bool


class Page(msgspec.Struct, frozen=True, gc=False):
    """A page of history, oldest first. `more`: older ones are kept."""

    messages: list[Message]
    more: bool


class MemberState(msgspec.Struct, frozen=True, gc=False):
    """A user who has been in the workspace at least once."""

    user: str
    name: str
    cursor: Cursor


class SchemaVersion(msgspec.Struct, frozen=True):
    """The schema of a database, or the one that a release brings.

    `version` is the number of the last migration; `readable_from` is the oldest release schema
    that can still work with it (expand, then contract).
    """

    version: int
    readable_from: int


class Store(Protocol):
    """What the server needs of a store. All numbers are per workspace, and start at 1."""

    async def start(self) -> None:
        """Open the database and bring its schema up to date.

        Raises:
            StoreError: it cannot be opened; `start` may be called again, but not after `close`.
        """

    async def close(self) -> None:
        """Finish what is under way and let go of every file and thread."""

    async def check(self) -> None:
        """Prove that the database can be read and that a write can be made durable.

        Takes milliseconds; after damage was met, as long as it takes to check the whole file.

        Raises:
            StoreError: it cannot; the message says why, for a person.
        """

    async def open(self, workspace: str) -> WorkspaceState:
        """Give the state of a workspace, creating it (durably) where it is new."""

    async def enter(
        self, workspace: str, user: str, name: str, *, upto: int, after: int | None, newest: int
    ) -> Entry:
        """Note (durably) that the user has been here, and give what they need as of `upto`.

        Args:
            workspace: one that was opened.
            user: the user's id.
            name: the user's name, as others shall see it from now on.
            upto: nothing numbered higher is counted or returned.
            after: the last number that the client saw, or None for a fresh client. When not all
                messages after it are kept, or it is higher than `upto`, nothing is resumed.
            newest: how many messages to give when nothing is resumed.

        Raises:
            StoreError: `STALE` where the workspace is not the one that was opened.
        """

    async def commit(self, appends: Sequence[Append], reads: Sequence[MoveCursor]) -> Committed:
        """Store one batch in one transaction; it is on disk when this returns.

        Appends are numbered in the order given; unread counts are as of after all of them, and
        several moves of one user give the same cursor, the last.

        Raises:
            StoreError: `STALE` where a workspace is not the one that was opened.
        """

    async def since(self, workspace: str, after: int, upto: int) -> list[Message]:
        """Give the kept messages numbered `after + 1` to `upto`, oldest first.

        Like `history` and `members`, it gives nothing of a workspace that does not exist.
        """

    async def since_each(self, wanted: Sequence[tuple[str, int, int]]) -> list[list[Message]]:
        """Do `since` for several `(workspace, after, upto)` in one call, in their order."""

    async def history(self, workspace: str, before: int, limit: int) -> Page:
        """Give the `limit` newest kept messages numbered below `before`, oldest first."""

    async def members(self, workspace: str) -> list[MemberState]:
        """Give everyone who has ever entered, ordered by user id."""

    async def forget(self, workspace: str) -> bool:
        """Delete a workspace with all it holds; False where there was none."""

    async def idle_workspaces(self, prefix: str, before_ts: int) -> list[str]:
        """Name the workspaces whose id starts with `prefix` and that are older than `before_ts`.

        The age is that of the newest message, or of the workspace where it has none, in
        milliseconds since the Unix epoch.
        """

    async def size_bytes(self) -> int:
        """Give the bytes that the database occupies on disk; 0 where that is not local."""
