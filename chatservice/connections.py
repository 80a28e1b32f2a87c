"""All connections of a process: half-open ones, members, and those on their way out.

Half-open is who has not said what they want, and who was answered and does not go. A member is in
a room until its connection is closed, and lingers until its socket is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping

from chatservice.admission import unfinished
from chatservice.connection import Connection
from chatservice.fanout import LiveRoom
from chatservice.lifeline import Lifeline
from chatservice.limits import ConnectionCounts
from chatservice.logs import get_logger
from chatservice.metrics import Metrics
from chatservice.protocol import CloseCode

log = get_logger("connections")


class Connections:
    """Who is connected.

    Args:
        handshakes: half-open connections that there may be.
        counts: the members of the process, of each user and of each workspace.
        metrics: where they are counted.
        watch: is told of a room that a member has left.
    """

    def __init__(
        self,
        handshakes: int,
        counts: ConnectionCounts,
        metrics: Metrics,
        watch: Callable[[LiveRoom], None],
    ) -> None:
        self._handshakes = handshakes
        self._counts = counts
        self._metrics = metrics
        self._watch = watch
        self._loop = asyncio.get_running_loop()
        self._half_open: dict[Connection, None] = {}
        self._members: dict[Connection, LiveRoom] = {}
        self._lingering: set[Connection] = set()
        self._nobody = asyncio.Event()
        self._nobody.set()
        self.lifeline: Lifeline | None = None
        """Keeps members' connections beyond a crash, where that is wanted and can be."""
        metrics.measure_send_queue(lambda: float(sum(c.unsent_bytes for c in self._members)))

    @property
    def members(self) -> Mapping[Connection, LiveRoom]:
        """Every member, with its room, at any time."""
        return self._members

    @property
    def half_open(self) -> Collection[Connection]:
        """Every connection that is no member's."""
        return self._half_open.keys()

    @property
    def visitors(self) -> list[Connection]:
        """Connections that have not said what they want."""
        return [one for one in self._half_open if not (one.asked or one.gone)]

    # --- coming --------------------------------------------------------------------------

    def connected(self, connection: Connection) -> None:
        """Note a connection that is no member's; past the limit the oldest makes room.

        A client that means it is one for milliseconds, so whoever floods pushes out its own.
        """
        self._half_open[connection] = None
        if len(self._half_open) > self._handshakes:
            next(iter(self._half_open)).abort("timeout")

    def answered(self, connection: Connection) -> None:
        """Count a connection that was answered as half-open again until it is gone."""
        self.connected(connection)

    def asked(self, connection: Connection) -> None:
        """Note that a connection has said what it wants; it is being answered."""
        self._half_open.pop(connection, None)

    def welcome(self, connection: Connection, live: LiveRoom) -> None:
        """Have a member, who is about to be upgraded."""
        if self.lifeline is not None:
            self.lifeline.hold(connection, live)
        self._members[connection] = live
        self._lingering.add(connection)
        self._nobody.clear()
        self._metrics.opened.inc()
        self._metrics.connections.inc()

    def adopt(self, connection: Connection, live: LiveRoom, slot: int) -> None:
        """Have a member of another process, kept in that slot; its room is live already."""
        if self.lifeline is not None:
            self.lifeline.resume(connection, live, slot, connection.unsent_bytes)
        live.adopt(connection)
        self._members[connection] = live
        self._lingering.add(connection)
        self._nobody.clear()
        self._counts.adopt(connection.user, connection.workspace)
        self._metrics.connections.inc()

    def renewed(self, connection: Connection) -> None:
        """Note that a member showed another token."""
        if self.lifeline is not None:
            self.lifeline.renew(connection)

    # --- going ---------------------------------------------------------------------------

    def expired(self, connection: Connection) -> None:
        """Close a member whose token has expired."""
        connection.close(CloseCode.TOKEN_EXPIRED, "the token expired", reason="token_expired")

    def closed(self, connection: Connection, reason: str) -> None:
        """Forget a connection that will send and receive no more."""
        self._half_open.pop(connection, None)
        if not connection.asked:
            self._metrics.handshakes[unfinished(reason)].inc()
        live = self._members.pop(connection, None)
        if live is None:
            return
        self._counts.release(connection.user, connection.workspace)
        self._metrics.connections.dec()
        self._metrics.closed[reason].inc()
        if reason == "too_slow":
            self._metrics.slow_members.inc()
        if self.lifeline is not None:
            self.lifeline.closed(connection)
        live.leave(connection, self._loop.time())
        self._watch(live)
        log.info(
            "member left", conn=connection.id, user=connection.user,
            workspace=connection.workspace, reason=reason,
        )  # fmt: skip

    def disconnected(self, connection: Connection) -> None:
        """Note that a socket is closed for good."""
        if self.lifeline is not None:
            self.lifeline.let_go(connection)
        self._half_open.pop(connection, None)
        self._lingering.discard(connection)
        if not self._lingering:
            self._nobody.set()

    def give_away(self) -> None:
        """Let go of everybody, as they live on in another process."""
        for connection in [*self._members, *self.visitors]:
            connection.give_away()
            self._half_open.pop(connection, None)
            self._lingering.discard(connection)
        self._members.clear()
        self._metrics.connections.set(0)
        if not self._lingering:
            self._nobody.set()

    async def gone(self) -> None:
        """Wait until the socket of everybody who was a member is closed."""
        await self._nobody.wait()

    def cut(self, reason: str) -> None:
        """Cut the sockets of everybody who is a member, or was one."""
        for connection in tuple(self._lingering):
            connection.abort(reason)
