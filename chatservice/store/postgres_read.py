"""What is read from PostgreSQL. A range of numbers never changes once it is committed, so reads
need no transaction: whatever is committed meanwhile has higher numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from chatservice.protocol import Message
from chatservice.store import Cursor, Entry, MemberState, Page, WorkspaceState

FLOOR: Final = "greatest(w.pruned, w.seq - $2::bigint)"

_STATE = f"""
SELECT md5(w.epoch || chat_lineage()), w.seq, {FLOOR} FROM workspaces w WHERE w.name = $1"""  # noqa: S608

_ENTRY = f"""
SELECT w.id, s.upto, f.floor, m.name, r.read, s.upto - x.seen - (
  SELECT count(*) FROM messages own WHERE own.workspace_id = w.id AND own.sender = $3
  AND own.seq > x.seen AND own.seq <= s.upto)
FROM workspaces w
LEFT JOIN members m ON m.workspace_id = w.id AND m.member = $3
CROSS JOIN LATERAL (SELECT least($4::bigint, w.seq) AS upto) AS s
CROSS JOIN LATERAL (SELECT least({FLOOR}, s.upto) AS floor) AS f
CROSS JOIN LATERAL (SELECT least(coalesce(m.read, 0), s.upto) AS read) AS r
CROSS JOIN LATERAL (SELECT greatest(r.read, f.floor) AS seen) AS x
WHERE w.name = $1"""  # noqa: S608

_MESSAGES = """
SELECT seq, id, sender, name, text, ts FROM messages
WHERE workspace_id = $1 AND seq > $2 AND seq <= $3 ORDER BY seq"""

_SINCE_EACH = """
SELECT x.ord, m.seq, m.id, m.sender, m.name, m.text, m.ts
FROM unnest($1::text[], $3::bigint[], $4::bigint[])
  WITH ORDINALITY AS x (name, after, upto, ord)
JOIN workspaces w ON w.name = x.name
JOIN messages m ON m.workspace_id = w.id
  AND m.seq > greatest(x.after, w.pruned, w.seq - $2::bigint) AND m.seq <= x.upto
ORDER BY x.ord, m.seq"""

_FIND = f"SELECT w.id, w.seq, {FLOOR} FROM workspaces w WHERE w.name = $1"  # noqa: S608

_MEMBERS = f"""
SELECT m.member, m.name, m.read, w.seq - x.seen - (
  SELECT count(*) FROM messages own WHERE own.workspace_id = w.id AND own.sender = m.member
  AND own.seq > x.seen AND own.seq <= w.seq)
FROM workspaces w JOIN members m ON m.workspace_id = w.id
CROSS JOIN LATERAL (SELECT greatest(m.read, {FLOOR}) AS seen) AS x
WHERE w.name = $1"""  # noqa: S608

_IDLE = """
SELECT w.name FROM workspaces w
LEFT JOIN messages m ON m.workspace_id = w.id AND m.seq = w.seq
WHERE starts_with(w.name, $1) AND coalesce(m.ts, w.created_ts) < $2"""


async def workspace_state(connection: Any, workspace: str, keep: int) -> WorkspaceState | None:
    """Give the state of a workspace; None where there is none."""
    row = await connection.fetchrow(_STATE, workspace, keep)
    return WorkspaceState(*row) if row else None


async def entry(
    connection: Any,
    workspace: str,
    user: str,
    *,
    keep: int,
    upto: int,
    after: int | None,
    newest: int,
) -> tuple[Entry, str | None] | None:
    """Give what a user needs on arrival and the name they are known under; None: no workspace."""
    row = await connection.fetchrow(_ENTRY, workspace, keep, user, upto)
    if row is None:
        return None
    id, upto, floor, name, read, unread = row
    resumed = after is not None and floor <= after <= upto
    first = after if resumed and after is not None else max(floor, upto - newest)
    messages = await _messages(connection, id, first, upto)
    if messages and messages[0].seq != first + 1:  # pruned between the two statements
        return await entry(
            connection, workspace, user, keep=keep, upto=upto, after=after, newest=newest
        )
    cursor = Cursor(read, unread)
    return Entry(cursor, messages, resumed, more=not resumed and first > floor), name


async def since(connection: Any, workspace: str, after: int, upto: int, keep: int) -> list[Message]:
    """Give the kept messages numbered `after + 1` to `upto`; none of an unknown workspace."""
    row = await connection.fetchrow(_FIND, workspace, keep)
    if row is None:
        return []
    id, seq, floor = row
    return await _messages(connection, id, max(after, floor), min(upto, seq))


async def since_each(
    connection: Any, wanted: Sequence[tuple[str, int, int]], keep: int
) -> list[list[Message]]:
    """Do `since` for several `(workspace, after, upto)`."""
    names, afters, uptos = ([each[column] for each in wanted] for column in range(3))
    found: list[list[Message]] = [[] for _ in wanted]
    for row in await connection.fetch(_SINCE_EACH, names, keep, afters, uptos):
        found[row[0] - 1].append(Message(*row[1:]))
    return found


async def history(connection: Any, workspace: str, before: int, limit: int, keep: int) -> Page:
    """Give the `limit` newest kept messages below `before`; none of an unknown workspace."""
    row = await connection.fetchrow(_FIND, workspace, keep)
    if row is None:
        return Page([], more=False)
    id, seq, floor = row
    last = max(floor, min(before - 1, seq))
    first = max(floor, last - max(0, limit))
    return Page(await _messages(connection, id, first, last), more=first > floor)


async def members(connection: Any, workspace: str, keep: int) -> list[MemberState]:
    """Give everyone who has ever entered; nobody for an unknown workspace."""
    rows = await connection.fetch(_MEMBERS, workspace, keep)
    return sorted(
        (MemberState(user, name, Cursor(read, unread)) for user, name, read, unread in rows),
        key=lambda member: member.user,
    )


async def idle_workspaces(connection: Any, prefix: str, before_ts: int) -> list[str]:
    """Name the workspaces of that prefix whose newest message, or creation, is older."""
    rows = await connection.fetch(_IDLE, prefix, before_ts)
    return sorted(row[0] for row in rows)


async def _messages(connection: Any, id: int, after: int, upto: int) -> list[Message]:
    if after >= upto:
        return []
    return [Message(*row) for row in await connection.fetch(_MESSAGES, id, after, upto)]
