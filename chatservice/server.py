"""The server of members: what their frames mean, and what becomes of them.

It ties a connection to its room. HTTP up to the welcome is `admission`'s, the way to the disk is
`rooms`', bytes are `connection`'s; starting, stopping and taking over are `process`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final

from websockets.http11 import Request

from chatservice import protocol
from chatservice.actions import Store as StoreAction
from chatservice.admission import Admission, Build, unfinished
from chatservice.auth import Authenticator, AuthError
from chatservice.cluster import Alone, Bus
from chatservice.config import Settings
from chatservice.connection import Connection
from chatservice.fanout import LiveRoom
from chatservice.health import StoreHealth
from chatservice.lifeline import Lifeline
from chatservice.limits import TokenBucket
from chatservice.logs import get_logger
from chatservice.metrics import Metrics
from chatservice.outbox import text_frame
from chatservice.protocol import CloseCode, Error, ErrorCode, FrameError
from chatservice.room import Rules
from chatservice.rooms import Rooms
from chatservice.store import Store, StoreError, StoreErrorKind
from chatservice.tasks import Tasks
from chatservice.timers import TimerWheel

log = get_logger("server")

SETTLE_SECONDS: Final = 1.0
"""How long members may still come in who had connected when no more were accepted."""
READ_SECONDS: Final = 0.5
"""How long a handover waits for reads under way; the new process does the rest again."""
DRAIN_BATCH: Final = 20
DRAIN_JITTER: Final = 0.1
"""Members that are sent away together, and the seconds over which these come back."""
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
        self.heartbeat = settings.timing.heartbeat
        self.handshake_timeout = settings.timing.handshake
        self.close_timeout = settings.timing.close
        self.unsent_limit = settings.limits.unsent_bytes
        self.frame_limit = settings.limits.frame_bytes
        self._wheel = TimerWheel(self._loop, metrics.loop_lag.observe)
        self.schedule: Callable[[Connection, float], None] = self._wheel.schedule
        self.health = StoreHealth(store, metrics)
        rules = Rules(
            presence_grace=settings.timing.presence_grace,
            text_limit=settings.limits.text,
            heartbeat=settings.timing.heartbeat,
            shared=not isinstance(bus, Alone),
        )
        self.rooms = Rooms(
            store, self.health, metrics, self._wheel, rules,
            bus=bus, queued_writes=settings.limits.queued_writes, evict=self._evict,
        )  # fmt: skip
        self.admission = Admission(
            settings, build, authenticator, self.rooms, store, self.health, metrics, self._welcome
        )
        self._half_open: dict[Connection, None] = {}
        self._members: dict[Connection, LiveRoom] = {}
        self._lingering: set[Connection] = set()
        self._nobody = asyncio.Event()
        self._nobody.set()
        self.lifeline: Lifeline | None = None
        """Keeps members' connections beyond a crash, where that is wanted and can be."""
        self._tasks = Tasks()
        self._under_way: dict[asyncio.Task[None], tuple[Connection, protocol.ClientFrame]] = {}
        self.paused = 0.0
        """When reading last stopped, in seconds of CLOCK_MONOTONIC."""
        self.again: dict[Connection, list[protocol.ClientFrame]] = {}
        """What members asked for and were not answered yet when everything was frozen."""
        self._operations: dict[type, Callable[[Connection, LiveRoom, Any], None]] = {
            protocol.Send: self._send,
            protocol.Read: self._read,
            protocol.StartTyping: self._typing,
            protocol.ReadHistory: self._history,
            protocol.Ping: self._ping,
            protocol.Authenticate: self._authenticate,
        }
        metrics.measure_send_queue(lambda: float(sum(c.unsent_bytes for c in self._members)))
        metrics.top.measure_connections(
            lambda: {live.room.workspace: len(live.room) for live in self.rooms}
        )

    # --- lifecycle -----------------------------------------------------------------------

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

    async def freeze(self) -> None:
        """Read nothing, write nothing, change nothing: another process goes on from here.

        Raises:
            TimeoutError: commits under way do not finish; call `thaw`.
        """
        await self._settle(let_in=False)
        self._pause()
        for connection in self._half_open:
            connection.pause()
        await self._finish()
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=READ_SECONDS)
        self.again = {}
        for task, (connection, frame) in self._under_way.items():
            if task.cancel():
                self.again.setdefault(connection, []).append(frame)
        if self._under_way:
            await asyncio.wait(self._under_way)
        self._wheel.stop()
        self.rooms.freeze()
        for live in self.rooms:
            live.flush()
        for _ in range(2):  # uvloop writes at the end of a turn
            await asyncio.sleep(0)

    def thaw(self) -> None:
        """Undo `freeze`, at whatever point it failed: go on as if nothing had been."""
        self.rooms.thaw()
        self._wheel.stop()
        self._wheel.start()
        for connection in self._half_open:
            if not connection.gone:
                connection.unpause()
        self.resume()
        again, self.again = self.again, {}
        for connection, frames in again.items():
            for frame in frames:
                self.operate(connection, frame)

    async def reattach(self) -> None:
        """Give their sockets back to connections that were to move."""
        for connection in [*self._members, *self._half_open]:
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
        for connection in self._members:
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
        return self.admission.busy or (
            silent_too and any(not (each.asked or each.gone) for each in self._half_open)
        )

    def resume(self) -> None:
        """Undo `quiesce`: read on, as if nothing had been."""
        self.admission.draining = False
        for connection in self._members:
            connection.unpause()

    async def dismiss(self) -> None:
        """Send everybody away with `reconnect` and 1012, and wait until they have left."""
        members = list(self._members)
        random.shuffle(members)
        spread = self.spread(len(members))
        for index, connection in enumerate(members):
            within = spread * index / len(members), spread * (index + 1) / len(members)
            self._send_away(connection, "the service restarts", within)
            connection.unpause()
        try:
            async with asyncio.timeout(self._settings.timing.drain):
                await self._nobody.wait()
        except TimeoutError:
            for connection in tuple(self._lingering):
                connection.abort("restart")

    def spread(self, count: int) -> float:
        """Give the seconds within which so many members are to come back."""
        timing = self._settings.timing
        return max(timing.reconnect_spread, count / timing.returns_per_second)

    async def drain(self) -> int:
        """Send everybody away, so many a second, and serve them until then; gives how many.

        Nobody comes in any more. Who is sent away is to come back at once, elsewhere.
        """
        self.admission.draining = True
        members = list(self._members)
        random.shuffle(members)
        for count, connection in enumerate(members):
            if connection in self._members:
                self._send_away(connection, "this host is drained", (0.0, DRAIN_JITTER))
            if count % DRAIN_BATCH == DRAIN_BATCH - 1:
                await asyncio.sleep(DRAIN_BATCH / self._settings.timing.returns_per_second)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.timing.close + 1):
                await self._nobody.wait()
        return len(members)

    def _send_away(self, connection: Connection, why: str, within: tuple[float, float]) -> None:
        """Have a member come back, at a time of its own between two numbers of seconds."""
        in_ms = int(random.uniform(*within) * 1000)  # noqa: S311 - jitter, not a secret
        connection.write(text_frame(protocol.Reconnect(in_ms)))
        connection.close(CloseCode.RESTART, why, reason="restart")

    def _evict(self, live: LiveRoom) -> None:
        """Have the members of a room come back, to find another history."""
        for connection in tuple(live.room.members()):
            within = 0.0, self._settings.timing.reconnect_spread
            self._send_away(connection, "the history was replaced", within)

    async def close(self) -> None:
        """Let go of the store and of every task."""
        self._tasks.cancel()
        await self.health.close()
        await self.rooms.close()
        await self._authenticator.close()
        self._wheel.stop()
        await self.store.close()

    # --- handler.Handler -----------------------------------------------------------------

    def new_bucket(self) -> TokenBucket:
        """Give the rate limit of one connection."""
        return TokenBucket(self._settings.limits.rate, self._settings.limits.burst)

    def connected(self, connection: Connection) -> None:
        """Note a connection that is no member's; past the limit the oldest makes room.

        A client that means it is one for milliseconds, so whoever floods pushes out its own.
        """
        self._half_open[connection] = None
        if len(self._half_open) > self._settings.limits.handshakes:
            next(iter(self._half_open)).abort("timeout")

    def answered(self, connection: Connection) -> None:
        """Count a connection that was answered as half-open again until it is gone."""
        self.connected(connection)

    def requested(self, connection: Connection, request: Request) -> None:
        """Answer an HTTP request."""
        self._half_open.pop(connection, None)
        self.admission.handle(connection, request)

    def received(self, connection: Connection, text: str) -> None:
        """Do what a member asks for."""
        live = self._members.get(connection)
        if live is None:
            return
        try:
            frame = protocol.decode_client(text)
        except FrameError as error:
            self._refuse(connection, live, "invalid", Error(error.code, str(error)))
            return
        try:
            self._operations[type(frame)](connection, live, frame)
        except Exception:
            self._bug(connection, live, frame)

    def operate(self, connection: Connection, frame: protocol.ClientFrame) -> None:
        """Do what a member asked for before, in this process or in the one before it."""
        live = self._members.get(connection)
        if live is not None:
            self._operations[type(frame)](connection, live, frame)

    def flooded(self, connection: Connection, text: str | None) -> None:
        """Refuse a frame past the rate limit; close who does not heed it."""
        live = self._members.get(connection)
        if live is None:
            return
        if connection.bucket.refused > self._settings.limits.burst:
            connection.fail("too many frames", code=CloseCode.TOO_FAST, reason="too_fast")
            return
        if text is None:
            return
        id = None
        try:
            frame = protocol.decode_client(text)
            id = frame.id if isinstance(frame, protocol.Send) else None
        except FrameError:
            pass
        why = f"more than {self._settings.limits.rate:g} frames a second; this one was dropped"
        self._refuse(connection, live, "invalid", Error(ErrorCode.RATE_LIMITED, why, id))

    def expired(self, connection: Connection) -> None:
        """Close a member whose token has expired."""
        connection.close(CloseCode.TOKEN_EXPIRED, "the token expired", reason="token_expired")

    def closed(self, connection: Connection, reason: str) -> None:
        """Forget a connection that will send and receive no more."""
        self._half_open.pop(connection, None)
        if not connection.asked:
            self.metrics.handshakes[unfinished(reason)].inc()
        live = self._members.pop(connection, None)
        if live is None:
            return
        self.admission.counts.release(connection.user, connection.workspace)
        self.metrics.connections.dec()
        self.metrics.closed[reason].inc()
        if reason == "too_slow":
            self.metrics.slow_members.inc()
        if self.lifeline is not None:
            self.lifeline.closed(connection)
        live.leave(connection, self._loop.time())
        self.rooms.watch(live)
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

    # --- moving to another process -------------------------------------------------------

    @property
    def members(self) -> Mapping[Connection, LiveRoom]:
        """Every member, with its room."""
        return self._members

    @property
    def visitors(self) -> list[Connection]:
        """Connections that have not said what they want."""
        return [one for one in self._half_open if not (one.asked or one.gone)]

    def keep(self, lifeline: Lifeline) -> None:
        """Have members' connections kept beyond a crash."""
        self.lifeline = lifeline
        self.rooms.survival = lifeline.survival

    def adopt(self, connection: Connection, live: LiveRoom, slot: int) -> None:
        """Have a member of another process, kept in that slot; its room is live already."""
        if self.lifeline is not None:
            self.lifeline.resume(connection, live, slot, connection.unsent_bytes)
        live.adopt(connection)
        self._members[connection] = live
        self._lingering.add(connection)
        self._nobody.clear()
        self.admission.counts.adopt(connection.user, connection.workspace)
        self.metrics.connections.inc()

    def give_away(self) -> None:
        """Let go of everybody, as they live on in another process."""
        for connection in [*self._members, *self.visitors]:
            connection.give_away()
            self._half_open.pop(connection, None)
            self._lingering.discard(connection)
        self._members.clear()
        self.metrics.connections.set(0)
        if not self._lingering:
            self._nobody.set()

    def _welcome(self, connection: Connection, live: LiveRoom) -> None:
        if self.lifeline is not None:
            self.lifeline.hold(connection, live)
        self._members[connection] = live
        self._lingering.add(connection)
        self._nobody.clear()
        self.metrics.opened.inc()
        self.metrics.connections.inc()

    # --- operations ----------------------------------------------------------------------

    def _send(self, connection: Connection, live: LiveRoom, frame: protocol.Send) -> None:
        actions = live.room.send(connection, frame.id, frame.text, int(time.time() * 1000))
        if not isinstance(actions[0], StoreAction):
            self.metrics.requests["send", "client_error"].inc()
        live.carry_out(actions)

    def _read(self, connection: Connection, live: LiveRoom, frame: protocol.Read) -> None:
        actions = live.room.read(connection, frame.seq)
        if not isinstance(actions[0], StoreAction):
            self.metrics.requests["read", "client_error"].inc()
        live.carry_out(actions)

    def _typing(self, connection: Connection, live: LiveRoom, _: protocol.StartTyping) -> None:
        actions = live.room.typing(connection, self._loop.time())
        if actions:
            live.carry_out(actions)
            self.rooms.tell_typing(connection)
        self.metrics.requests["typing", "ok"].inc()

    def _ping(self, connection: Connection, live: LiveRoom, _: protocol.Ping) -> None:
        live.carry_out(live.room.ping(connection))
        self.metrics.requests["ping", "ok"].inc()

    def _history(self, connection: Connection, live: LiveRoom, frame: protocol.ReadHistory) -> None:
        if frame.before < 1 or frame.limit < 1:
            why = "history: `before` and `limit` must be at least 1"
            self._refuse(connection, live, "history", Error(ErrorCode.BAD_FRAME, why))
            return
        self._spawn(connection, live, frame, self._send_history(connection, live, frame))

    async def _send_history(
        self, connection: Connection, live: LiveRoom, frame: protocol.ReadHistory
    ) -> None:
        started = self._loop.time()
        limit = min(frame.limit, self._settings.history.page)
        before = min(frame.before, live.room.seq + 1)
        try:
            page = await self.rooms.reading.measured(
                "history", lambda: self.store.history(connection.workspace, before, limit)
            )
        except StoreError:
            self.metrics.requests["history", "error"].inc()
            live.tell(connection, Error(ErrorCode.UNAVAILABLE, "history cannot be read now"))
            return
        live.tell(connection, protocol.History(page.messages, page.more))
        self.metrics.requests["history", "ok"].inc()
        self.metrics.request_duration["history"].observe(self._loop.time() - started)

    def _authenticate(
        self, connection: Connection, live: LiveRoom, frame: protocol.Authenticate
    ) -> None:
        self._spawn(connection, live, frame, self._renew(connection, live, frame.token))

    async def _renew(self, connection: Connection, live: LiveRoom, token: str) -> None:
        try:
            identity = await self._authenticator.verify_refreshing(token)
            if identity.user != connection.user:
                raise AuthError("the token is another user's")
        except AuthError as error:
            self._refuse(connection, live, "auth", Error(ErrorCode.AUTH_FAILED, str(error)))
            return
        if connection.workspace not in identity.workspaces:
            self.metrics.requests["auth", "client_error"].inc()
            connection.close(CloseCode.FORBIDDEN, "no longer allowed here", reason="forbidden")
            return
        self.admission.identify(connection, identity, token)
        if self.lifeline is not None:
            self.lifeline.renew(connection)
        live.tell(connection, protocol.Authenticated(identity.exp))
        self.metrics.requests["auth", "ok"].inc()

    def _refuse(self, connection: Connection, live: LiveRoom, operation: str, error: Error) -> None:
        self.metrics.requests[operation, "client_error"].inc()
        live.tell(connection, error)

    def _spawn(
        self,
        connection: Connection,
        live: LiveRoom,
        frame: protocol.ClientFrame,
        work: Coroutine[Any, Any, None],
    ) -> None:
        task = self._tasks.spawn(self._see_through(connection, live, frame, work))
        self._under_way[task] = connection, frame
        connection.pending += 1

        def done(_: asyncio.Task[None]) -> None:
            del self._under_way[task]
            connection.answered()

        task.add_done_callback(done)

    async def _see_through(
        self,
        connection: Connection,
        live: LiveRoom,
        frame: protocol.ClientFrame,
        work: Coroutine[Any, Any, None],
    ) -> None:
        """Do what a member asked for; a bug is answered, too."""
        try:
            await work
        except Exception:
            self._bug(connection, live, frame)

    def _bug(self, connection: Connection, live: LiveRoom, frame: protocol.ClientFrame) -> None:
        """Log, count and answer the exception that is being handled."""
        log.exception("bug in a room", conn=connection.id, workspace=connection.workspace)
        self.metrics.room_errors[StoreErrorKind.INTERNAL].inc()
        self.metrics.requests[protocol.operation_of(frame), "error"].inc()
        live.tell(connection, Error(ErrorCode.UNAVAILABLE, "internal error"))
