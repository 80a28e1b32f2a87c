"""One workspace as a pure state machine: events in, actions out.

A room knows nothing of sockets, disks or clocks. Each method is an event and returns the actions
that it calls for, in order; the server carries them out and reports back what came of them. Times
are the caller's, in seconds of any steady clock.

Invariants: `seq` grows by exactly one with each message published; a member sees every message
published after the number that it entered with, whole, once, in order; a user is online as long
as one of their devices is a member, and for the grace period after.

Imports nothing of chatservice but `protocol` and the store's plain records.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Generic, TypeVar

import msgspec

from chatservice.protocol import (
    Ack,
    Error,
    ErrorCode,
    History,
    Message,
    Person,
    Pong,
    Presence,
    PresenceChange,
    ReadCursor,
    ServerFrame,
    Typing,
    Welcome,
)
from chatservice.store import Append, Appended, Cursor, Entry, MoveCursor, WorkspaceState

MESSAGE_ID_LENGTH = 64
TYPING_INTERVAL = 1.0
"""Seconds within which a user's further `typing` frames are dropped."""

Key = TypeVar("Key", bound=Hashable)
"""What the server uses to name a connection; the room only compares it."""


class Rules(msgspec.Struct, frozen=True):
    """What the settings say about every room. Durations in seconds."""

    presence_grace: float
    text_limit: int
    heartbeat: float


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


Action = ToAll | ToMember[Key] | Admit[Key] | Store[Key] | Fetch


class _Member:
    """One connection. `held` collects what is published until it is welcomed; then None."""

    __slots__ = ("held", "name", "upto", "user")

    def __init__(self, user: str, name: str, upto: int) -> None:
        self.user = user
        self.name = name
        self.upto = upto
        self.held: list[ServerFrame] | None = []


class _User(Generic[Key]):
    """One person who counts as online: welcomed devices, or none and a running grace period."""

    __slots__ = ("devices", "name", "typed_at")

    def __init__(self, name: str) -> None:
        self.name = name
        self.devices: set[Key] = set()
        self.typed_at = float("-inf")


