"""One connection of a swarm: becomes a member, publishes, and counts what it is delivered."""

from __future__ import annotations

import asyncio
from time import monotonic_ns
from typing import Final, Protocol, cast

from bench.dialects import MARK, Delivery, Dialect, own_mark, text_of
from bench.frames import CLOSE, TEXT, FrameReader, MarkCounter

_HEADERS_END: Final = b"\r\n\r\n"


class LoadError(Exception):
    """The server did not do what it must, so there is nothing to measure."""


class Room:
    """What was published in one room, by anybody."""

    __slots__ = ("members", "name", "sent")

    def __init__(self, name: str) -> None:
        self.name = name
        self.members: list[Member] = []
        self.sent = 0


class Swarm(Protocol):
    """What a member needs to know of the whole."""

    dialect: Dialect
    buffer: bytearray
    """Where all members receive: one at a time, and each has done with it when it returns."""
    refill: bool
    """Whether a member sends a new message for each of its own that it is delivered."""

    def timed(self, sent: int, received: int) -> None:
        """Note when a message was sent and received, in nanoseconds of the monotonic clock."""

    def fail(self, error: Exception) -> None:
        """Note that the run is worth nothing."""


class Member(asyncio.BufferedProtocol):
    """One member of one room.

    Until it is a member it reads every frame. Then it only counts marks, unless it is `complete`:
    such a one reads everything, proves that the room's numbers are dense and that each
    publisher's messages come once and in order, and times them.
    """

    __slots__ = (
        "_complete",
        "_counter",
        "_echoes",
        "_head",
        "_last",
        "_numbers",
        "_own",
        "_published",
        "_reader",
        "_request",
        "_swarm",
        "_transport",
        "leaving",
        "number",
        "read",
        "ready",
        "room",
    )

    def __init__(
        self, swarm: Swarm, number: int, room: Room, request: bytes, *, complete: bool
    ) -> None:
        self.number = number
        self.room = room
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.leaving = False
        self.read = 0
        self._swarm = swarm
        self._request = request
        self._complete = complete
        self._transport: asyncio.Transport | None = None
        self._head: bytes | None = b""
        self._reader: FrameReader | None = FrameReader()
        self._counter = MarkCounter(MARK)
        self._own: MarkCounter | None = None
        self._published = 0
        self._last = 0
        self._numbers: dict[int, int] = {}
        self._echoes = 0

    @property
    def deliveries(self) -> int:
        """Messages delivered so far."""
        return self.read if self._complete else self._counter.count

    # --- asyncio.BufferedProtocol --------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._request)

    def get_buffer(self, sizehint: int) -> bytearray:
        return self._swarm.buffer

    def buffer_updated(self, size: int) -> None:
        try:
            if self._reader is not None:
                self._read(bytes(self._swarm.buffer[:size]))
                return
            self._counter.feed(self._swarm.buffer, size)
            if self._own is not None and (echoes := self._own.feed(self._swarm.buffer, size)):
                self._echoed(echoes)
        except Exception as error:
            self._fail(error)

    def eof_received(self) -> None:
        """Let the transport close; `connection_lost` says what that means."""

    def connection_lost(self, error: Exception | None) -> None:
        if not self.leaving:
            self._fail(LoadError(f"the server closed the connection of member {self.number}"))

    # --- what comes in -------------------------------------------------------------------

    def _read(self, data: bytes) -> None:
        assert self._reader is not None
        if self._head is not None:
            head, end, data = (self._head + data).partition(_HEADERS_END)
            if not end:
                self._head = head
                return
            self._head = None
            if not head.startswith(b"HTTP/1.1 101 "):
                status = head.partition(b"\r\n")[0].decode(errors="replace")
                raise LoadError(f"member {self.number} was refused: {status} {data[:200]!r}")
            if hello := self._swarm.dialect.hello():
                assert self._transport is not None
                self._transport.write(hello)
        self._echoes = 0
        for opcode, payload in self._reader.feed(data):
            self._frame(opcode, payload)
        if self._echoes:
            self._echoed(self._echoes)

    def _frame(self, opcode: int, payload: bytes) -> None:
        dialect = self._swarm.dialect
        if opcode == CLOSE:
            code, why = int.from_bytes(payload[:2], "big"), payload[2:].decode(errors="replace")
            raise LoadError(f"the server closed member {self.number} with {code} {why}")
        if (answer := dialect.answer(opcode, payload)) is not None:
            assert self._transport is not None
            self._transport.write(answer)
        elif opcode == TEXT and (delivery := dialect.delivery(payload)) is not None:
            self._delivered(delivery)
        elif not self.ready.done() and dialect.is_ready(payload):
            self.ready.set_result(None)

    def _delivered(self, delivery: Delivery) -> None:
        if delivery.seq != self._last + 1:
            raise LoadError(f"number {delivery.seq} came after {self._last}")
        self._last = delivery.seq
        before = self._numbers.get(delivery.publisher, 0)
        if delivery.number != before + 1:
            raise LoadError(f"{delivery} came after its number {before}")
        self._numbers[delivery.publisher] = delivery.number
        self.read += 1
        self._echoes += delivery.publisher == self.number
        self._swarm.timed(delivery.sent, monotonic_ns())

    def _echoed(self, echoes: int) -> None:
        if self._swarm.refill:
            self.publish(echoes)

    # --- what goes out -------------------------------------------------------------------

    def begin(self, *, publisher: bool) -> None:
        """All are members: from here on, count."""
        if publisher:
            self._own = MarkCounter(own_mark(self.number))
        if not self._complete:
            self._reader = None

    def publish(self, count: int, sent: int | None = None) -> None:
        """Publish so many messages, in one write. `sent` is the time they bear; now by default."""
        assert self._transport is not None
        first = self._published + 1
        self._published += count
        self.room.sent += count
        sent = monotonic_ns() if sent is None else sent
        publish = self._swarm.dialect.publish
        self._transport.write(
            b"".join(
                publish(number, text_of(self.number, number, sent))
                for number in range(first, first + count)
            )
        )

    def leave(self) -> None:
        """Cut the connection."""
        self.leaving = True
        if self._transport is not None:
            self._transport.abort()

    def _fail(self, error: Exception) -> None:
        if self.leaving:
            return
        self.leave()
        if not isinstance(error, LoadError):
            error = LoadError(f"member {self.number}: {error!r}")
        if self.ready.done():
            self._swarm.fail(error)
        else:
            self.ready.set_exception(error)
