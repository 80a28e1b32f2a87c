"""How to speak to each server: what opens a connection, what publishes, what a delivery looks like.

Every delivery bears the text that was published, whole. The text is
`~#publisher;number;nanoseconds;` and padding, so that it can be counted (the mark `~#` is in it
once and nowhere else), attributed, put in order, and timed.
"""

from __future__ import annotations

import base64
import os
from typing import Final, NamedTuple, Protocol

import msgspec

from bench.frames import PING, PONG, TEXT, masked

MARK: Final = b"~#"
TEXT_BYTES: Final = 64
"""Length of each text: a line of chat."""


def own_mark(publisher: int) -> bytes:
    """Give what only this publisher's texts hold."""
    return MARK + b"%d;" % publisher


def text_of(publisher: int, number: int, nanoseconds: int) -> bytes:
    """Write the text of one message; the time is of the machine's monotonic clock."""
    return (MARK + b"%d;%d;%d;" % (publisher, number, nanoseconds)).ljust(TEXT_BYTES, b"x")


class Delivery(NamedTuple):
    """One message as a member got it. `seq` is the number that the room gave it."""

    seq: int
    publisher: int
    number: int
    sent: int


def _delivery(seq: int, text: str) -> Delivery:
    publisher, number, sent, _ = text.removeprefix(MARK.decode()).split(";")
    return Delivery(seq, int(publisher), int(number), int(sent))


class Dialect(Protocol):
    """What the swarm needs to know of a server's protocol."""

    def target(self, room: str, user: str) -> str:
        """Give the request target of the upgrade."""

    def hello(self) -> bytes:
        """Give what the client sends as soon as it is upgraded: a frame, or nothing."""

    def is_ready(self, payload: bytes) -> bool:
        """Whether this text frame says that the client is a member now."""

    def publish(self, number: int, text: bytes) -> bytes:
        """Give the frame that publishes a text."""

    def answer(self, opcode: int, payload: bytes) -> bytes | None:
        """Give the frame that answers the server's keep-alive; None where this is none."""

    def delivery(self, payload: bytes) -> Delivery | None:
        """Read a delivery; None where the frame is something else."""


class _Event(msgspec.Struct, gc=False):
    type: str
    seq: int = 0
    text: str = ""


_event: msgspec.json.Decoder[_Event] = msgspec.json.Decoder(_Event)


class Chat:
    """chat.v1, as the chat service speaks it; the peer on `broadcast()` speaks a part of it."""

    def target(self, room: str, user: str) -> str:
        return f"/api/chat/workspace/{room}/connect"

    def hello(self) -> bytes:
        return b""

    def is_ready(self, payload: bytes) -> bool:
        return payload.startswith(b'{"type":"welcome"')

    def publish(self, number: int, text: bytes) -> bytes:
        return masked(TEXT, b'{"type":"send","id":"%d","text":"%b"}' % (number, text))

    def answer(self, opcode: int, payload: bytes) -> bytes | None:
        return masked(PONG, payload) if opcode == PING else None

    def delivery(self, payload: bytes) -> Delivery | None:
        event = _event.decode(payload)
        return _delivery(event.seq, event.text) if event.type == "message" else None


class _Args(msgspec.Struct, gc=False):
    seq: int
    text: str


_socketio_event: msgspec.json.Decoder[tuple[str, _Args]] = msgspec.json.Decoder(tuple[str, _Args])


class SocketIO:
    """Socket.IO v5 over Engine.IO v4, websocket transport from the start.

    A text frame is one Engine.IO packet: `0` open, `2` ping, `3` pong, `4` message; within a
    message, `0` is Socket.IO's connect and `2` an event with its arguments as a JSON array
    (https://socket.io/docs/v4/socket-io-protocol/).
    """

    def target(self, room: str, user: str) -> str:
        return f"/socket.io/?EIO=4&transport=websocket&room={room}&user={user}"

    def hello(self) -> bytes:
        return masked(TEXT, b"40")

    def is_ready(self, payload: bytes) -> bool:
        return payload.startswith(b"40")

    def publish(self, number: int, text: bytes) -> bytes:
        return masked(TEXT, b'42["send",{"id":"%d","text":"%b"}]' % (number, text))

    def answer(self, opcode: int, payload: bytes) -> bytes | None:
        if opcode == TEXT:
            return masked(TEXT, b"3") if payload == b"2" else None
        return masked(PONG, payload) if opcode == PING else None

    def delivery(self, payload: bytes) -> Delivery | None:
        if not payload.startswith(b'42["message"'):
            return None
        _, args = _socketio_event.decode(payload[2:])
        return _delivery(args.seq, args.text)


def upgrade_request(dialect: Dialect, *, host: str, room: str, user: str, token: str) -> bytes:
    """Write the request that opens a WebSocket (RFC 6455, 4.1), with a bearer token."""
    key = base64.b64encode(os.urandom(16)).decode()
    lines = (
        f"GET {dialect.target(room, user)} HTTP/1.1",
        f"Host: {host}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key}",
        "Sec-WebSocket-Version: 13",
        f"Authorization: Bearer {token}",
        "",
        "",
    )
    return "\r\n".join(lines).encode()
