"""One socket: websockets' Sans-I/O protocol on an asyncio transport.

The library parses and answers the protocol (RFC 6455); this shell moves the bytes, assembles
fragments, enforces deadlines, and bounds what waits for a client that does not read. What the
frames mean is the server's business (`handler`). What a connection is made of, and how it goes on
in another process, is in `movable`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Final, cast

from websockets.frames import Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import State

from chatservice.movable import Movable
from chatservice.protocol import CloseCode
from chatservice.routes import RequestError, error_response
from chatservice.websocket import CLOSED

PING: Final = Frame(Opcode.PING, b"").serialize(mask=False, extensions=[])
PARSED_AT_ONCE: Final = 1024
"""Bytes after which a flood can be noticed: at most 170 frames, 3 ms of work for the library."""
EARLY: Final = "nothing may be sent before the upgrade is answered"
SENT_SECONDS: Final = 0.5
"""When what the welcome said, which may be long, will have been sent, and need not be kept."""
LATE_FRAMES: Final = 100
"""Frames past its rate that a client may have under way when it is told that it is closed."""


class Connection(Movable):
    """One client."""

    __slots__ = ()

    # --- asyncio.Protocol ----------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A socket was accepted: its deadline for a request runs. Or it came from elsewhere."""
        self._transport = cast(asyncio.Transport, transport)
        if self._inbox is not None:
            self._go_on(self._transport)
            return
        self._schedule(self._kill_at)
        self._handler.connected(self)

    async def attach(self, sock: socket.socket | None = None) -> bool:
        """Give it a socket, or back its own; nothing was lost meanwhile in either direction.

        False where that fails: the connection is over.
        """
        own = sock or self._socket
        assert own is not None
        self._socket = None
        try:
            await self._loop.connect_accepted_socket(lambda: self, own)
        except (OSError, RuntimeError):
            own.close()
            closed_at_once = self._gone
            self._end()
            self._handler.disconnected(self)
            return closed_at_once
        return True

    def _go_on(self, transport: asyncio.Transport) -> None:
        """It has a socket again."""
        inbox, self._inbox = self._inbox or b"", None
        if self._gone and self._websocket.state is State.OPEN:
            transport.abort()
            return
        waiting, self._backlog = [*(self._backlog or ()), self._last], None
        self._last = b"".join(waiting)
        if self._last:
            transport.write(self._last)
        self._flush()
        self._schedule(self._due)
        if inbox:
            seen = self._seen
            self._receive(inbox)
            self._seen = seen

    def data_received(self, data: bytes) -> None:
        """Bytes came: do what the library makes of them, a little at a time."""
        if self.slot is None:
            self._receive(data)
            return
        self.slot.received += len(data)
        self._receive(data)
        self._loop.call_soon(self.settle)  # when what this calls for is said

    def _receive(self, data: bytes) -> None:
        self._seen = self._loop.time()
        for start in range(0, len(data), PARSED_AT_ONCE):
            self._parse(data[start : start + PARSED_AT_ONCE])
            if self._transport is None or self._transport.is_closing():
                return
        self._flush()

    def eof_received(self) -> None:
        """The client sends no more; without a closing handshake that is a lost connection."""
        self._websocket.receive_eof()
        self._flush()

    def connection_lost(self, error: Exception | None) -> None:
        """The socket is closed."""
        self._end()
        if self.slot is not None:  # systemd has it too, so that closing alone says nothing
            with contextlib.suppress(OSError), self.duplicate() as sock:
                sock.shutdown(socket.SHUT_RDWR)
        self._transport = None
        self._websocket = CLOSED
        self._handler.disconnected(self)

    # --- what comes in -------------------------------------------------------------------

    def _parse(self, data: bytes) -> None:
        websocket = self._websocket
        websocket.rest = -1
        websocket.receive_data(data)
        if websocket.rest or self._length:
            self._note_unparsed(data, websocket)
        for event in websocket.events_received():
            if isinstance(event, Frame):
                self._frame(event)
            elif isinstance(event, Request):
                self._requested(event)
        if websocket.state is State.CONNECTING:
            if websocket.handshake_exc is not None:
                self._refuse_garbage("expected an HTTP/1.1 GET without a body")
            elif websocket.parser_exc is not None:
                self._refuse_garbage(EARLY)

    def _requested(self, request: Request) -> None:
        self.asked = True
        self._begun = b""
        self.pause()
        self._handler.requested(self, request)

    def _refuse_garbage(self, why: str) -> None:
        """Answer what is no HTTP request, on which the library mostly just hangs up."""
        if self._gone:
            return
        assert self._transport is not None
        websocket = self._websocket
        # Its own answer (414, 431) goes first; what it makes of frames before the upgrade does not.
        answer = b"".join(websocket.data_to_send()) if websocket.handshake_exc is not None else b""
        if not websocket.eof_sent:
            websocket.fail(CloseCode.PROTOCOL_ERROR)
        websocket.data_to_send()
        self._put(answer or error_response(RequestError(400, why)).serialize())
        self._transport.write_eof()
        self._transport.resume_reading()
        self.reason = "protocol_error"
        self._kill(self._handler.close_timeout)
        self._end()
        self._handler.answered(self)

    def _frame(self, frame: Frame) -> None:
        allowed = self.bucket.take(self._seen)
        if self._gone:
            if self.bucket.refused > LATE_FRAMES and not self._websocket.eof_sent:
                self.abort(self.reason)
            return
        if self._websocket.state is State.CONNECTING:
            self._refuse_garbage(EARLY)
            return
        opcode = frame.opcode
        if opcode is Opcode.CLOSE:
            self.reason = "client"
            self._end()
            return
        if opcode is Opcode.TEXT and frame.fin:
            text = self._text(frame.data)
        elif opcode in (Opcode.TEXT, Opcode.CONT):
            text = self._fragment(frame)
        elif opcode is Opcode.BINARY:
            self.fail("expected text frames, got a binary one")
            return
        else:
            text = None
        if not allowed:
            self._handler.flooded(self, text)
        elif text is not None:
            self._handler.received(self, text)

    def _fragment(self, frame: Frame) -> str | None:
        """Collect one fragment (the library bounds their sum); give the whole at the last."""
        fragments = self._fragments
        if fragments is None:
            fragments = self._fragments = bytearray()
        fragments += frame.data
        if not frame.fin:
            return None
        self._fragments = None
        return self._text(fragments)

    def _text(self, data: bytes | bytearray | memoryview) -> str | None:
        try:
            return str(data, "utf-8")
        except UnicodeDecodeError as error:
            self.fail(f"invalid UTF-8 at byte {error.start}")
            return None

    def pause(self) -> None:
        """Read nothing more for now."""
        if self._transport is not None:
            self._transport.pause_reading()

    def unpause(self) -> None:
        """Read on; the time of the pause does not count as the client's silence."""
        if self._transport is not None:
            self._seen = self._loop.time()
            self._transport.resume_reading()

    # --- what goes out -------------------------------------------------------------------

    def accept(self, request: Request) -> Response:
        """Give the answer to an upgrade request: 101, or why it is malformed."""
        return self._websocket.accept(request)

    def respond(self, response: Response) -> None:
        """Answer the HTTP request. After 101 it is a WebSocket; otherwise it is closed."""
        transport = self._transport
        if self._gone or transport is None:
            return
        self._websocket.send_response(response)
        self._begun = b""
        self._length = 0
        if response.status_code == 101:
            self._kill_at = float("inf")
            self._schedule(min(self._seen + self._handler.heartbeat, self._expires))
            self._handler.schedule(self, self._seen + SENT_SECONDS)
        else:
            self._kill(self._handler.close_timeout)
            self._end()
            self._handler.answered(self)
        transport.resume_reading()
        self._flush()

    def write(self, data: bytes) -> None:
        """Send serialised frames; a client that leaves too much unread is closed (4408).

        The buffer that goes past the limit may be of any size, such as the past of somebody who
        was away for long: then as much as the limit may wait beside it.
        """
        if self._websocket.state is not State.OPEN or self._gone:
            return
        self._put(data)
        waiting = self.unsent_bytes
        limit = self._handler.unsent_limit
        if waiting > limit:
            if waiting - len(data) <= limit:
                self._oversize = len(data)
            elif waiting > limit + self._oversize:
                self.close(CloseCode.TOO_SLOW, "too many unread bytes", reason="too_slow")

    def close(self, code: CloseCode, why: str, *, reason: str) -> None:
        """Start the closing handshake; the socket is cut when that takes too long.

        Args:
            code: goes to the client, with `why`.
            why: one phrase of at most 123 bytes.
            reason: the label of `chat_connections_closed_total`.
        """
        if not self.open:
            return
        self.reason = reason
        self._websocket.send_close(code, why)
        self._closing()

    def fail(
        self,
        why: str,
        *,
        code: CloseCode = CloseCode.PROTOCOL_ERROR,
        reason: str = "protocol_error",
    ) -> None:
        """Close because of what came; nothing more is parsed, a closing handshake neither."""
        if not self.open:
            return
        self.reason = reason
        self._websocket.fail(code, why)
        self._closing()

    def abort(self, reason: str) -> None:
        """Cut the socket now."""
        if not self._gone:
            self.reason = reason
        if self._transport is not None:
            self._transport.abort()
        self._end()

    def _closing(self) -> None:
        self._flush()
        self._end()

    def _flush(self) -> None:
        """Move what the library has to say to the socket; notice when it ended the connection."""
        websocket = self._websocket
        transport = self._transport
        if transport is None:
            return
        for data in websocket.data_to_send():
            if data:
                self._put(data)
            elif not transport.is_closing():
                transport.write_eof()
        if websocket.close_expected() and self._kill_at == float("inf"):
            self._kill(self._handler.close_timeout)
        failure = websocket.parser_exc
        if failure is not None and not self._gone:
            self.reason = "lost" if isinstance(failure, EOFError) else "protocol_error"
            self._end()
        if websocket.state is State.CLOSED and not transport.is_closing():
            transport.close()

    def _end(self) -> None:
        """Nothing more is sent or received: tell the server, once."""
        if not self._gone:
            self._gone = True
            self._handler.closed(self, self.reason)

    # --- time ----------------------------------------------------------------------------

    def expire_at(self, when: float) -> None:
        """Have the server told (`expired`) at `when`, in seconds of the loop's clock."""
        self._expires = when
        if self.open and when < self._due:
            self._schedule(when)

    def _schedule(self, when: float) -> None:
        self._due = when
        self._handler.schedule(self, when)

    def _kill(self, after: float) -> None:
        """Cut the socket when the client has not closed it within so many seconds."""
        self._kill_at = self._loop.time() + after
        self._schedule(self._kill_at)

    def on_timer(self, now: float) -> float | None:
        """Do what is due: cut, expire, or ping. Gives the time of the next call."""
        transport = self._transport
        if transport is None:
            return None
        if not transport.get_write_buffer_size():
            self._last, self._backlog = b"", None
        if now < self._due:  # a later call is in the wheel already
            return None
        if now >= self._kill_at:
            self.abort("timeout")
            return None
        if self._websocket.state is not State.OPEN or self._kill_at != float("inf"):
            return None
        if now >= self._expires:
            self._handler.expired(self)
            return None
        heartbeat = self._handler.heartbeat
        if now - self._seen >= 2 * heartbeat and transport.is_reading():
            self.abort("heartbeat")
            return None
        self._put(PING)
        self._due = min(now + heartbeat, self._expires)
        return self._due
