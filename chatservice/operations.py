"""What members' frames mean: each is decoded and carried out, or refused, in its member's room."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

from chatservice import protocol
from chatservice.actions import Store as StoreAction
from chatservice.admission import Admission
from chatservice.auth import Authenticator, AuthError
from chatservice.config import Settings
from chatservice.connection import Connection
from chatservice.connections import Connections
from chatservice.fanout import LiveRoom
from chatservice.logs import get_logger
from chatservice.metrics import Metrics
from chatservice.protocol import CloseCode, Error, ErrorCode, FrameError
from chatservice.rooms import Rooms
from chatservice.store import Store, StoreError, StoreErrorKind
from chatservice.tasks import Tasks

log = get_logger("operations")

READ_SECONDS: Final = 0.5
"""How long a handover waits for reads under way; the new process does the rest again."""


class Operations:
    """Does what members ask for.

    Args:
        settings: have the limits of frames and of history.
        connections: say who is a member, and of which room.
        rooms: tell the other nodes who types.
        store: where history is read.
        admission: notes what a member showed.
        authenticator: checks what a member shows anew.
        metrics: where operations are counted and timed.
    """

    def __init__(
        self,
        settings: Settings,
        connections: Connections,
        rooms: Rooms,
        store: Store,
        admission: Admission,
        authenticator: Authenticator,
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self._connections = connections
        self._members = connections.members
        self._rooms = rooms
        self._store = store
        self._admission = admission
        self._authenticator = authenticator
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._tasks = Tasks()
        self._under_way: dict[asyncio.Task[None], tuple[Connection, protocol.ClientFrame]] = {}
        self.again: dict[Connection, list[protocol.ClientFrame]] = {}
        """What members asked for and were not answered yet at `suspend`."""
        self._operations: dict[type, Callable[[Connection, LiveRoom, Any], None]] = {
            protocol.Send: self._send,
            protocol.Read: self._read,
            protocol.StartTyping: self._typing,
            protocol.ReadHistory: self._history,
            protocol.Ping: self._ping,
            protocol.Authenticate: self._authenticate,
        }

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

    # --- moving to another process -------------------------------------------------------

    async def suspend(self) -> None:
        """See what is under way through, for a moment; what is left is to be done `again`."""
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=READ_SECONDS)
        self.again = {}
        for task, (connection, frame) in self._under_way.items():
            if task.cancel():
                self.again.setdefault(connection, []).append(frame)
        if self._under_way:
            await asyncio.wait(self._under_way)

    def resume(self) -> None:
        """Undo `suspend`: do what is left here after all."""
        again, self.again = self.again, {}
        for connection, frames in again.items():
            for frame in frames:
                self.operate(connection, frame)

    def close(self) -> None:
        """Do nothing more."""
        self._tasks.cancel()

    # --- one each ------------------------------------------------------------------------

    def _send(self, connection: Connection, live: LiveRoom, frame: protocol.Send) -> None:
        actions = live.room.send(connection, frame.id, frame.text, int(time.time() * 1000))
        if not isinstance(actions[0], StoreAction):
            self._metrics.requests["send", "client_error"].inc()
        live.carry_out(actions)

    def _read(self, connection: Connection, live: LiveRoom, frame: protocol.Read) -> None:
        actions = live.room.read(connection, frame.seq)
        if not isinstance(actions[0], StoreAction):
            self._metrics.requests["read", "client_error"].inc()
        live.carry_out(actions)

    def _typing(self, connection: Connection, live: LiveRoom, _: protocol.StartTyping) -> None:
        actions = live.room.typing(connection, self._loop.time())
        if actions:
            live.carry_out(actions)
            self._rooms.tell_typing(connection)
        self._metrics.requests["typing", "ok"].inc()

    def _ping(self, connection: Connection, live: LiveRoom, _: protocol.Ping) -> None:
        live.carry_out(live.room.ping(connection))
        self._metrics.requests["ping", "ok"].inc()

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
            page = await self._rooms.reading.measured(
                "history", lambda: self._store.history(connection.workspace, before, limit)
            )
        except StoreError:
            self._metrics.requests["history", "error"].inc()
            live.tell(connection, Error(ErrorCode.UNAVAILABLE, "history cannot be read now"))
            return
        live.tell(connection, protocol.History(page.messages, page.more))
        self._metrics.requests["history", "ok"].inc()
        self._metrics.request_duration["history"].observe(self._loop.time() - started)

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
            self._metrics.requests["auth", "client_error"].inc()
            connection.close(CloseCode.FORBIDDEN, "no longer allowed here", reason="forbidden")
            return
        self._admission.identify(connection, identity, token)
        self._connections.renewed(connection)
        live.tell(connection, protocol.Authenticated(identity.exp))
        self._metrics.requests["auth", "ok"].inc()

    # --- their answers -------------------------------------------------------------------

    def _refuse(self, connection: Connection, live: LiveRoom, operation: str, error: Error) -> None:
        self._metrics.requests[operation, "client_error"].inc()
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
        self._metrics.room_errors[StoreErrorKind.INTERNAL].inc()
        self._metrics.requests[protocol.operation_of(frame), "error"].inc()
        live.tell(connection, Error(ErrorCode.UNAVAILABLE, "internal error"))
