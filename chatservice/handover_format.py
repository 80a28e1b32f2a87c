"""What one process tells another when it hands its connections over: version 2.

A parcel is a length (4 bytes, big-endian) and that many bytes of MessagePack; the sockets that it
speaks of come with its first byte (SCM_RIGHTS, unix(7)), one for each of its entries, in order.
Fields may be added with a default: a release that does not know one passes over it. Whatever
changes the meaning of what is here needs a new version.

Durations are in seconds from the moment at which the old process stopped reading; so the pause
itself counts against nobody.
"""

from __future__ import annotations

import struct
from typing import Final

import msgspec

LISTENERS_ONLY: Final = 1
"""The listening sockets move; members are told when to come back."""
CONNECTIONS: Final = 2
"""The members' connections move, too."""
VERSIONS: Final = (LISTENERS_ONLY, CONNECTIONS)

MAX_PARCEL: Final = 64 * 1024 * 1024
"""Bytes: more than a batch of connections that all wait for a slow reader."""
LENGTH: Final = struct.Struct(">I")


class Stream(msgspec.Struct, omit_defaults=True):
    """Where the byte streams of a connection stand, and what is due on it.

    `unparsed` are the bytes received since the last whole frame, `fragments` those of a message
    that is not whole, `unsent` those accepted and not yet taken by the socket, of which `oversize`
    are let through past the limit. `silent`: since it was last heard. `due`: until the next
    keep-alive. `ahead` and `refused` are the rate limit's.
    """

    silent: float
    due: float
    unparsed: bytes = b""
    fragments: bytes | None = None
    unsent: bytes = b""
    oversize: int = 0
    ahead: float = 0.0
    refused: int = 0


class Client(msgspec.Struct, omit_defaults=True):
    """One member's connection.

    `again`: frames that it sent and that are still to be answered. `slot`: where it is kept beyond
    a crash (`survival`); 0 where it is not.
    """

    id: str
    user: str
    name: str
    workspace: str
    exp: int
    token: str
    stream: Stream
    origin: str | None = None
    again: list[str] = []
    slot: int = 0


class Visitor(msgspec.Struct, omit_defaults=True):
    """A connection that has not said what it wants: what it sent so far, and its deadline."""

    id: str
    left: float
    head: bytes = b""


class User(msgspec.Struct, omit_defaults=True):
    """Somebody who counts as online. `left`: what is left of the grace period, once it runs."""

    user: str
    name: str
    announced: bool = False
    nodes: list[str] = []
    left: float | None = None


class Workspace(msgspec.Struct, omit_defaults=True):
    """A room: every member has seen all up to `seq`; messages up to `known` are stored."""

    workspace: str
    epoch: str
    seq: int
    known: int
    users: list[User] = []


class Workspaces(msgspec.Struct, tag="workspaces"):
    """Rooms; without sockets."""

    workspaces: list[Workspace]


class Clients(msgspec.Struct, tag="clients"):
    """Members, with a socket each."""

    clients: list[Client]


class Visitors(msgspec.Struct, tag="visitors"):
    """Half-open connections, with a socket each."""

    visitors: list[Visitor]


class End(msgspec.Struct, tag="end"):
    """That was all: so many of each."""

    workspaces: int
    clients: int
    visitors: int


Parcel = Workspaces | Clients | Visitors | End


class Order(msgspec.Struct):
    """How a new process asks. `versions`: all that it speaks; `room`: sockets that it can hold."""

    order: str = "take-over"
    version: int = LISTENERS_ONLY
    versions: list[int] = []
    room: int = 1_000_000


class Offer(msgspec.Struct, omit_defaults=True):
    """How the old process answers. The listeners come with it.

    `connections`: how many members it has. `paused`: when it stopped reading, in seconds of
    CLOCK_MONOTONIC. `node`: who it is to the other nodes.
    """

    ok: bool
    listeners: list[str] = []
    error: str = ""
    version: int = LISTENERS_ONLY
    connections: int = 0
    paused: float = 0.0
    node: str = ""


_encode = msgspec.msgpack.Encoder().encode
_decoder: msgspec.msgpack.Decoder[Parcel] = msgspec.msgpack.Decoder(Parcel)


def pack(parcel: Parcel) -> bytes:
    """Serialise a parcel, its length first."""
    body = _encode(parcel)
    return LENGTH.pack(len(body)) + body


def unpack(body: bytes | bytearray) -> Parcel:
    """Read a parcel, without its length.

    Raises:
        msgspec.DecodeError: it is none.
    """
    return _decoder.decode(body)