class Room(Generic[Key]):
    """The state of one workspace. See the module for how events and actions go."""

    def __init__(self, workspace: str, state: WorkspaceState, rules: Rules) -> None:
        self.workspace = workspace
        self.epoch = state.epoch
        self.seq = state.seq
        self._rules = rules
        self._members: dict[Key, _Member] = {}
        self._online: dict[str, _User[Key]] = {}
        self._leaving: dict[str, float] = {}
        self._joining: dict[Key, _Member] = {}
        self._ahead: dict[int, Message] = {}
        self._known = state.seq
        self._fetching = False

    # --- what can be asked ---------------------------------------------------------------

    @property
    def empty(self) -> bool:
        """Nobody is here and nobody's grace period runs."""
        return not self._members and not self._leaving

    @property
    def deadline(self) -> float | None:
        """When `tick` is to be called next."""
        return next(iter(self._leaving.values()), None)

    def __len__(self) -> int:
        return len(self._members)

    def members(self) -> Iterable[Key]:
        """All connections, those not yet welcomed too."""
        return self._members.keys()

    def online(self) -> list[Person]:
        """Everybody who counts as online, in the order of their arrival."""
        return [Person(user, state.name) for user, state in self._online.items()]

    def is_online(self, user: str) -> bool:
        """Whether the others see this user as online."""
        return user in self._online

    def devices(self, user: str) -> Sequence[Key]:
        """The welcomed connections of one user."""
        online = self._online.get(user)
        return tuple(online.devices) if online else ()

    # --- coming and going ----------------------------------------------------------------

    def join(
        self, key: Key, user: str, name: str, *, after: int | None, epoch: str | None
    ) -> Load[Key]:
        """A connection arrives. It is welcomed when its past was read: `entered`."""
        member = _Member(user, name, self.seq)
        self._members[key] = member
        self._joining[key] = member
        resumable = after is not None and epoch == self.epoch and after <= self.seq
        return Load(key, user, name, self.seq, after if resumable else None)

    def entered(self, key: Key, entry: Entry) -> list[Action[Key]]:
        """The past of a joining member was read: welcome it, and tell the others."""
        member = self._joining.pop(key, None)
        if member is None or member.held is None:
            return []
        held, member.held = member.held, None
        actions: list[Action[Key]] = list(self._arrive(key, member))
        frames: list[ServerFrame] = [
            Welcome(
                user=member.user,
                workspace=self.workspace,
                epoch=self.epoch,
                seq=member.upto,
                read=entry.cursor.read,
                unread=entry.cursor.unread,
                online=self.online(),
                resumed=entry.resumed,
                heartbeat=self._rules.heartbeat,
            )
        ]
        if entry.resumed:
            frames.extend(entry.messages)
        else:
            frames.append(History(entry.messages, entry.more))
        frames.extend(held)
        actions.append(Admit(key))
        actions.extend(ToMember(key, frame) for frame in frames)
        return actions

    def _arrive(self, key: Key, member: _Member) -> Iterable[ToAll]:
        """Count the device; the others hear of it when the user is new, or is called anew."""
        self._leaving.pop(member.user, None)
        user = self._online.get(member.user)
        if user is None:
            user = self._online[member.user] = _User(member.name)
            changed = True
        else:
            changed = user.name != member.name
            user.name = member.name
        user.devices.add(key)
        if changed:
            yield ToAll(PresenceChange(member.user, member.name, Presence.ONLINE))

    def leave(self, key: Key, now: float) -> list[Action[Key]]:
        """A connection is gone, for whatever reason."""
        member = self._members.pop(key, None)
        if member is None:
            return []
        if self._joining.pop(key, None) is not None:
            return []
        user = self._online[member.user]
        user.devices.discard(key)
        if user.devices:
            return []
        self._leaving[member.user] = now + self._rules.presence_grace
        return self.tick(now)

    def tick(self, now: float) -> list[Action[Key]]:
        """Time has passed: whoever did not come back within the grace period is offline."""
        actions: list[Action[Key]] = []
        while self._leaving:
            user, deadline = next(iter(self._leaving.items()))
            if deadline > now:
                break
            del self._leaving[user]
            name = self._online.pop(user).name
            actions.append(ToAll(PresenceChange(user, name, Presence.OFFLINE)))
        return actions

    # --- messages ------------------------------------------------------------------------

    def send(self, key: Key, id: str, text: str, ts: int) -> list[Action[Key]]:
        """A member sends a message. It is published and acknowledged once it is durable."""
        member = self._members[key]
        if not 1 <= len(id) <= MESSAGE_ID_LENGTH:
            why = f"send: `id` must have 1 to {MESSAGE_ID_LENGTH} characters"
            return [ToMember(key, Error(ErrorCode.BAD_FRAME, why))]
        if not text:
            return [ToMember(key, Error(ErrorCode.BAD_FRAME, "send: `text` is empty", id))]
        if len(text) > self._rules.text_limit:
            why = f"the text has {len(text)} characters; the limit is {self._rules.text_limit}"
            return [ToMember(key, Error(ErrorCode.TOO_LONG, why, id))]
        append = Append(self.workspace, member.user, member.name, id, text, ts)
        return [Store(key, append)]

    def committed(self, results: Sequence[tuple[Key, Append, Appended]]) -> list[Action[Key]]:
        """These sends are durable: publish them in order, then acknowledge each."""
        acks: list[Action[Key]] = []
        for key, append, appended in results:
            if not appended.repeated:
                self._ahead[appended.seq] = Message(
                    appended.seq, append.id, append.user, append.name, append.text, appended.ts
                )
            self._known = max(self._known, appended.seq)
            if key in self._members:
                acks.append(ToMember(key, Ack(append.id, appended.seq, appended.ts)))
        return [*self._publish(), *acks]

    def fetch_failed(self) -> None:
        """What `Fetch` asked for could not be read; `committed` or `fetched` asks again."""
        self._fetching = False

    def fetched(self, messages: Sequence[Message]) -> list[Action[Key]]:
        """What `Fetch` asked for was read."""
        self._fetching = False
        for message in messages:
            if message.seq > self.seq:
                self._ahead[message.seq] = message
        return self._publish()

    def _publish(self) -> list[Action[Key]]:
        """Publish what follows without a gap; where something is missing, fetch it first."""
        actions: list[Action[Key]] = []
        while (message := self._ahead.pop(self.seq + 1, None)) is not None:
            self.seq += 1
            actions.append(ToAll(message))
            for member in self._joining.values():
                if member.held is not None:
                    member.held.append(message)
        if self.seq < self._known and not self._fetching:
            self._fetching = True
            actions.append(Fetch(self.seq, self._known))
        return actions

    def refused(self, key: Key, operation: Append | MoveCursor, why: str) -> list[Action[Key]]:
        """A message or a cursor could not be made durable; nothing of it is stored."""
        if key not in self._members:
            return []
        id = operation.id if isinstance(operation, Append) else None
        return [ToMember(key, Error(ErrorCode.UNAVAILABLE, why, id))]

    # --- cursors, typing, ping -----------------------------------------------------------

    def read(self, key: Key, seq: int) -> list[Action[Key]]:
        """A member has read everything up to `seq`."""
        if not 0 <= seq <= self.seq:
            why = f"read: `seq` must be 0 to {self.seq}, the newest number"
            return [ToMember(key, Error(ErrorCode.BAD_FRAME, why))]
        return [Store(key, MoveCursor(self.workspace, self._members[key].user, seq))]

    def moved(self, user: str, cursor: Cursor) -> list[Action[Key]]:
        """A user's cursor is durable: tell every device of theirs."""
        frame = ReadCursor(cursor.read, cursor.unread)
        for member in self._joining.values():
            if member.user == user and member.held is not None:
                member.held.append(frame)
        online = self._online.get(user)
        return [ToMember(device, frame) for device in online.devices] if online else []

    def typing(self, key: Key, now: float) -> list[Action[Key]]:
        """A member types; the others hear of it at most once in `TYPING_INTERVAL`."""
        name = self._members[key].user
        user = self._online[name]
        if now - user.typed_at < TYPING_INTERVAL:
            return []
        user.typed_at = now
        return [ToAll(Typing(name), but=name)]

    def ping(self, key: Key) -> list[Action[Key]]:
        """A member asks for the newest number."""
        return [ToMember(key, Pong(self.seq))]
