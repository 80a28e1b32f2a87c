"""What the reader thread does, each inside a transaction, so that all of it is of one moment.

Rows come back as one JSON text a statement: fetching them one by one would win and lose the
interpreter lock for each (see `sqlite_worker`). The numbers of a workspace are dense above its
floor, which makes counting subtraction: of the messages after a cursor only the user's own are
counted, in an index.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

import msgspec

from chatservice.protocol import Message
from chatservice.store import (
    Cursor,
    Entry,
    MemberState,
    Page,
    StoreErrorKind,
    WorkspaceState,
)
from chatservice.store.sqlite_database import Session, stale
from chatservice.store.sqlite_errors import explain
from chatservice.store.sqlite_file import LOG, LOG_INDEX, size_of
from chatservice.store.sqlite_room import sidecar

FIND_WORKSPACE: Final = "SELECT id, epoch, seq, pruned FROM workspaces WHERE name = ?"

_MESSAGES = """
SELECT json_group_array(json_object(
  'seq', seq, 'id', id, 'user', user, 'name', name, 'text', text, 'ts', ts))
FROM messages WHERE workspace_id = ? AND seq > ? AND seq <= ?"""

_MEMBER = "SELECT name, read FROM members WHERE workspace_id = ? AND user = ?"


def own_messages(workspace_id: str, user: str, after: str, upto: str) -> str:
    """Spell out, in SQL, how many messages in a range of numbers are by one user.

    A short range is read as it is. Otherwise the index of senders tells, in which the user's own
    stand together: someone who was away for long has few there, and 1,000 messages to skip.
    """
    return f"""
CASE WHEN {upto} - {after} <= 32 THEN (
  SELECT count(*) FROM messages
  WHERE messages.workspace_id = {workspace_id} AND messages.user = {user}
  AND messages.seq > {after} AND messages.seq <= {upto})
ELSE (
  SELECT count(*) FROM messages INDEXED BY messages_by_sender
  WHERE messages.workspace_id = {workspace_id} AND messages.user = {user}
  AND messages.seq > {after} AND messages.seq <= {upto})
END"""  # noqa: S608 - the parts are SQL written here, never values


_OWN = f"SELECT {own_messages('?1', '?2', '?3', '?4')}"

_MEMBERS = f"""
SELECT json_group_array(json_array(user, name, read,
  {own_messages("members.workspace_id", "members.user", "max(members.read, ?2)", "?3")}))
