"""One workspace as a pure state machine: events in, actions out.

A room knows nothing of sockets, disks or clocks. Each method is an event and returns the actions
that it calls for, in order; the server carries them out and reports back what came of them. Times
are the caller's, in seconds of any steady clock.

Several nodes may each have a room of the same workspace. What members of the others do comes in
through `noticed`, `moved`, `remote_presence`, `remote_typing` and `node_gone`; what those of this
one do goes out as `Announce`, and as the numbers that the store gives.

Invariants: `seq` grows by exactly one with each message published; a member sees every message
published after the number that it entered with, whole, once, in order; a user is online as long
as one of their devices is a member on any node, and for the grace period after.

Imports nothing of chatservice but `protocol`, its own parts (`actions`, `presence`) and the
store's plain records.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Generic

import msgspec

from chatservice.actions import (
    Action,
    Admit,
    Announce,
    Fetch,
    Key,
    Load,
    Recount,
    Store,
    ToAll,
    ToMember,
)
from chatservice.handover_format import User, Workspace
from chatservice.presence import Attendance
from chatservice.protocol import (
    Ack,
    Error,
    ErrorCode,
    History,
    Message,
    Person,
    Pong,
    ReadCursor,
    ServerFrame,
    Typing,
    Welcome,
)
from chatservice.store import Append, Appended, Cursor, Entry, MoveCursor, WorkspaceState

MESSAGE_ID_LENGTH = 64
TYPING_INTERVAL = 1.0
"""Seconds within which a user's further `typing` frames are dropped."""


class Rules(msgspec.Struct, frozen=True):
    """What the settings say about every room. Durations in seconds.

    `shared`: whether other nodes publish in it too, so that a member may know of a number that has
    not arrived here yet, having read it there.
    """

    presence_grace: float
    text_limit: int
    heartbeat: float
    shared: bool = False


class _Member:
    """One connection. `held` collects what is published until it is welcomed; then None."""

    __slots__ = ("held", "name", "upto", "user")

    def __init__(self, user: str, name: str, upto: int) -> None:
        self.user = user
        self.name = name
        self.upto = upto
        self.held: list[ServerFrame] | None = []


class _Recount:
    """A cursor that is being read anew: what others said `since` it was asked for is added."""

    __slots__ = ("again", "since")

    def __init__(self) -> None:
        self.since = 0
        self.again = False


