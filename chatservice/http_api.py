"""What is to be had of a workspace over HTTP: its past by pages, and its members."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from chatservice.fanout import LiveRoom
from chatservice.metrics import Metrics
from chatservice.protocol import Presence
from chatservice.rooms import Rooms
from chatservice.routes import Place, Route, number
from chatservice.store import Store

OPERATIONS: Final = {Place.MESSAGES: "history", Place.MEMBERS: "members"}
"""What there is to ask for, and as which operation it is counted."""

PAGE: Final = 50
"""Messages of a page where none other number is asked for."""


class HttpApi:
    """Answers what is asked for.

    Args:
        rooms: say what has been published, and who is online.
        store: where the past is.
        metrics: where requests are counted and timed.
        page: messages that one answer may hold.
    """

    def __init__(self, rooms: Rooms, store: Store, metrics: Metrics, *, page: int) -> None:
        self._rooms = rooms
        self._store = store
        self._metrics = metrics
        self._page = page
        self._loop = asyncio.get_running_loop()

    async def answer(self, route: Route) -> dict[str, Any]:
        """Answer one of `OPERATIONS`.

        Raises:
            RequestError: a number that is none.
            StoreError: it cannot be read.
        """
        started = self._loop.time()
        operation = OPERATIONS[route.place]
        read = self._messages if route.place is Place.MESSAGES else self._members
        body = await read(route)
        self._metrics.requests[operation, "ok"].inc()
        self._metrics.request_duration[operation].observe(self._loop.time() - started)
        return body

    async def _messages(self, route: Route) -> dict[str, Any]:
        before = number(route.query, "before", 2**53)
        limit = number(route.query, "limit", min(PAGE, self._page))
        assert before is not None
        assert limit is not None
        live = await self._open(route.workspace)
        # Nothing is shown that has not been published: what is on disk may be ahead of the room.
        before = min(before, live.room.seq + 1)
        history = await self._rooms.reading.measured(
            "history",
            lambda: self._store.history(route.workspace, before, max(1, min(limit, self._page))),
        )
        return {
            "epoch": live.room.epoch,
            "seq": live.room.seq,
            "messages": history.messages,
            "more": history.more,
        }

    async def _members(self, route: Route) -> dict[str, Any]:
        live = await self._open(route.workspace)
        members = await self._rooms.reading.measured(
            "members", lambda: self._store.members(route.workspace)
        )
        return {
            "members": [
                {
                    "user": member.user,
                    "name": member.name,
                    "state": Presence.ONLINE
                    if live.room.is_online(member.user)
                    else Presence.OFFLINE,
                    "read": member.cursor.read,
                    "unread": member.cursor.unread,
                }
                for member in members
            ]
        }

    async def _open(self, workspace: str) -> LiveRoom:
        """Have the room in memory for as long as a room is that nobody is in."""
        live = await self._rooms.open(workspace)
        self._rooms.watch(live)
        return live
