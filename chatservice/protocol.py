"""The wire, chat.v1: every frame, close code and error code. This header is the contract.

Connect with `GET /api/chat/workspace/{workspace}/connect[?after=SEQ&epoch=EPOCH]`, a WebSocket
upgrade (RFC 6455). The token (JWT) travels as `Authorization: Bearer`, as the second of the
subprotocols `chat.v1, bearer.<token>` (browsers), or as `?token=`. Refused before the upgrade:

    400  the workspace id, `after` or the upgrade request is malformed
    401  no token, or a bad or an expired one
    403  the workspace is not in the token, or the origin is not allowed
    429  too many connections of this user or in this workspace (with Retry-After)
    503  draining, full, or the store cannot be read (with Retry-After)

Frames are JSON text, UTF-8, with the field `type` first. A receiver ignores fields and frame
types it does not know. Server to client:

    welcome    user, workspace, epoch, seq, read, unread, online[{user,name}], resumed, heartbeat
               The first frame. `seq` is the room's newest number. `resumed: true`: the messages
               after the client's `after` follow as `message` frames, none missing, none repeated.
               `resumed: false`: the client drops what it had; the newest follow as one `history`.
               `heartbeat` is the number of seconds after which silence means a dead connection.
    message    seq, id, user, name, text, ts      `ts`: milliseconds since the Unix epoch
    ack        id, seq, ts                        the message is on disk under this number
    presence   user, name, state: online|offline  offline only after a grace period; a user with
                                                  several devices is one user
    read       seq, unread                        to every device of the user who read
    typing     user                               to everybody else
    history    messages[], more                   oldest first; `more`: older ones are kept
    pong       seq                                the room's newest number: a lost tail shows
    auth       exp                                the renewed token was taken; seconds since 1970
    reconnect  in_ms                              come back after so long; close 1012 follows
    error      code, message, id?                 `id`: of the `send` that it answers

Client to server:

    send {id, text}           `id` (1-64 characters) is the client's own. The same (user, id)
                              again is stored once and answered with the first number, for as
                              long as the message is in history. Neither may hold U+0000
    read {seq}                everything up to seq is read; a cursor never moves back
    typing {}
    history {before, limit}   the `limit` newest messages numbered below `before`
    ping {}
    auth {token}              a newer token for the same user, before the old one expires

Close codes. 1012 and 4000-4499: reconnect. 4500-4999: do not.

    1012  the service restarts; a `reconnect` frame said when to come back
    4401  the token expired, or its key is no longer accepted: reconnect with a fresh one
    4408  too slow: more bytes were waiting than the limit; resume by number
    4429  too fast: the rate limit was ignored for too long
    4500  protocol error: what was received is not chat.v1 (the reason says what)
    4503  the workspace is no longer allowed for this user, or the web origin for anybody
"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import Final, Literal

import msgspec

SUBPROTOCOL: Final = "chat.v1"
TOKEN_SUBPROTOCOL_PREFIX: Final = "bearer."  # noqa: S105 - a prefix, not a password


class CloseCode(IntEnum):
    """Why the server closed a connection; the module's header says which of them are final."""

    NORMAL = 1000
    RESTART = 1012
    TOKEN_EXPIRED = 4401
    TOO_SLOW = 4408
    TOO_FAST = 4429
    PROTOCOL_ERROR = 4500
    FORBIDDEN = 4503

    @property
    def reconnect(self) -> bool:
        """Whether a client may come back by itself."""
        return self is CloseCode.RESTART or 4000 <= self < 4500


class ErrorCode(StrEnum):
    """The `code` of an `error` frame. The connection stays open after each of them."""

    BAD_JSON = "bad_json"
    """The frame is not JSON."""
    UNKNOWN_TYPE = "unknown_type"
    """The frame's `type` is missing or none of those above."""
    BAD_FRAME = "bad_frame"
    """A field is missing, of the wrong type or out of range."""
    TOO_LONG = "too_long"
    """The text has more characters than the limit."""
    RATE_LIMITED = "rate_limited"
    """The frame was dropped: this connection sends faster than its limit."""
    UNAVAILABLE = "unavailable"
    """The store cannot take it now; send it again, with the same id."""
    AUTH_FAILED = "auth_failed"
    """The new token was not taken; the old one stays in force until it expires."""


class Presence(StrEnum):
    """Whether a user has at least one device connected, give or take the grace period."""

    ONLINE = "online"
    OFFLINE = "offline"


class _Frame(msgspec.Struct, frozen=True, gc=False, tag_field="type"):
    """A frame is immutable, and holds no cycles, so the garbage collector may skip it."""


# --- server to client ---------------------------------------------------------------------


class Person(msgspec.Struct, frozen=True, gc=False):
    """A user as others see them."""

    user: str
    name: str


class Welcome(_Frame, frozen=True, tag="welcome"):
    """The first frame of a connection: who and where the client is, and what it missed."""

    user: str
    workspace: str
    epoch: str
    seq: int
    read: int
    unread: int
    online: list[Person]
    resumed: bool
    heartbeat: float


class Message(_Frame, frozen=True, tag="message"):
    """One stored message. `ts` is in milliseconds since the Unix epoch."""

    seq: int
    id: str
    user: str
    name: str
    text: str
    ts: int


