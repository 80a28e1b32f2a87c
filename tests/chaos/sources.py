"""Reading what a workspace holds: from the database, over the GET API, and as a fresh client."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import asyncpg
import msgspec

from chatservice.client import ChatClient
from chatservice.protocol import Message
from tests.chaos.ledger import Stored

SECONDS = 10.0


class _Page(msgspec.Struct):
    epoch: str
    seq: int
    messages: list[Message]
    more: bool


def read_database(path: Path, workspaces: Iterable[str], *, keep: int) -> list[Stored]:
    """Read an SQLite database, whether a service has it open or not.

    Args:
        path: the file.
        workspaces: which ones.
        keep: the service's `history.keep`; a few more messages than that may be on disk.

    Raises:
        sqlite3.Error: it cannot be read.
        ValueError: it is damaged, or a workspace is missing.
    """
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
        (state,) = database.execute("PRAGMA integrity_check").fetchone()
        if state != "ok":
            raise ValueError(f"{path} is damaged: {state}")
        return [_read_workspace(database, workspace, keep) for workspace in workspaces]


def _read_workspace(database: sqlite3.Connection, workspace: str, keep: int) -> Stored:
    row = database.execute(
        "SELECT id, epoch, seq FROM workspaces WHERE name = ?", (workspace,)
    ).fetchone()
    if row is None:
        raise ValueError(f"there is no workspace {workspace!r} in the database")
    number, epoch, seq = row
    messages = database.execute(
        "SELECT seq, id, user, name, text, ts FROM messages"
        " WHERE workspace_id = ? AND seq > ? ORDER BY seq",
        (number, seq - keep),
    )
    cursors = database.execute(
        "SELECT user, read FROM members WHERE workspace_id = ?", (number,)
    ).fetchall()
    return Stored(
        "the database",
        workspace,
        epoch,
        seq,
        [Message(*columns) for columns in messages],
        cursors=dict(cursors),
        everybody=True,
    )


async def read_postgres(dsn: str, workspaces: Iterable[str], keep: int) -> list[Stored]:
    """Read a PostgreSQL database, as `read_database` reads a file."""
    database = await asyncpg.connect(dsn)
    found = []
    for name in workspaces:
        [(id, epoch, seq)] = await database.fetch(
            "SELECT id, md5(epoch || chat_lineage()), seq FROM workspaces WHERE name = $1", name
        )
        messages = await database.fetch(
            "SELECT seq, id, sender, name, text, ts FROM messages"
            " WHERE workspace_id = $1 AND seq > $2 ORDER BY seq",
            id,
            seq - keep,
        )
        members = await database.fetch(
            "SELECT member, read FROM members WHERE workspace_id = $1", id
        )
        kept = [Message(*row) for row in messages]
        found.append(
            Stored(
                "the database",
                name,
                epoch,
                seq,
                kept,
                cursors={row[0]: row[1] for row in members},
                everybody=True,
            )
        )
    await database.close()
    return found


def read_api(url: str, workspace: str, token: str) -> Stored:
    """Read a workspace page by page, newest first, and its members.

    Raises:
        OSError: the service does not answer, or refuses.
    """
    place = f"{url}/api/chat/workspace/{workspace}"
    first = page = msgspec.json.decode(_get(f"{place}/messages?limit=200", token), type=_Page)
    messages = page.messages
    while page.more:
        before = page.messages[0].seq
        body = _get(f"{place}/messages?before={before}&limit=200", token)
        page = msgspec.json.decode(body, type=_Page)
        messages = page.messages + messages
    members: list[dict[str, Any]] = msgspec.json.decode(_get(f"{place}/members", token))["members"]
    return Stored(
        "the GET API",
        workspace,
        first.epoch,
        first.seq,
        messages,
        cursors={member["user"]: member["read"] for member in members},
        unread={member["user"]: member["unread"] for member in members},
        everybody=True,
    )


def _get(url: str, token: str) -> bytes:
    request = Request(url, headers={"Authorization": f"Bearer {token}"})
    with urlopen(request, timeout=SECONDS) as response:
        body: bytes = response.read()
        return body


async def read_as_client(url: str, workspace: str, token: str) -> Stored:
    """Read a workspace as a member who comes anew and scrolls back to the beginning.

    Raises:
        Exception: as `ChatClient` raises them.
    """
    async with ChatClient(url, workspace=workspace, token=token, connect_timeout=SECONDS) as client:
        welcome = client.welcome
        messages: list[Message] = []
        before, more = welcome.seq + 1, True
        while more:
            page = await client.history(before, 100, timeout=SECONDS)
            messages = [*page.messages, *messages]
            more = page.more
            before = messages[0].seq if messages else before
        return Stored(
            "a fresh client",
            workspace,
            welcome.epoch,
            welcome.seq,
            messages,
            cursors={welcome.user: welcome.read},
            unread={welcome.user: welcome.unread},
        )
