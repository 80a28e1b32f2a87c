"""What the writer thread does, each inside a transaction that its caller begins and commits.

Rows go to SQLite many at a time, in statements of a power of two of them: few statements for a
batch of any size, and few texts of statements, so that all stay prepared.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import Final, TypeVar

import msgspec

from chatservice.store import (
    Append,
    Appended,
    Committed,
    Cursor,
    MoveCursor,
    WorkspaceState,
)
from chatservice.store.sqlite_database import Session, stale
from chatservice.store.sqlite_read import FIND_WORKSPACE, floor_of, own_messages, workspace_state

T = TypeVar("T")

_MOST_ROWS: Final = 512
"""Rows of one statement: 7 values each, of the 32,766 that SQLite takes."""

_MOST_SLACK: Final = 64
"""Messages that may be on disk beyond those kept, so that not every commit deletes one."""

_PRUNE_AT_ONCE: Final = 4096
"""Messages of a workspace deleted in one commit, when a lower `keep` left many to delete."""

_LOAD = """
SELECT json_group_array(json_array(id, name, seq, pruned)) FROM workspaces
WHERE name IN (SELECT value FROM json_each(?))"""

_STORE_NUMBERS = """
UPDATE workspaces SET seq = new.seq, pruned = new.pruned FROM (
  SELECT json_extract(value, '$[0]') AS id, json_extract(value, '$[1]') AS seq,
         json_extract(value, '$[2]') AS pruned FROM json_each(?)) AS new