class Ack(_Frame, frozen=True, tag="ack"):
    """The client's own message `id` is on disk under the number `seq`."""

    id: str
    seq: int
    ts: int


class PresenceChange(_Frame, frozen=True, tag="presence"):
    """A user came online, or has been gone for longer than the grace period."""

    user: str
    name: str
    state: Presence


class ReadCursor(_Frame, frozen=True, tag="read"):
    """How far this user has read, and how many messages of others come after it."""

    seq: int
    unread: int


class Typing(_Frame, frozen=True, tag="typing"):
    """A user is typing; never stored."""

    user: str


class History(_Frame, frozen=True, tag="history"):
    """A page of messages, oldest first. `more`: older ones are kept."""

    messages: list[Message]
    more: bool


class Pong(_Frame, frozen=True, tag="pong"):
    """The answer to `ping`: the room's newest number."""

    seq: int


class Authenticated(_Frame, frozen=True, tag="auth"):
    """The renewed token was taken; `exp` is in seconds since the Unix epoch."""

    exp: int


class Reconnect(_Frame, frozen=True, tag="reconnect"):
    """Come back after `in_ms` milliseconds; close 1012 follows."""

    in_ms: int


class Error(_Frame, frozen=True, tag="error", omit_defaults=True):
    """What the client sent was not done; `id` is that of the `send` it answers."""

    code: ErrorCode
    message: str
    id: str | None = None


ServerFrame = (
    Welcome
    | Message
    | Ack
    | PresenceChange
    | ReadCursor
    | Typing
    | History
    | Pong
    | Authenticated
    | Reconnect
    | Error
)

# --- client to server ---------------------------------------------------------------------


class Send(_Frame, frozen=True, tag="send"):
    """Store this text under the client's own id, once."""

    id: str
    text: str


class Read(_Frame, frozen=True, tag="read"):
    """Everything up to `seq` is read."""

    seq: int


class StartTyping(_Frame, frozen=True, tag="typing"):
    """The user is typing."""


class ReadHistory(_Frame, frozen=True, tag="history"):
    """Ask for the `limit` newest messages numbered below `before`."""

    before: int
    limit: int = 50


class Ping(_Frame, frozen=True, tag="ping"):
    """Ask for the room's newest number."""


class Authenticate(_Frame, frozen=True, tag="auth"):
    """A newer token for the same user."""

    token: str


ClientFrame = Send | Read | StartTyping | ReadHistory | Ping | Authenticate

Operation = Literal[
    "connect", "send", "read", "typing", "history", "members", "ping", "auth", "invalid"
]
"""What a client may ask for, over either kind of connection; `invalid`: nothing known."""


def operation_of(frame: ClientFrame) -> Operation:
    """Name the operation that a frame asks for."""
    name: Operation = frame.__struct_config__.tag  # type: ignore[assignment]
    return name


class FrameError(Exception):
    """What was received is not a client frame. `code` and the message go into an `error`."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class _TypeOnly(msgspec.Struct, gc=False):
    type: str


_encoder = msgspec.json.Encoder()
_client_decoder: msgspec.json.Decoder[ClientFrame] = msgspec.json.Decoder(ClientFrame)
_server_decoder: msgspec.json.Decoder[ServerFrame] = msgspec.json.Decoder(ServerFrame)
_type_decoder = msgspec.json.Decoder(_TypeOnly)
_CLIENT_TYPES: Final = frozenset({"send", "read", "typing", "history", "ping", "auth"})

encode = _encoder.encode
"""Encode a frame of either direction as the payload of a text frame."""


def decode_client(payload: str) -> ClientFrame:
    """Decode what a client sent.

    Raises:
        FrameError: it is not JSON, not a known type, or a field is wrong. The message names the
            field, and quotes nothing of what was sent.
    """
    try:
        return _client_decoder.decode(payload)
    except msgspec.ValidationError as error:
        raise _explain(payload, str(error)) from None
    except (msgspec.DecodeError, RecursionError):
        raise FrameError(ErrorCode.BAD_JSON, "the frame is not JSON") from None


def _explain(payload: str, detail: str) -> FrameError:
    """Tell a frame of an unknown type from one with a wrong field."""
    try:
        kind = _type_decoder.decode(payload).type
    except msgspec.DecodeError:
        return FrameError(ErrorCode.UNKNOWN_TYPE, 'the frame has no text field "type"')
    except RecursionError:
        return FrameError(ErrorCode.BAD_JSON, "the frame is not JSON")
    if kind not in _CLIENT_TYPES:
        known = ", ".join(sorted(_CLIENT_TYPES))
        return FrameError(ErrorCode.UNKNOWN_TYPE, f"unknown type; known are {known}")
    return FrameError(ErrorCode.BAD_FRAME, f"{kind}: {detail}")


def decode_server(payload: str | bytes) -> ServerFrame | None:
    """Decode what a server sent; `None` for a type that this version does not know.

    Raises:
        FrameError: it is not JSON, or a field of a known type is wrong.
    """
    try:
        return _server_decoder.decode(payload)
    except msgspec.ValidationError as error:
        if "$.type" in str(error):
            return None
        raise FrameError(ErrorCode.BAD_FRAME, str(error)) from None
    except (msgspec.DecodeError, RecursionError):
        raise FrameError(ErrorCode.BAD_JSON, "the frame is not JSON") from None
