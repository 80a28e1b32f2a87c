"""Faults in what is stored, counted and read back."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from chatservice import admission
from chatservice.actions import ToMember
from chatservice.connection import Connection
from chatservice.protocol import Message, Welcome
from chatservice.room import Room
from chatservice.store import Cursor, Entry, MemberState, Page
from chatservice.store.sqlite import SqliteStore
from tests.checks.smoke.breaking import Actions, around

replace = msgspec.structs.replace


# --- members ------------------------------------------------------------------------------


def members_all_offline() -> None:
    """The GET API shows everybody as offline."""

    def json_response(original: Any, value: Any, **rest: Any) -> Any:
        for member in value.get("members", ()):
            member["state"] = "offline"
        return original(value, **rest)

    around(admission, "json_response", json_response)


def members_miscounted() -> None:
    """The GET API counts one unread message too many."""

    async def members(original: Any, store: SqliteStore, workspace: str) -> list[MemberState]:
        return [
            replace(one, cursor=replace(one.cursor, unread=one.cursor.unread + 1))
            for one in await original(store, workspace)
        ]

    around(SqliteStore, "members", members)


def members_leak() -> None:
    """The GET API lists the members of the workspace next door."""

    async def members(original: Any, store: SqliteStore, workspace: str) -> list[MemberState]:
        listed: list[MemberState] = await original(store, workspace.removesuffix("-other"))
        return listed

    around(SqliteStore, "members", members)


# --- history ------------------------------------------------------------------------------


def newest_withheld() -> None:
    """Who comes anew gets an empty history."""

    async def enter(original: Any, *args: Any, **rest: Any) -> Entry:
        entry: Entry = await original(*args, **rest)
        return entry if entry.resumed else replace(entry, messages=[], more=False)

    around(SqliteStore, "enter", enter)


def page_off_by_one() -> None:
    """A page of history begins one message too late."""

    async def history(
        original: Any, store: SqliteStore, workspace: str, before: int, limit: int
    ) -> Page:
        page: Page = await original(store, workspace, before + 1, limit)
        return page

    around(SqliteStore, "history", history)


def history_leaks() -> None:
    """The GET API gives the history of the workspace next door."""

    async def history(original: Any, store: SqliteStore, workspace: str, *rest: Any) -> Page:
        page: Page = await original(store, workspace.removesuffix("-other"), *rest)
        return page

    around(SqliteStore, "history", history)


def api_with_other_epoch() -> None:
    """The GET API names another epoch than the connections."""

    def json_response(original: Any, value: Any, **rest: Any) -> Any:
        return original(value | {"epoch": "another"} if "epoch" in value else value, **rest)

    around(admission, "json_response", json_response)


def commit_hangs() -> None:
    """Messages are taken, and never stored or refused."""

    async def commit(original: Any, store: SqliteStore, appends: Any, reads: Any) -> Any:
        if appends:
            await asyncio.get_running_loop().create_future()
        return await original(store, appends, reads)

    around(SqliteStore, "commit", commit)


def repeat_stored_again() -> None:
    """A repeated message is stored a second time."""
    known: set[tuple[str, str, str]] = set()

    async def commit(original: Any, store: SqliteStore, appends: Any, reads: Any) -> Any:
        stored = []
        for append in appends:
            key = (append.workspace, append.user, append.id)
            stored.append(replace(append, id=append.id[:32] + "-again") if key in known else append)
            known.add(key)
        return await original(store, stored, reads)

    around(SqliteStore, "commit", commit)


# --- cursors ------------------------------------------------------------------------------


def cursor_moves_back() -> None:
    """Reading something old makes what came after it unread again."""
    back: dict[tuple[str, str], int] = {}

    async def commit(original: Any, store: SqliteStore, appends: Any, reads: Any) -> Any:
        done = await original(store, appends, reads)
        cursors = []
        for read, cursor in zip(reads, done.cursors, strict=True):
            back[read.workspace, read.user] = read.seq
            moved = Cursor(read.seq, cursor.unread + cursor.read - read.seq)
            cursors.append(moved)
        return replace(done, cursors=cursors)

    around(SqliteStore, "commit", commit)


def own_unread() -> None:
    """One's own messages count as unread."""

    async def enter(original: Any, *args: Any, upto: int, **rest: Any) -> Entry:
        entry: Entry = await original(*args, upto=upto, **rest)
        return replace(entry, cursor=Cursor(entry.cursor.read, upto - entry.cursor.read))

    around(SqliteStore, "enter", enter)


def coming_back_reads() -> None:
    """Coming back counts as having read everything."""

    async def enter(original: Any, *args: Any, upto: int, **rest: Any) -> Entry:
        entry: Entry = await original(*args, upto=upto, **rest)
        return replace(entry, cursor=Cursor(entry.cursor.read, 0))

    around(SqliteStore, "enter", enter)


# --- coming back --------------------------------------------------------------------------


def resume_repeats() -> None:
    """Who is resumed gets the last message that it knows once more."""

    async def enter(original: Any, *args: Any, after: int | None, **rest: Any) -> Entry:
        earlier = None if after is None else max(0, after - 1)
        entry: Entry = await original(*args, after=earlier, **rest)
        return entry

    around(SqliteStore, "enter", enter)


def resume_loses() -> None:
    """Who is resumed does not get the first message that was missed."""

    async def enter(original: Any, *args: Any, **rest: Any) -> Entry:
        entry: Entry = await original(*args, **rest)
        return replace(entry, messages=entry.messages[1:]) if entry.resumed else entry

    around(SqliteStore, "enter", enter)


def resume_refused() -> None:
    """Nobody is resumed."""

    async def enter(original: Any, *args: Any, after: int | None, **rest: Any) -> Entry:
        entry: Entry = await original(*args, after=None, **rest)
        return entry

    around(SqliteStore, "enter", enter)


def resume_loses_newest() -> None:
    """What is published while a member's past is being read is not held back for it."""

    async def enter(original: Any, *args: Any, after: int | None, **rest: Any) -> Entry:
        entry: Entry = await original(*args, after=after, **rest)
        if after is not None:
            await asyncio.sleep(0.2)
        return entry

    def entered(original: Any, room: Room[Connection], key: Connection, entry: Entry) -> Actions:
        actions = list(original(room, key, entry))
        upto = next(
            action.frame.seq
            for action in actions
            if isinstance(action, ToMember) and isinstance(action.frame, Welcome)
        )
        return [
            action
            for action in actions
            if not (
                isinstance(action, ToMember)
                and isinstance(action.frame, Message)
                and action.frame.seq > upto
            )
        ]

    around(SqliteStore, "enter", enter)
    around(Room, "entered", entered)