class Room(Generic[Key]):
    """The state of one workspace. See the module for how events and actions go."""

    def __init__(self, workspace: str, state: WorkspaceState, rules: Rules) -> None:
        self.workspace = workspace
        self.epoch = state.epoch
        self.seq = state.seq
        self._rules = rules
        self._members: dict[Key, _Member] = {}
        self._attendance: Attendance[Key] = Attendance(rules.presence_grace)
        self._joining: dict[Key, _Member] = {}
        self._ahead: dict[int, Message] = {}
        self._known = state.seq
        self._fetching = False
        self._ahead_cursors: dict[int, dict[str, Cursor]] = {}
        self._recounts: dict[str, _Recount] = {}
        self._recount_at: int | None = None
        """The number at whose publication all cursors are to be shown anew."""
        self._shown: dict[str, int] = {}
        """How far this node's devices of a user were told that the user has read."""

    # --- what can be asked ---------------------------------------------------------------

    @property
    def empty(self) -> bool:
        """Nobody is here and nobody's grace period runs."""
        return not self._members and self._attendance.deadline is None

    @property
    def deadline(self) -> float | None:
        """When `tick` is to be called next."""
        return self._attendance.deadline

    @property
    def behind(self) -> bool:
        """Whether messages are known to be stored that are not published here yet."""
        return self.seq < self._known

    def __len__(self) -> int:
        return len(self._members)

    def members(self) -> Iterable[Key]:
        """All connections, those not yet welcomed too."""
        return self._members.keys()

    def online(self) -> list[Person]:
        """Everybody who counts as online, in the order of their arrival."""
        return self._attendance.online()

    def is_online(self, user: str) -> bool:
        """Whether the others see this user as online."""
        return user in self._attendance

    def devices(self, user: str) -> Sequence[Key]:
        """The welcomed connections of one user."""
        return self._attendance.devices(user)

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
        read = entry.cursor.read
        held = [each for each in held if not isinstance(each, ReadCursor) or each.seq >= read]
        self._shown[member.user] = max(read, self._shown.get(member.user, 0))
        actions: list[Action[Key]] = list(self._attendance.arrive(key, member.user, member.name))
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

    def leave(self, key: Key, now: float) -> list[Action[Key]]:
        """A connection is gone, for whatever reason."""
        member = self._members.pop(key, None)
        if member is None:
            return []
        if self._joining.pop(key, None) is not None:
            return []
        actions: list[Action[Key]] = [*self._attendance.depart(key, member.user, now)]
        if not self._attendance.devices(member.user):
            self._shown.pop(member.user, None)
        return actions

    def tick(self, now: float) -> list[Action[Key]]:
        """Time has passed: whoever did not come back within the grace period is offline."""
        return [*self._attendance.tick(now)]

    # --- moving to another process -------------------------------------------------------

    def captured(self, now: float) -> Workspace:
        """Say where the room stands. Who is still joining does not move."""
        users = self._attendance.captured(now)
        return Workspace(self.workspace, self.epoch, self.seq, self._known, users)

    @classmethod
    def restore(cls, captured: Workspace, rules: Rules, now: float) -> Room[Key]:
        """Go on with the room of another process; its members follow with `adopt`."""
        state = WorkspaceState(captured.epoch, captured.seq, floor=0)  # which a room has no use for
        room = cls(captured.workspace, state, rules)
        room._attendance.restore(captured.users, now)
        return room

    def expect(self, users: Iterable[User], now: float, within: float) -> None:
        """Count those as online who were before this process, until they had the time to return."""
        self._attendance.expect(users, now, within)

    def adopt(self, key: Key, user: str, name: str) -> None:
        """A member came along; it has seen everything up to `seq`.

        Raises:
            KeyError: the user was not said to be online.
        """
        self._attendance.adopt(key, user)
        member = self._members[key] = _Member(user, name, self.seq)
        member.held = None

    # --- other nodes ---------------------------------------------------------------------

    def remote_presence(
        self, node: str, user: str, name: str, *, present: bool
    ) -> list[Action[Key]]:
        """Another node has devices of this user, or has none any more."""
        return [*self._attendance.remote(node, user, name, present=present)]

    def node_gone(self, node: str, now: float) -> list[Action[Key]]:
        """A node died: its users have the grace period to come back to another one."""
        return [*self._attendance.node_gone(node, now)]

    def announcements(self) -> list[Announce]:
        """Everything that the other nodes should know of this one's users."""
        return self._attendance.announcements()

    def remote_users(self) -> set[tuple[str, str]]:
        """Every `(node, user)` that another node was said to have here."""
        return self._attendance.remote_users()

    def recount_all(self) -> list[Action[Key]]:
        """Word may have been lost: show every user of this node their cursor anew.

        Once all that is known now to be stored is published: a member who was kept over a crash may
        have had it before, and a count that is shown first would leave it out.
        """
        self._recount_at = self._known if self.behind else None
        if self._recount_at is not None:
            return []
        return self._recount_everybody()

    def _recount_everybody(self) -> list[Action[Key]]:
        return [
            action
            for announced in self._attendance.announcements()
            for action in self._recount(announced.user)
        ]

    def noticed(self, seq: int) -> list[Action[Key]]:
        """Another node committed messages up to this number."""
        self._known = max(self._known, seq)
        return self._publish()

    def remote_typing(self, user: str) -> list[Action[Key]]:
        """A member of another node types."""
        return [ToAll(Typing(user), but=user)]

    # --- messages ------------------------------------------------------------------------

    def send(self, key: Key, id: str, text: str, ts: int) -> list[Action[Key]]:
        """A member sends a message. It is published and acknowledged once it is durable."""
        member = self._members[key]
        if not 1 <= len(id) <= MESSAGE_ID_LENGTH:
            why = f"send: `id` must have 1 to {MESSAGE_ID_LENGTH} characters"
            return [ToMember(key, Error(ErrorCode.BAD_FRAME, why))]
        if "\0" in text or "\0" in id:  # which PostgreSQL cannot store
            return [ToMember(key, Error(ErrorCode.BAD_FRAME, "send: U+0000 is not text", id))]
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
            for user, recount in self._recounts.items():
                recount.since += message.user != user
            for user, cursor in self._ahead_cursors.pop(self.seq, {}).items():
                actions.extend(self._show_cursor(user, cursor))
        if self.seq < self._known and not self._fetching:
            self._fetching = True
            actions.append(Fetch(self.seq, self._known))
        if self._recount_at is not None and self.seq >= self._recount_at:
            self._recount_at = None
            actions.extend(self._recount_everybody())
        return actions

    def refused(self, key: Key, operation: Append | MoveCursor, why: str) -> list[Action[Key]]:
        """A message or a cursor could not be made durable; nothing of it is stored."""
        if key not in self._members:
            return []
        id = operation.id if isinstance(operation, Append) else None
        return [ToMember(key, Error(ErrorCode.UNAVAILABLE, why, id))]

    # --- cursors, typing, ping -----------------------------------------------------------

    def read(self, key: Key, seq: int) -> list[Action[Key]]:
        """A member has read everything up to `seq`; the store lets no cursor pass the newest."""
        if seq < 0 or (seq > self.seq and not self._rules.shared):
            why = f"read: `seq` must be 0 to {self.seq}, the newest number"
            return [ToMember(key, Error(ErrorCode.BAD_FRAME, why))]
        return [Store(key, MoveCursor(self.workspace, self._members[key].user, seq))]

    def moved(self, user: str, cursor: Cursor, upto: int) -> list[Action[Key]]:
        """A user's cursor is durable: tell every device of theirs.

        The unread count is as of the number `upto`. Shown earlier or later than at that number,
        devices would count a message twice or not at all: so it waits for it, or is taken anew.
        """
        if upto > self.seq:
            self._ahead_cursors.setdefault(upto, {})[user] = cursor
            return []
        if upto == self.seq:
            return self._show_cursor(user, cursor)
        return self._recount(user)

    def _recount(self, user: str) -> list[Action[Key]]:
        if (name := self._attendance.name(user)) is None:
            return []
        if (running := self._recounts.get(user)) is not None:
            running.again = True
            return []
        self._recounts[user] = _Recount()
        return [Recount(user, name, self.seq)]

    def recounted(self, user: str, cursor: Cursor | None) -> list[Action[Key]]:
        """What `Recount` asked for was read; None: it could not be."""
        recount = self._recounts.pop(user)
        if cursor is None:
            return []
        actions = self._show_cursor(user, Cursor(cursor.read, cursor.unread + recount.since))
        return [*actions, *(self._recount(user) if recount.again else [])]

    def _show_cursor(self, user: str, cursor: Cursor) -> list[Action[Key]]:
        if cursor.read < self._shown.get(user, 0):
            return []  # word of another node, or a read, that was overtaken
        frame = ReadCursor(cursor.read, cursor.unread)
        devices = self._attendance.devices(user)
        if devices:
            self._shown[user] = cursor.read
        for member in self._joining.values():
            if member.user == user and member.held is not None:
                member.held.append(frame)
        return [ToMember(device, frame) for device in devices]

    def typing(self, key: Key, now: float) -> list[Action[Key]]:
        """A member types; the others hear of it at most once in `TYPING_INTERVAL`."""
        user = self._members[key].user
        if not self._attendance.may_show_typing(user, now, TYPING_INTERVAL):
            return []
        return [ToAll(Typing(user), but=user)]

    def ping(self, key: Key) -> list[Action[Key]]:
        """A member asks for the newest number."""
        return [ToMember(key, Pong(self.seq))]
