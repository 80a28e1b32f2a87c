"""The server of members: put together from its parts, and its life from start to close.

It ties connections to their rooms: HTTP up to the welcome is `admission`'s, who is there is known
to `connections`, what members ask for is done by `operations`, and what comes of it is `rooms`'.
Sending members away is `departures`'; the life of the process around it is `process`'s.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from functools import partial
from typing import Final

from websockets.http11 import Request

from chatservice.admission import Admission, Build
from chatservice.auth import Authenticator
from chatservice.cluster import Alone, Bus
from chatservice.config import Settings
from chatservice.connection import Connection
from chatservice.connections import Connections
from chatservice.departures import Departures, evict
from chatservice.fanout import LiveRoom
from chatservice.health import StoreHealth
from chatservice.lifeline import Lifeline
from chatservice.limits import ConnectionCounts, TokenBucket
from chatservice.logs import get_logger
from chatservice.metrics import Metrics
from chatservice.operations import Operations
from chatservice.room import Rules
from chatservice.rooms import Rooms
from chatservice.store import Store
from chatservice.timers import TimerWheel

log = get_logger("server")

SETTLE_SECONDS: Final = 1.0
"""How long members may still come in who had connected when no more were accepted."""
FLUSH_SECONDS: Final = 5.0
"""How long a stop waits for commits under way: more than a busy timeout, less than patience."""


class ChatServer:
    """One process's server. Implements `handler.Handler`."""

    def __init__(
        self,
        settings: Settings,
        build: Build,
        store: Store,
        bus: Bus,
        authenticator: Authenticator,
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self._authenticator = authenticator
        self._loop = asyncio.get_running_loop()
        self.metrics = metrics
        self.store = store
        self._wheel = TimerWheel(self._loop, metrics.loop_lag.observe)
        self.health = StoreHealth(store, metrics)
        rules = Rules(
            presence_grace=settings.timing.presence_grace,
            text_limit=settings.limits.text,
            heartbeat=settings.timing.heartbeat,
            shared=not isinstance(bus, Alone),
        )
        self.rooms = Rooms(
            store, self.health, metrics, self._wheel, rules,
            bus=bus, queued_writes=settings.limits.queued_writes,
            evict=partial(evict, spread=settings.timing.reconnect_spread),
        )  # fmt: skip
        counts = ConnectionCounts(settings.limits)
        self.connections = Connections(
            settings.limits.handshakes, counts, metrics, self.rooms.watch
        )
        self.admission = Admission(
            settings, build, authenticator, self.rooms, store, self.health, metrics, counts,
            welcome=self.connections.welcome,
        )  # fmt: skip
        self.operations = Operations(
            settings, self.connections, self.rooms, store, self.admission, authenticator, metrics
        )
        self._departures = Departures(self.connections, settings.timing)
        self.paused = 0.0
        """When reading last stopped, in seconds of CLOCK_MONOTONIC."""
        metrics.top.measure_connections(
            lambda: {live.room.workspace: len(live.room) for live in self.rooms}
        )
        # The rest of `handler.Handler`: what a connection tells goes to the part that it is for
        # without a call in between.
        self.heartbeat = settings.timing.heartbeat
        self.handshake_timeout = settings.timing.handshake
        self.close_timeout = settings.timing.close
        self.unsent_limit = settings.limits.unsent_bytes
        self.frame_limit = settings.limits.frame_bytes
        self.schedule = self._wheel.schedule
        self.connected = self.connections.connected
        self.answered = self.connections.answered
        self.received = self.operations.received
        self.flooded = self.operations.flooded
        self.expired = self.connections.expired
        self.closed = self.connections.closed
        self.disconnected = self.connections.disconnected

    def new_bucket(self) -> TokenBucket:
        """Give the rate limit of one connection."""
        return TokenBucket(self._settings.limits.rate, self._settings.limits.burst)

    def requested(self, connection: Connection, request: Request) -> None:
        """Answer an HTTP request."""
        self.connections.asked(connection)
        self.admission.handle(connection, request)

    @property
    def members(self) -> Mapping[Connection, LiveRoom]:
        """Every member, with its room."""
        return self.connections.members

    def keep(self, lifeline: Lifeline) -> None:
        """Have members' connections kept beyond a crash."""
        self.connections.lifeline = lifeline
        self.rooms.survival = lifeline.survival

    # --- start and close -----------------------------------------------------------------

    async def start(self) -> None:
        """Start everything but the listeners.

        Raises:
            StoreError: the store does not start yet; it goes on trying, and readiness is red.
        """
        self._wheel.start()
        self.rooms.committer.start()
        await self._authenticator.start()
        try:
            await self.health.start()
        finally:
            await self.rooms.neighbours.start()  # which needs the schema

    async def close(self) -> None:
        """Let go of the store and of every task."""
        self.operations.close()
        await self.health.close()
        await self.rooms.close()
        await self._authenticator.close()
        self._wheel.stop()
        await self.store.close()

    # --- standing still ------------------------------------------------------------------

    async def quiesce(self, *, let_in: bool) -> None:
        """Read nothing more, and see what was read through to the disk and to the members.

        Args:
            let_in: wait, for a moment, for those who have connected and not yet said what for;
                otherwise only for those who have.
        """
        await self._settle(let_in=let_in)
        self._pause()
        try:
            await self._finish()
        except TimeoutError:
            log.error("commits under way did not finish; they are not acknowledged")

    def resume(self) -> None:
        """Undo `quiesce`: read on, as if nothing had been."""
        self.admission.draining = False
        for connection in self.connections.members:
            connection.unpause()

    async def freeze(self) -> None:
        """Read nothing, write nothing, change nothing: another process goes on from here.

        Raises:
            TimeoutError: commits under way do not finish; call `thaw`.
        """
        await self._settle(let_in=False)
        self._pause()
        for connection in self.connections.half_open:
            connection.pause()
        await self._finish()
        await self.operations.suspend()
        self._wheel.stop()
        self.rooms.freeze()
        for live in self.rooms:
            live.flush()
        for _ in range(2):  # uvloop may write at the end of a turn
            await asyncio.sleep(0)

    def thaw(self) -> None:
        """Undo `freeze`, at whatever point it failed: go on as if nothing had been."""
        self.rooms.thaw()
        self._wheel.stop()
        self._wheel.start()
        for connection in self.connections.half_open:
            if not connection.gone:
                connection.unpause()
        self.resume()
        self.operations.resume()

    async def reattach(self) -> None:
        """Give their sockets back to connections that were to move."""
        for connection in [*self.connections.members, *self.connections.half_open]:
            if connection.detached:
                await connection.attach()

    async def _settle(self, *, let_in: bool) -> None:
        deadline = self._loop.time() + SETTLE_SECONDS
        await asyncio.sleep(0)  # what was accepted in this turn is known in the next
        # Polled (ASYNC110) for a second at most, once in a process's life.
        while self._at_the_door(let_in) and self._loop.time() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.005)

    def _pause(self) -> None:
        self.paused = time.monotonic()
        self.admission.draining = True
        for connection in self.connections.members:
            connection.pause()

    async def _finish(self) -> None:
        """See commits under way through.

        Raises:
            TimeoutError: they take too long.
        """
        try:
            async with asyncio.timeout(FLUSH_SECONDS):
                await self.rooms.committer.drain()
        finally:
            for live in self.rooms:
                live.flush()

    def _at_the_door(self, silent_too: bool) -> bool:
        return self.admission.busy or (silent_too and bool(self.connections.visitors))

    # --- the end of members' time here ----------------------------------------------------

    def spread(self, count: int) -> float:
        """Give the seconds within which so many members are to come back."""
        return self._departures.spread(count)

    async def dismiss(self) -> None:
        """Send everybody away with `reconnect` and 1012, and wait until they have left."""
        await self._departures.dismiss()

    async def drain(self) -> int:
        """Send everybody away, so many a second, and serve them until then; gives how many.

        Nobody comes in any more. Who is sent away is to come back at once, elsewhere.
        """
        self.admission.draining = True
        return await self._departures.drain()

    def give_away(self) -> None:
        """Let go of everybody, as they live on in another process."""
        self.connections.give_away()
