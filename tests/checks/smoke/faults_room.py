"""Faults in what a room says, and to whom."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from websockets.frames import Frame, Opcode

from chatservice import fanout, rooms, server
from chatservice.actions import Action, ToAll, ToMember
from chatservice.connection import Connection
from chatservice.fanout import LiveRoom
from chatservice.protocol import (
    Ack,
    Message,
    Person,
    Presence,
    PresenceChange,
    ReadCursor,
    ServerFrame,
    Typing,
    Welcome,
    encode,
)
from chatservice.room import Room
from chatservice.rooms import Rooms
from tests.checks.smoke.breaking import Actions, around, rewrite_actions, rewrite_frames

FrameT = TypeVar("FrameT", bound=ServerFrame)

replace = msgspec.structs.replace


def _said_to_all(kind: type[FrameT], change: Callable[[LiveRoom, FrameT], Actions]) -> None:
    """Rewrite what is said to everybody, where it is of this kind."""

    def rewrite(live: LiveRoom, action: Action[Connection]) -> Actions:
        if isinstance(action, ToAll) and isinstance(action.frame, kind):
            return change(live, action.frame)
        return [action]

    rewrite_actions(rewrite)


def _only_to(live: LiveRoom, frame: ServerFrame, wanted: Callable[[Connection], bool]) -> Actions:
    """Say it to some of the members."""
    return [ToMember(key, frame) for key in live.room.members() if wanted(key)]


# --- the wire -----------------------------------------------------------------------------


def frames_binary() -> None:
    """Frames are binary, and not text."""

    def text_frame(_: Any, frame: ServerFrame) -> bytes:
        return Frame(Opcode.BINARY, encode(frame)).serialize(mask=False)

    around(fanout, "text_frame", text_frame)


def type_last() -> None:
    """The field `type` comes last in a frame."""

    def text_frame(_: Any, frame: ServerFrame) -> bytes:
        fields = json.loads(encode(frame))
        fields["type"] = fields.pop("type")
        return Frame(Opcode.TEXT, json.dumps(fields).encode()).serialize(mask=False)

    around(fanout, "text_frame", text_frame)


# --- presence -----------------------------------------------------------------------------


def grace_as_set() -> None:
    """Whoever leaves a workspace of the checks stays online for as long as elsewhere."""
    rooms.CHECKS_GRACE = float("inf")  # type: ignore[attr-defined]


def welcome_without_others() -> None:
    """The welcome names nobody who is online."""

    def change(frame: ServerFrame) -> ServerFrame:
        return replace(frame, online=[]) if isinstance(frame, Welcome) else frame

    rewrite_frames(change)


def arrivals_unannounced() -> None:
    """Nobody hears of those who come after them."""

    def change(frame: ServerFrame) -> ServerFrame | None:
        arrival = isinstance(frame, PresenceChange) and frame.state is Presence.ONLINE
        return None if arrival else frame

    rewrite_frames(change)


def ghost_welcomed() -> None:
    """Whoever went offline is still named in later welcomes."""
    gone: set[str] = set()

    def change(frame: ServerFrame) -> ServerFrame:
        if isinstance(frame, PresenceChange) and frame.state is Presence.OFFLINE:
            gone.add(frame.user)
        if isinstance(frame, Welcome):
            ghosts = [Person(user, user) for user in sorted(gone)]
            return replace(frame, online=[*frame.online, *ghosts])
        return frame

    rewrite_frames(change)


def one_device_is_all() -> None:
    """When one of a user's devices goes, the others hear that the user is offline."""

    def leave(original: Any, room: Room[Connection], key: Connection, now: float) -> Actions:
        actions: list[Action[Connection]] = list(original(room, key, now))
        if room.devices(key.user):
            actions.append(ToAll(PresenceChange(key.user, key.user, Presence.OFFLINE)))
        return actions

    around(Room, "leave", leave)


def blink_shown() -> None:
    """A user who is back within the grace period is reported as gone and come back."""
    grace_as_set()

    def entered(original: Any, room: Room[Connection], key: Connection, entry: Any) -> Actions:
        user = key.user
        blinked = room.is_online(user) and not room.devices(user)
        actions: Actions = original(room, key, entry)
        if not blinked:
            return actions
        went, came = (PresenceChange(user, user, state) for state in reversed(Presence))
        return [ToAll(went), *actions, ToAll(came)]

    around(Room, "entered", entered)


# --- messages -----------------------------------------------------------------------------


def message_lost() -> None:
    """Messages reach only the devices of the one who wrote them."""

    def change(live: LiveRoom, message: Message) -> Actions:
        return _only_to(live, message, lambda key: key.user == message.user)

    _said_to_all(Message, change)


def message_garbled() -> None:
    """The others read another text in the conversation than what was written."""

    def change(frame: ServerFrame) -> ServerFrame:
        if isinstance(frame, Message) and frame.text.startswith("hello from"):
            return replace(frame, text="something else")
        return frame

    rewrite_frames(change)


def message_late() -> None:
    """Whatever is said in the conversation takes half a second, of the whole process."""

    def change(frame: ServerFrame) -> ServerFrame:
        if isinstance(frame, Message) and frame.text.startswith("hello from"):
            time.sleep(0.5)
        return frame

    rewrite_frames(change)


