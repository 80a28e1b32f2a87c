"""What a connection is made of, and how it moves to another process.

All that a connection knows is here, for it moves: `captured` says where its byte streams stand,
`restore` and `visit` go on from there in the other process. For that it knows, at any time, the
bytes since the last whole frame, and those that the socket has not taken yet. The socket itself
goes by its descriptor; where bytes wait to be written to it, it is taken from its transport first
(`detach`). Whose it is goes along by `handover`.

What comes in, what goes out and when is in `connection`, on top of this; so is getting a socket
(`attach`). Who adds to what a connection knows says here how that moves.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
from typing import Final, Self

from websockets.protocol import State

from chatservice.handler import Handler
from chatservice.handover_format import Stream
from chatservice.survival import Slot
from chatservice.websocket import CLOSED, WebSocket, websocket

HEADER: Final = 14
"""Bytes of the longest frame header (RFC 6455, 5.2). The library holds on to the payload itself."""
BACKLOG_BUFFERS: Final = 64
BACKLOG_BYTES: Final = 65_536
"""After so many buffers, or one so large, those that the socket has taken are forgotten."""

_numbers = itertools.count(1)
_process = f"{os.getpid():x}"

_NOBODY: Final = asyncio.Protocol()
"""Whom a transport tells that it was closed whose connection lives on elsewhere."""


class Movable(asyncio.Protocol):
    """The state of one client's connection."""

    __slots__ = (
        "_backlog",
        "_begun",
        "_due",
        "_expires",
        "_fragments",
        "_gone",
        "_handler",
        "_inbox",
        "_kill_at",
        "_last",
        "_length",
        "_loop",
        "_name",
        "_oversize",
        "_seen",
        "_socket",
        "_transport",
        "_websocket",
        "asked",
        "bucket",
        "exp",
        "name",
        "number",
        "origin",
        "pending",
        "reason",
        "slot",
        "token",
        "user",
        "workspace",
    )

    def __init__(self, handler: Handler, loop: asyncio.AbstractEventLoop) -> None:
        self._begin(handler, loop, websocket(handler.frame_limit))

    def _begin(
        self, handler: Handler, loop: asyncio.AbstractEventLoop, protocol: WebSocket
    ) -> None:
        self._handler = handler
        self._loop = loop
        self._websocket = protocol
        self._gone = False
        """Whether the server was told that it is closed, and why: `reason`."""
        self.reason = "lost"

        self.number = next(_numbers)
        self._name = ""
        """Its `id` in the process that it comes from."""
        self.asked = False
        """Whether it has said what it wants."""
        self.user = ""
        self.name = ""
        self.workspace = ""
        self.token = ""
        self.exp = 0
        self.origin: str | None = None

        self._transport: asyncio.Transport | None = None
        self._socket: socket.socket | None = None
        """What `attach` is to give a transport; otherwise the transport has it."""
        self._inbox: bytes | None = None
        """What was received elsewhere and is to be parsed; None unless it waits for `attach`."""

        self._begun = b""
        self._length = 0
        """How what is no whole frame begins, and how long it is."""
        self._fragments: bytearray | None = None
        self.bucket = handler.new_bucket()
        self.pending = 0
        """Requests that are not answered yet; counted where it is kept."""

        self._last = b""
        self._backlog: list[bytes] | None = None
        """What was written before `_last`: the socket has not taken all of it."""
        self._oversize = 0
        """Bytes that are let through past the limit of what may wait."""
        self.slot: Slot | None = None
        """Where it is kept beyond a crash; None where it is not."""

        self._seen = loop.time()
        """When it was last heard; as all times here, in seconds of the loop's clock."""
        self._kill_at = self._seen + handler.handshake_timeout
        self._due = self._expires = float("inf")

    @property
    def id(self) -> str:
        """A name for the log: unique among the processes of a host for as long as they live."""
        return self._name or f"{_process}-{self.number}"

    @property
    def open(self) -> bool:
        """Whether it is a WebSocket that can be written to."""
        return self._websocket.state is State.OPEN and not self._gone

    @property
    def gone(self) -> bool:
        """Whether the server was told that it is closed."""
        return self._gone

    @property
    def unsent_bytes(self) -> int:
        """Bytes accepted by `write` but not yet by the socket."""
        if self._transport is not None:
            return self._transport.get_write_buffer_size()
        return sum(map(len, self._backlog or ())) + len(self._last)

    # --- where its streams stand ---------------------------------------------------------

    def _note_unparsed(self, data: bytes, websocket: WebSocket) -> None:
        """Remember how what is no whole frame begins, and how long it is."""
        rest = websocket.rest
        if rest >= 0:
            self._begun = data[len(data) - rest :][:HEADER] if rest else b""
            self._length = rest
            return
        if websocket.state is State.CONNECTING:
            self._begun += data
        elif len(self._begun) < HEADER:
            self._begun = (self._begun + data)[:HEADER]
        self._length += len(data)

    @property
    def unparsed(self) -> bytes:
        """The bytes received since the last whole frame, or all of an unfinished request."""
        websocket = self._websocket
        if websocket.state is State.CONNECTING:
            return self._begun
        held = bytes(websocket.reader.buffer)
        return self._begun[: self._length - len(held)] + held

    def _put(self, data: bytes) -> None:
        """Give bytes to the socket, and keep those that it may not have taken yet."""
        transport = self._transport
        if transport is None:  # it is on its way between two processes
            self._backlog = [*(self._backlog or ()), self._last] if self._last else self._backlog
            self._last = data
            if self.slot is not None:
                self.slot.wrote(len(data))
            return
        waiting = transport.get_write_buffer_size()
        if waiting:
            self._keep(waiting)
        else:
            self._backlog = None
        self._last = data
        if self.slot is not None:
            self.slot.wrote(len(data))  # first: a crash in between leaves a doubt, and no lie
        transport.write(data)

    def _keep(self, waiting: int) -> None:
        """Keep of what was written the last `waiting` bytes, and a few buffers more."""
        backlog = self._backlog = self._backlog or []
        backlog.append(self._last)
        if len(backlog) >= BACKLOG_BUFFERS or len(self._last) > BACKLOG_BYTES:
            self._backlog = [b"".join(backlog)[-waiting:]]

    def _unsent(self) -> bytes:
        waiting = self.unsent_bytes
        if not waiting:
            return b""
        return b"".join([*(self._backlog or ()), self._last])[-waiting:]

    def settle(self) -> None:
        """Note, where it is kept, that all it sent is whole and answered, if that is so."""
        slot = self.slot
        if slot is None or self.pending or self._length or self._fragments is not None:
            return
        slot.settled()

    def answered(self) -> None:
        """Something that it asked for was answered."""
        self.pending -= 1
        self.settle()

    # --- moving --------------------------------------------------------------------------

    @classmethod
    def restore(
        cls,
        handler: Handler,
        loop: asyncio.AbstractEventLoop,
        stream: Stream,
        *,
        id: str,
        now: float,
    ) -> Self:
        """Go on with a member's connection of another process; its socket comes with `attach`.

        Args:
            handler: the server.
            loop: its event loop.
            stream: where the other process was.
            id: the connection's name there.
            now: seconds of the loop's clock.
        """
        connection = cls.__new__(cls)
        connection._begin(handler, loop, websocket(handler.frame_limit, State.OPEN))
        connection._name = id
        connection.asked = True
        connection._kill_at = float("inf")
        connection._seen = now - stream.silent
        connection._due = now + stream.due
        connection._oversize = stream.oversize
        connection._last = stream.unsent
        connection._inbox = stream.unparsed
        connection.bucket.restore(stream.ahead, stream.refused, now)
        if stream.fragments is not None:
            connection._fragments = bytearray(stream.fragments)
            connection._websocket.current_size = len(stream.fragments)
        return connection

    @classmethod
    def visit(
        cls,
        handler: Handler,
        loop: asyncio.AbstractEventLoop,
        *,
        id: str,
        head: bytes,
        left: float,
        now: float,
    ) -> Self:
        """Go on with a connection that has not said what it wants, and has so long to do so."""
        connection = cls(handler, loop)
        connection._name = id
        connection._inbox = head
        connection._due = connection._kill_at = now + left
        return connection

    def captured(self, now: float) -> Stream:
        """Say where the streams stand. Nothing may be read or written afterwards."""
        return Stream(
            silent=now - self._seen,
            due=self._due - now,
            unparsed=self.unparsed,
            fragments=bytes(self._fragments) if self._fragments is not None else None,
            unsent=self._unsent(),
            oversize=self._oversize,
            ahead=self.bucket.ahead(now),
            refused=self.bucket.refused,
        )

    def left(self, now: float) -> float:
        """Seconds until it must have said what it wants."""
        return self._kill_at - now

    # --- its socket ----------------------------------------------------------------------

    @property
    def peer(self) -> str:
        """The address of the other end, for the log."""
        name = self._transport.get_extra_info("peername") if self._transport is not None else None
        return f"{name[0]}:{name[1]}" if isinstance(name, tuple) else "unknown"

    def duplicate(self) -> socket.socket:
        """Give the socket, duplicated.

        Raises:
            OSError: no descriptor is left, or it is closed.
        """
        return socket.socket(fileno=os.dup(self.fileno()))

    def bring(self, sock: socket.socket) -> None:
        """Have this socket, which is to be attached."""
        self._socket = sock

    def fileno(self) -> int:
        """The socket's descriptor."""
        if self._socket is not None:
            return self._socket.fileno()
        assert self._transport is not None
        number: int = self._transport.get_extra_info("socket").fileno()
        return number

    def detach(self) -> None:
        """Take the socket from a transport that would go on writing; `attach` gives it another.

        Raises:
            OSError: no descriptor is left.
        """
        transport = self._transport
        if transport is None or not transport.get_write_buffer_size():
            return
        self._socket = socket.socket(fileno=os.dup(self.fileno()))
        self._last, self._backlog = self._unsent(), None
        self._leave_transport()
        self._inbox = b""

    def _leave_transport(self) -> None:
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.set_protocol(_NOBODY)
            transport.abort()  # closes this process's copy; the connection stays open

    @property
    def detached(self) -> bool:
        """Whether it waits for `attach`."""
        return self._inbox is not None

    def give_away(self) -> None:
        """It lives on in another process: let go of it here, without a word."""
        self._gone = True
        self._leave_transport()
        self._websocket = CLOSED
        if self._socket is not None:
            self._socket.close()
            self._socket = None
