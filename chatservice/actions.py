"""What a room calls for: its actions, which the server carries out.

Plain records; a room returns them in order. `Key` is what the server names a connection with.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

import msgspec

from chatservice.protocol import ServerFrame
from chatservice.store import Append, MoveCursor

Key = TypeVar("Key", bound=Hashable)
"""What the server uses to name a connection; a room only compares it."""


class ToAll(msgspec.Struct, frozen=True):
    """Send this frame to every member who has been welcomed, but not to the user `but`."""

    frame: ServerFrame
    but: str | None = None


class ToMember(msgspec.Struct, Generic[Key], frozen=True):
    """Send this frame to one member."""

    key: Key
    frame: ServerFrame


class Admit(msgspec.Struct, Generic[Key], frozen=True):
    """From here on the member is one of all."""

    key: Key


class Load(msgspec.Struct, Generic[Key], frozen=True):
    """What `join` calls for: read what this member needs as of `upto`, then call `entered`."""

    key: Key
    user: str
    name: str
    upto: int
    after: int | None


class Store(msgspec.Struct, Generic[Key], frozen=True):
    """Make this durable, then call `committed` or `refused` (of a cursor: `moved`)."""

    key: Key
    operation: Append | MoveCursor


class Fetch(msgspec.Struct, frozen=True):
    """Read the messages numbered `after + 1` to `upto`, then call `fetched`."""

    after: int
    upto: int


class Recount(msgspec.Struct, frozen=True):
    """Read the cursor of this user as of number `upto`, then call `recounted`."""

    user: str
    name: str
    upto: int


class Announce(msgspec.Struct, frozen=True):
    """Tell the other nodes that a user is here now, or no longer (the grace period is over)."""

    user: str
    name: str
    present: bool


Action = ToAll | ToMember[Key] | Admit[Key] | Store[Key] | Fetch | Recount | Announce
