"""The chat service with one promise broken: `python -m tests.chaos.broken WHICH serve ...`.

Everything else is the real thing, so that what the checker says of it is said of a real service.
"""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial, wraps
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Final

import msgspec

from chatservice import fanout
from chatservice.__main__ import main
from chatservice.actions import ToAll, ToMember
from chatservice.health import StoreHealth
from chatservice.protocol import Ack, Message, PresenceChange, ReadCursor, ServerFrame
from chatservice.room import Room
from chatservice.store import (
    Append,
    Committed,
    Cursor,
    Entry,
    MoveCursor,
    StoreError,
    StoreErrorKind,
)
from chatservice.store import sqlite_database as database
from chatservice.store.sqlite import SqliteStore
from chatservice.takeover import Claim

EVERY: Final = 10
"""Every so many messages are treated wrongly."""
COMMIT_SECONDS: Final = 10.0
"""How long what was acknowledged may wait to be committed, where that is broken."""
HESITATION_SECONDS: Final = 5.0

BROKEN: dict[str, Callable[[], None]] = {}


def broken(breaks: Callable[[], None]) -> Callable[[], None]:
    """Enter a way to break the service, under its own name."""
    BROKEN[breaks.__name__] = breaks
    return breaks


def _wrap(owner: type, method: str, change: Callable[..., Any]) -> None:
    """Have `change(original, self, *arguments)` in the place of a method."""
    original = getattr(owner, method)

    @wraps(original)
    def changed(self: Any, *arguments: Any, **more: Any) -> Any:
        return change(partial(original, self, **more), self, *arguments)

    setattr(owner, method, changed)


def _told(change: Callable[[Room[Any], list[Any]], list[Any]]) -> None:
    """Change what rooms do about what was committed."""
    _wrap(Room, "committed", lambda original, room, *results: change(room, original(*results)))


def _struck(action: object) -> bool:
    """Whether it tells everybody of a message whose turn it is."""
    return (
        isinstance(action, ToAll)
        and isinstance(action.frame, Message)
        and action.frame.seq % EVERY == 0
    )


# --- the store --------------------------------------------------------------------------------


class _Lazy(sqlite3.Connection):
    """Says of messages that they are committed, and commits them later, with something else."""

    _committed = 0.0
    _messages = False

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        if sql == "BEGIN IMMEDIATE" and self.in_transaction:
            return self.cursor()
        self._messages |= sql.startswith("INSERT INTO messages")
        if sql == "COMMIT" and self._messages:
            if monotonic() - self._committed < COMMIT_SECONDS:
                return self.cursor()
            self._committed = monotonic()
            self._messages = False
        return super().execute(sql, *parameters)


@broken
def acknowledges_before_the_commit() -> None:
    sqlite3.connect = partial(sqlite3.connect, factory=_Lazy)  # type: ignore[assignment]


@broken
def stores_what_is_sent_again() -> None:
    original = database.migrate  # type: ignore[attr-defined]

    def migrate(path: Path, **more: Any) -> Any:
        schema = original(path, **more)
        with closing(sqlite3.connect(path)) as connection:
            connection.executescript(
                "DROP INDEX messages_by_sender;"
                "CREATE INDEX messages_by_sender ON messages (workspace_id, user, id);"
            )
        return schema

    database.migrate = migrate  # type: ignore[attr-defined]


@broken
def refuses_what_it_has_stored() -> None:
    count = 0

    async def commit(original: Any, _: SqliteStore, *batch: Any) -> Committed:
        nonlocal count
        count += 1
        committed: Committed = await original(*batch)
        if count % 3 == 0:
            raise StoreError(StoreErrorKind.LOCKED, "said to have failed")
        return committed

    _wrap(SqliteStore, "commit", commit)
    _wrap(StoreHealth, "failed", lambda *_: None)


@broken
def keeps_no_cursors() -> None:
    async def commit(
        original: Any, _: SqliteStore, appends: Sequence[Append], reads: Sequence[MoveCursor]
    ) -> Committed:
        committed: Committed = await original(appends, [])
        return Committed(committed.appended, [Cursor(move.seq, 0) for move in reads])

    _wrap(SqliteStore, "commit", commit)


# --- the rooms --------------------------------------------------------------------------------


@broken
def leaves_out_a_message_for_all() -> None:
    _told(lambda _, actions: [each for each in actions if not _struck(each)])


@broken
def tells_a_message_twice() -> None:
    _told(lambda _, actions: [one for each in actions for one in [each] * (1 + _struck(each))])


@broken
def leaves_out_a_message_when_resuming() -> None:
    def entered(original: Any, _: Room[Any], key: Any, entry: Entry, *more: Any) -> Any:
        if entry.resumed:
            entry = msgspec.structs.replace(entry, messages=entry.messages[1:])
        return original(key, entry, *more)

    _wrap(Room, "entered", entered)


@broken
def mixes_up_workspaces() -> None:
    latest: dict[str, Message] = {}

    def mix(room: Room[Any], actions: list[Any]) -> list[Any]:
        mixed = []
        for action in actions:
            others = [latest[name] for name in latest if name != room.workspace]
            if isinstance(action, ToAll) and isinstance(action.frame, Message):
                latest[room.workspace] = action.frame
                if _struck(action) and others:
                    action = ToAll(msgspec.structs.replace(others[0], seq=action.frame.seq))
            mixed.append(action)
        return mixed

    _told(mix)


@broken
def acknowledges_to_everybody() -> None:
    def spread(action: Any) -> Any:
        to_one = isinstance(action, ToMember) and isinstance(action.frame, Ack)
        return ToAll(action.frame) if to_one else action

    _told(lambda _, actions: [spread(action) for action in actions])


@broken
def says_nothing_of_who_left() -> None:
    def of_presence(action: object) -> bool:
        return isinstance(action, ToAll) and isinstance(action.frame, PresenceChange)

    def hush(original: Any, _: Room[Any], *arguments: Any) -> list[Any]:
        return [action for action in original(*arguments) if not of_presence(action)]

    _wrap(Room, "tick", hush)


@broken
def counts_unread_wrongly() -> None:
    original = fanout.text_frame  # type: ignore[attr-defined]

    def text_frame(frame: ServerFrame) -> bytes:
        if isinstance(frame, ReadCursor):
            frame = ReadCursor(frame.seq, frame.unread + 1)
        written: bytes = original(frame)
        return written

    fanout.text_frame = text_frame  # type: ignore[attr-defined]


@broken
def forgets_which_history_it_is() -> None:
    def begin(original: Any, room: Room[Any], *arguments: Any) -> None:
        original(*arguments)
        room.epoch = f"{room.epoch[:8]}-{monotonic()}"

    _wrap(Room, "__init__", begin)


# --- nothing that a member could notice -------------------------------------------------------


@broken
def nothing() -> None:
    """Break nothing: for comparison."""


@broken
def hesitates_to_confirm() -> None:
    """Take so long to take over that it can be killed in the middle of that."""

    def confirm(original: Any, _: Claim) -> None:
        sleep(HESITATION_SECONDS)
        original()

    _wrap(Claim, "confirm", confirm)


if __name__ == "__main__":
    BROKEN[sys.argv[1]]()
    sys.exit(main(sys.argv[2:]))