def order_differs() -> None:
    """One user gets messages 5 and 6 the other way round."""
    held: dict[str, Message] = {}

    def change(live: LiveRoom, message: Message) -> Actions:
        if message.seq == 5 and any(key.user == "user-2" for key in live.room.members()):
            held[live.room.workspace] = message
            return [ToAll(message, but="user-2")]
        if message.seq == 6 and (late := held.pop(live.room.workspace, None)):
            return [ToAll(message), *_only_to(live, late, lambda key: key.user == "user-2")]
        return [ToAll(message)]

    _said_to_all(Message, change)


def number_skipped() -> None:
    """There is no message 5: what follows is numbered one too high."""

    def change(frame: ServerFrame) -> ServerFrame:
        if isinstance(frame, Message | Ack) and frame.seq >= 5:
            return replace(frame, seq=frame.seq + 1)
        return frame

    rewrite_frames(change)


def ack_with_wrong_number() -> None:
    """Acknowledgements name the number after the message's own."""

    def change(frame: ServerFrame) -> ServerFrame:
        return replace(frame, seq=frame.seq + 1) if isinstance(frame, Ack) else frame

    rewrite_frames(change)


def ack_twice() -> None:
    """Each message is acknowledged twice."""

    def rewrite(_: LiveRoom, action: Action[Connection]) -> Actions:
        twice = isinstance(action, ToMember) and isinstance(action.frame, Ack)
        return [action, action] if twice else [action]

    rewrite_actions(rewrite)


def repeat_with_new_number() -> None:
    """A repeated message is acknowledged with the next number."""
    acknowledged: set[str] = set()

    def change(frame: ServerFrame) -> ServerFrame:
        if isinstance(frame, Ack):
            if frame.id in acknowledged:
                return replace(frame, seq=frame.seq + 1)
            acknowledged.add(frame.id)
        return frame

    rewrite_frames(change)


def repeat_sent_again() -> None:
    """A repeated message is sent to everybody again, under its first number."""

    def committed(original: Any, room: Room[Connection], results: Any) -> Actions:
        again = [
            ToAll(Message(done.seq, append.id, append.user, append.name, append.text, done.ts))
            for _, append, done in results
            if done.repeated
        ]
        actions: Actions = original(room, results)
        return [*actions, *again]

    around(Room, "committed", committed)


def text_unlimited() -> None:
    """The limit of a text is not enforced."""
    around(server, "Rules", lambda original, **rules: original(**rules | {"text_limit": 10**6}))


# --- typing and cursors -------------------------------------------------------------------


def typing_lost() -> None:
    """Nobody hears that somebody types."""
    rewrite_frames(lambda frame: None if isinstance(frame, Typing) else frame)


def typing_echoed() -> None:
    """Whoever types hears of it too."""
    _said_to_all(Typing, lambda _, frame: [ToAll(frame)])


def typing_leaks() -> None:
    """Typing shows in the workspace next door."""
    rooms: dict[str, LiveRoom] = {}

    def rewrite(live: LiveRoom, action: Action[Connection]) -> Actions:
        rooms[live.room.workspace] = live
        next_door = rooms.get(f"{live.room.workspace}-other")
        if next_door and isinstance(action, ToAll) and isinstance(action.frame, Typing):
            next_door.carry_out([action])
        return [action]

    rewrite_actions(rewrite)


def unread_miscounted() -> None:
    """A reader is told one more than is unread."""

    def change(frame: ServerFrame) -> ServerFrame:
        if isinstance(frame, ReadCursor) and frame.seq == 2:
            return replace(frame, unread=frame.unread + 1)
        return frame

    rewrite_frames(change)


def cursor_for_one_device() -> None:
    """Only the device that reads hears of the new cursor."""
    readers: dict[str, Connection] = {}

    def read(original: Any, room: Room[Connection], key: Connection, seq: int) -> Actions:
        readers[room.workspace] = key
        actions: Actions = original(room, key, seq)
        return actions

    def rewrite(live: LiveRoom, action: Action[Connection]) -> Actions:
        if isinstance(action, ToMember) and isinstance(action.frame, ReadCursor):
            return [action] if action.key is readers[live.room.workspace] else []
        return [action]

    around(Room, "read", read)
    rewrite_actions(rewrite)


def cursor_for_everybody() -> None:
    """Everybody is told how far each one has read."""

    def rewrite(live: LiveRoom, action: Action[Connection]) -> Actions:
        if isinstance(action, ToMember) and isinstance(action.frame, ReadCursor):
            others = [key for key in live.room.members() if key.user == "writer"]
            return [action, *(ToMember(key, action.frame) for key in others)]
        return [action]

    rewrite_actions(rewrite)


# --- coming back, and other workspaces ----------------------------------------------------


def epoch_ignored() -> None:
    """Whoever names any epoch is resumed."""

    def join(
        original: Any, room: Room[Connection], *args: Any, epoch: str | None, **rest: Any
    ) -> Any:
        return original(room, *args, epoch=epoch and room.epoch, **rest)

    around(Room, "join", join)


def future_believed() -> None:
    """Whoever claims to have seen more than there is is resumed at the newest number."""

    def join(
        original: Any, room: Room[Connection], *args: Any, after: int | None, **rest: Any
    ) -> Any:
        return original(room, *args, after=after and min(after, room.seq), **rest)

    around(Room, "join", join)


def rooms_merged() -> None:
    """Two workspaces share one room."""

    async def open_(original: Any, rooms: Rooms, workspace: str) -> LiveRoom:
        live: LiveRoom = await original(rooms, workspace.removesuffix("-other"))
        return live

    around(Rooms, "open", open_)