WHERE workspaces.id = new.id"""

_PRUNE = "DELETE FROM messages WHERE workspace_id = ? AND seq <= ?"

_LOOK_UP = """
SELECT json_group_array(json_array(wanted.column1, messages.seq, messages.ts))
FROM (VALUES {rows}) AS wanted CROSS JOIN messages
ON messages.workspace_id = wanted.column2 AND messages.user = wanted.column3
AND messages.id = wanted.column4"""

_APPEND = "INSERT INTO messages (workspace_id, seq, ts, user, id, name, text) VALUES {rows}"

_MOVE = """
INSERT INTO members (workspace_id, user, name, read) VALUES {rows}
ON CONFLICT (workspace_id, user) DO UPDATE SET read = excluded.read WHERE excluded.read > read"""

_OWN = own_messages(
    "moved.column2", "moved.column3", "max(members.read, moved.column4)", "moved.column5"
)

_CURSORS = f"""
SELECT json_group_array(json_array(moved.column1, members.read, {_OWN}))
FROM (VALUES {{rows}}) AS moved CROSS JOIN members
ON members.workspace_id = moved.column2 AND members.user = moved.column3"""  # noqa: S608 - no values

_NOTE_MEMBER = """
INSERT INTO members (workspace_id, user, name, read) VALUES (?, ?, ?, 0)
ON CONFLICT (workspace_id, user) DO UPDATE SET name = excluded.name"""


class _Room:
    """A workspace in the course of a transaction."""

    __slots__ = ("changed", "id", "pruned", "seq")

    def __init__(self, id: int, seq: int, pruned: int) -> None:
        self.id = id
        self.seq = seq
        self.pruned = pruned
        self.changed = False


_decode_rooms = msgspec.json.Decoder(list[tuple[int, str, int, int]]).decode
_decode_triples = msgspec.json.Decoder(list[tuple[int, int, int]]).decode


def create_workspace(session: Session, workspace: str) -> WorkspaceState:
    """Give the state of a workspace, creating it where it is new."""
    session.connection.execute(
        "INSERT INTO workspaces (name, epoch, seq, pruned, created_ts) VALUES (?, ?, 0, 0, ?)"
        " ON CONFLICT (name) DO NOTHING",
        (workspace, secrets.token_hex(16), time.time_ns() // 1_000_000),
    )
    state = workspace_state(session, workspace)
    assert state is not None
    return state


def note_member(session: Session, workspace: str, user: str, name: str) -> None:
    """Remember that the user has been in the workspace, and their newest name."""
    session.require_opened((workspace,))
    found = session.connection.execute(FIND_WORKSPACE, (workspace,)).fetchone()
    if found is None:
        raise stale(workspace, "it does not exist, or was forgotten")
    session.connection.execute(_NOTE_MEMBER, (found[0], user, name))


def forget(session: Session, workspace: str) -> bool:
    """Delete a workspace with all it holds; False where there was none."""
    found = session.connection.execute(FIND_WORKSPACE, (workspace,)).fetchone()
    if found is None:
        return False
    for sql in (
        "DELETE FROM messages WHERE workspace_id = ?",
        "DELETE FROM members WHERE workspace_id = ?",
        "DELETE FROM workspaces WHERE id = ?",
    ):
        session.connection.execute(sql, (found[0],))
    return True


def beat(session: Session) -> None:
    """Write something, so that the commit that follows proves what it can."""
    session.connection.execute(
        "INSERT INTO heartbeat (one, ts) VALUES (1, ?)"
        " ON CONFLICT (one) DO UPDATE SET ts = excluded.ts",
        (time.time_ns() // 1_000_000,),
    )


def commit(session: Session, appends: Sequence[Append], reads: Sequence[MoveCursor]) -> Committed:
    """Number and store messages, then move cursors.

    Raises:
        StoreError: `STALE`: a workspace was never opened, or was forgotten or replaced since.
            Nothing was written.
    """
    names = {append.workspace for append in appends}
    names.update(move.workspace for move in reads)
    rooms = _load(session, names)
    appended = _append(session, rooms, appends)
    _prune(session, rooms.values(), len(appends))
    _store_numbers(session, [room for room in rooms.values() if room.changed])
    return Committed(appended, _move(session, rooms, reads))


def _load(session: Session, names: set[str]) -> dict[str, _Room]:
    session.require_opened(names)
    (found,) = session.connection.execute(_LOAD, (json.dumps(list(names)),)).fetchone()
    rooms = {name: _Room(id, seq, pruned) for id, name, seq, pruned in _decode_rooms(found)}
    for name in names:
        if name not in rooms:
            raise stale(name, "it was never opened, or was forgotten")
    return rooms


def _append(session: Session, rooms: dict[str, _Room], appends: Sequence[Append]) -> list[Appended]:
    """Number and insert. Repeated ids are the exception: they show by the insert failing."""
    appended: list[Appended] = []
    for chunk in _chunks(appends):
        values: list[object] = []
        first = len(appended)
        for append in chunk:
            room = rooms[append.workspace]
            room.changed = True
            room.seq = seq = room.seq + 1
            ts = append.ts
            values += (room.id, seq, ts, append.user, append.id, append.name, append.text)
            appended.append(Appended(seq, ts, False))
        try:
            session.connection.execute(_rows(_APPEND, len(chunk), 7), values)
        except sqlite3.IntegrityError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_CONSTRAINT_UNIQUE:
                raise
            del appended[first:]
            for append in chunk:
                rooms[append.workspace].seq -= 1
            appended += _append_repeating(session, rooms, chunk)
    return appended


def _append_repeating(
    session: Session, rooms: dict[str, _Room], chunk: Sequence[Append]
) -> list[Appended]:
    """Number and insert what is new of a chunk in which something is repeated."""
    keys = [(rooms[append.workspace].id, append.user, append.id) for append in chunk]
    known: dict[tuple[int, str, str], tuple[int, int]] = {}
    wanted = [value for index, key in enumerate(keys) for value in (index, *key)]
    (found,) = session.connection.execute(_rows(_LOOK_UP, len(chunk), 4), wanted).fetchone()
    for index, seq, ts in _decode_triples(found):
        known[keys[index]] = seq, ts

    appended: list[Appended] = []
    new: list[tuple[_Room, int, Append]] = []
    outlived: list[_Room] = []
    for key, append in zip(keys, chunk, strict=True):
        room = rooms[append.workspace]
        before = known.get(key)
        if before is not None and before[0] > floor_of(room.seq, room.pruned, session.keep):
            appended.append(Appended(*before, repeated=True))
            continue
        if before is not None:
            outlived.append(room)  # it fell out of history, but is still on disk, or in `new`
        room.seq += 1
        known[key] = room.seq, append.ts
        new.append((room, room.seq, append))
        appended.append(Appended(room.seq, append.ts, repeated=False))
    for room in outlived:
        _prune_to(session, room, floor_of(room.seq, room.pruned, session.keep))
    kept = [part for part in new if part[1] > part[0].pruned]
    for part in _chunks(kept):
        values: list[object] = []
        for room, seq, append in part:
            values += (room.id, seq, append.ts, append.user, append.id, append.name, append.text)
        session.connection.execute(_rows(_APPEND, len(part), 7), values)
    return appended


def _prune(session: Session, rooms: Iterable[_Room], written: int) -> None:
    """Delete what is no longer kept, now and then, and not for all workspaces in one commit.

    Deletes at least as fast as the batch wrote. What is on disk too long is never shown.
    """
    slack = max(1, min(_MOST_SLACK, session.keep // 8))
    at_once = max(_PRUNE_AT_ONCE, 2 * written)
    for room in rooms:
        floor = floor_of(room.seq, room.pruned, session.keep)
        turn = 39 * room.id  # spreads any few workspaces evenly over the slack of 64
        if (floor + turn) // slack != (room.pruned + turn) // slack:
            _prune_to(session, room, min(floor, room.pruned + at_once))


def _prune_to(session: Session, room: _Room, floor: int) -> None:
    session.connection.execute(_PRUNE, (room.id, floor))
    room.pruned = floor
    room.changed = True


def _store_numbers(session: Session, rooms: list[_Room]) -> None:
    if len(rooms) == 1:
        [room] = rooms
        session.connection.execute(
            "UPDATE workspaces SET seq = ?, pruned = ? WHERE id = ?",
            (room.seq, room.pruned, room.id),
        )
    elif rooms:
        numbers = [(room.id, room.seq, room.pruned) for room in rooms]
        session.connection.execute(_STORE_NUMBERS, (json.dumps(numbers),))


def _move(session: Session, rooms: dict[str, _Room], reads: Sequence[MoveCursor]) -> list[Cursor]:
    """Move cursors forward, one move for each user, and count what each has yet to read."""
    furthest: dict[tuple[str, str], int] = {}
    for move in reads:
        key = move.workspace, move.user
        seq = min(move.seq, rooms[move.workspace].seq)
        furthest[key] = max(seq, furthest.get(key, 0))
    cursors: dict[tuple[str, str], Cursor] = {}
    for chunk in _chunks(list(furthest.items())):
        moves: list[object] = []
        wanted: list[object] = []
        for index, ((workspace, user), seq) in enumerate(chunk):
            room = rooms[workspace]
            moves += (room.id, user, user, seq)
            floor = floor_of(room.seq, room.pruned, session.keep)
            wanted += (index, room.id, user, floor, room.seq)
        session.connection.execute(_rows(_MOVE, len(chunk), 4), moves)
        (found,) = session.connection.execute(_rows(_CURSORS, len(chunk), 5), wanted).fetchone()
        for index, read, own in _decode_triples(found):
            key, _ = chunk[index]
            room = rooms[key[0]]
            seen = max(read, floor_of(room.seq, room.pruned, session.keep))
            cursors[key] = Cursor(read, room.seq - seen - own)
    return [cursors[move.workspace, move.user] for move in reads]


def _chunks(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """Cut into runs of a power of two."""
    start = 0
    while start < len(items):
        size = min(_MOST_ROWS, 1 << (len(items) - start).bit_length() - 1)
        yield items[start : start + size]
        start += size


@cache
def _rows(sql: str, count: int, width: int) -> str:
    """Spell a statement out for so many rows of so many values."""
    row = f"({', '.join('?' * width)})"
    return sql.format(rows=", ".join([row] * count))
