"""Sending members away: at a pace at which they can come back, here or elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import Final

from chatservice import protocol
from chatservice.config import TimingSettings
from chatservice.connection import Connection
from chatservice.connections import Connections
from chatservice.fanout import LiveRoom
from chatservice.outbox import text_frame
from chatservice.protocol import CloseCode

DRAIN_BATCH: Final = 20
DRAIN_JITTER: Final = 0.1
"""Members that are sent away together, and the seconds over which these come back."""


class Departures:
    """Sends everybody away.

    Args:
        connections: who there is.
        timing: the pace, and how long to wait for who does not go.
    """

    def __init__(self, connections: Connections, timing: TimingSettings) -> None:
        self._connections = connections
        self._timing = timing

    async def dismiss(self) -> None:
        """Send everybody away with `reconnect` and 1012, and wait until they have left."""
        members = list(self._connections.members)
        random.shuffle(members)
        spread = self.spread(len(members))
        for index, connection in enumerate(members):
            within = spread * index / len(members), spread * (index + 1) / len(members)
            _send_away(connection, "the service restarts", within)
            connection.unpause()
        try:
            async with asyncio.timeout(self._timing.drain):
                await self._connections.gone()
        except TimeoutError:
            self._connections.cut("restart")

    def spread(self, count: int) -> float:
        """Give the seconds within which so many members are to come back."""
        return max(self._timing.reconnect_spread, count / self._timing.returns_per_second)

    async def drain(self) -> int:
        """Send everybody away, so many a second, and serve them until then; gives how many.

        Who is sent away is to come back at once, elsewhere.
        """
        members = list(self._connections.members)
        random.shuffle(members)
        for count, connection in enumerate(members):
            if connection in self._connections.members:
                _send_away(connection, "this host is drained", (0.0, DRAIN_JITTER))
            if count % DRAIN_BATCH == DRAIN_BATCH - 1:
                await asyncio.sleep(DRAIN_BATCH / self._timing.returns_per_second)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._timing.close + 1):
                await self._connections.gone()
        return len(members)


def evict(live: LiveRoom, spread: float) -> None:
    """Have the members of a room come back within so many seconds, to find another history."""
    for connection in tuple(live.room.members()):
        _send_away(connection, "the history was replaced", (0.0, spread))


def _send_away(connection: Connection, why: str, within: tuple[float, float]) -> None:
    """Have a member come back, at a time of its own between two numbers of seconds."""
    in_ms = int(random.uniform(*within) * 1000)  # noqa: S311 - jitter, not a secret
    connection.write(text_frame(protocol.Reconnect(in_ms)))
    connection.close(CloseCode.RESTART, why, reason="restart")