FROM members WHERE workspace_id = ?1"""  # noqa: S608

_IDLE = """
SELECT json_group_array(workspaces.name) FROM workspaces LEFT JOIN messages
ON messages.workspace_id = workspaces.id AND messages.seq = workspaces.seq
WHERE substr(workspaces.name, 1, length(?1)) = ?1
AND coalesce(messages.ts, workspaces.created_ts) < ?2"""

_decode_messages = msgspec.json.Decoder(list[Message]).decode
_decode_members = msgspec.json.Decoder(list[tuple[str, str, int, int]]).decode
_decode_names = msgspec.json.Decoder(list[str]).decode


def floor_of(seq: int, pruned: int, keep: int) -> int:
    """Give the number up to which nothing is kept.

    That is `keep` below the newest, unless more than that is gone already: after `keep` was
    raised, history grows towards it again.
    """
    return max(pruned, seq - keep)


def workspace_state(session: Session, workspace: str) -> WorkspaceState | None:
    """Give the state of a workspace; None where there is none."""
    found = session.connection.execute(FIND_WORKSPACE, (workspace,)).fetchone()
    if found is None:
        return None
    _, epoch, seq, pruned = found
    session.note_opened(workspace)
    return WorkspaceState(epoch, seq, floor_of(seq, pruned, session.keep))


def entry(
    session: Session, workspace: str, user: str, *, upto: int, after: int | None, newest: int
) -> tuple[Entry, str | None]:
    """Give what a user needs on arrival, and the name that they are known under, if any.

    Raises:
        StoreError: `STALE`: the workspace was never opened, or was forgotten or replaced since.
    """
    session.require_opened((workspace,))
    found = session.connection.execute(FIND_WORKSPACE, (workspace,)).fetchone()
    if found is None:
        raise stale(workspace, "it was never opened, or was forgotten")
    id, _, seq, pruned = found
    upto = min(upto, seq)
    floor = min(floor_of(seq, pruned, session.keep), upto)
    member = session.connection.execute(_MEMBER, (id, user)).fetchone()
    name, read = member or (None, 0)
    read = min(read, upto)
    seen = max(read, floor)
    (own,) = session.connection.execute(_OWN, (id, user, seen, upto)).fetchone()
    resumed = after is not None and floor <= after <= upto
    first = after if resumed and after is not None else max(floor, upto - newest)
    return (
        Entry(
            cursor=Cursor(read, upto - seen - own),
            messages=_messages(session.connection, id, first, upto),
            resumed=resumed,
            more=not resumed and first > floor,
        ),
        name,
    )


def since(session: Session, workspace: str, after: int, upto: int) -> list[Message]:
    """Give the kept messages numbered `after + 1` to `upto`; none of an unknown workspace."""
    found = session.connection.execute(FIND_WORKSPACE, (workspace,)).fetchone()
    if found is None:
        return []
    id, _, seq, pruned = found
    floor = floor_of(seq, pruned, session.keep)
    return _messages(session.connection, id, max(after, floor), min(upto, seq))


def history(session: Session, workspace: str, before: int, limit: int) -> Page:
    """Give the `limit` newest kept messages below `before`; none of an unknown workspace."""
    found = session.connection.execute(FIND_WORKSPACE, (workspace,)).fetchone()
    if found is None:
        return Page([], more=False)
    id, _, seq, pruned = found
    floor = floor_of(seq, pruned, session.keep)
    last = min(before - 1, seq)
    first = max(floor, last - limit)
    return Page(_messages(session.connection, id, first, last), more=first > floor)


def members(session: Session, workspace: str) -> list[MemberState]:
    """Give everyone who has ever entered; nobody for an unknown workspace."""
    found = session.connection.execute(FIND_WORKSPACE, (workspace,)).fetchone()
    if found is None:
        return []
    id, _, seq, pruned = found
    floor = floor_of(seq, pruned, session.keep)
    (rows,) = session.connection.execute(_MEMBERS, (id, floor, seq)).fetchone()
    return [
        MemberState(user, name, Cursor(read, seq - max(read, floor) - own))
        for user, name, read, own in sorted(_decode_members(rows))
    ]


def idle_workspaces(session: Session, prefix: str, before_ts: int) -> list[str]:
    """Name the workspaces of that prefix whose newest message, or creation, is older."""
    (names,) = session.connection.execute(_IDLE, (prefix, before_ts)).fetchone()
    return sorted(_decode_names(names))


def prove_readable(session: Session, path: Path) -> None:
    """Read the heartbeat that was just written.

    Raises:
        StoreError: it is not there.
    """
    if session.connection.execute("SELECT ts FROM heartbeat").fetchone() is None:
        raise explain(StoreErrorKind.INTERNAL, "the heartbeat just written is not there", path)


def prove_whole(session: Session, path: Path) -> None:
    """Have SQLite check the structure of the whole file: about a second for 500 MB.

    Raises:
        StoreError: `CORRUPT`, with the first problem found.
    """
    (verdict,) = session.connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise explain(StoreErrorKind.CORRUPT, " ".join(verdict.split()), path)


def size_bytes(path: Path) -> int:
    """Give the bytes of the database, its log and the log's index."""
    return sum(size_of(file) for file in (path, sidecar(path, LOG), sidecar(path, LOG_INDEX)))


def _messages(
    connection: sqlite3.Connection, workspace_id: int, after: int, upto: int
) -> list[Message]:
    if after >= upto:
        return []
    (rows,) = connection.execute(_MESSAGES, (workspace_id, after, upto)).fetchone()
    found = _decode_messages(rows)
    found.sort(key=_seq)  # a range of the primary key comes in order, but SQL does not promise it
    return found


def _seq(message: Message) -> int:
    return message.seq
