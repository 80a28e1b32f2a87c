"""A perfect chat service in a few lines, that writes the histories its devices would.

What the checker makes of it is known: nothing is wrong. The tests of the checker take such a
history and break it in one place. Time is a number that grows a little with each thing that
happens, and by as much as is asked for in `wait`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from chatservice.protocol import (
    Ack,
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
from tests.chaos.checker import Rules, Stored
from tests.chaos.history import (
    GaveUp,
    Left,
    Lost,
    Opening,
    Reading,
    Received,
    Record,
    Returned,
    Sending,
    Stayed,
    Vantage,
)
from tests.chaos.plan import person_name

GRACE = 1.0
NEWEST = 5
RULES = Rules(grace=GRACE, late=2.0, skew=0.1)
MOMENT = 0.001


@dataclass(eq=False)
class Device:
    """One device of a user. `given` is the twin record behind a client."""

    record: Record
    given: Record | None
    connected: bool = False
    left: bool = False
    fresh: bool = True
    seq: int = 0
    pending: dict[str, str] = field(default_factory=dict)

    @property
    def user(self) -> str:
        return self.record.user

    @property
    def records(self) -> list[Record]:
        return [self.record, *([self.given] if self.given else [])]


@dataclass(eq=False)
class Room:
    """One workspace."""

    name: str
    messages: list[Message] = field(default_factory=list)
    cursors: dict[str, int] = field(default_factory=dict)
    online: dict[str, str] = field(default_factory=dict)
    leaving: dict[str, float] = field(default_factory=dict)
    devices: list[Device] = field(default_factory=list)

    @property
    def epoch(self) -> str:
        return f"epoch of {self.name}"

    def find(self, user: str, id: str) -> Message | None:
        return next((each for each in self.messages if (each.user, each.id) == (user, id)), None)

    def unread(self, user: str) -> int:
        after = self.cursors.get(user, 0)
        return sum(message.seq > after and message.user != user for message in self.messages)


class World:
    """All rooms, and everything that happens in them."""

    def __init__(self, rooms: int = 2) -> None:
        self.now = 100.0
        self.rooms = [Room(f"w{i}") for i in range(rooms)]
        self.devices: list[Device] = []
        self._ids = 0

    # --- who is there --------------------------------------------------------------------

    def add(self, user: str, room: int, *, raw: bool, after: int | None = None) -> Device:
        """A device that will take part, from a number on or afresh; it does not connect yet."""
        name, workspace = f"{user}.{len(self.devices)}", self.rooms[room].name
        record = Record(
            name, user, person_name(user), workspace, Vantage.RAW if raw else Vantage.CLIENT
        )
        given = None
        if not raw:
            given = Record(f"{name} (given)", user, record.name, workspace, Vantage.EVENTS)
        device = Device(record, given)
        if after is not None:
            device.seq, device.fresh = after, False
        self.devices.append(device)
        self.rooms[room].devices.append(device)
        return device

    def connect(self, device: Device) -> None:
        """A device connects: afresh the first time, and then where it was."""
        if device.connected or device.left:
            return
        room = self._room(device)
        fresh = device.fresh
        if device.given is None or fresh:
            after = None if fresh else device.seq
            event = Opening(self._moment(), after, None if fresh else room.epoch)
            device.record.events.append(event)
        room.leaving.pop(device.user, None)
        if device.user not in room.online:
            room.online[device.user] = device.record.name
            self._tell(room, PresenceChange(device.user, device.record.name, Presence.ONLINE))
        room.cursors.setdefault(device.user, 0)
        device.connected = True
        device.fresh = False
        welcome = Welcome(
            user=device.user,
            workspace=room.name,
            epoch=room.epoch,
            seq=len(room.messages),
            read=room.cursors[device.user],
            unread=room.unread(device.user),
            online=[Person(*person) for person in room.online.items()],
            resumed=not fresh,
            heartbeat=25.0,
        )
        self._give(device, welcome)
        if fresh:
            newest = room.messages[-NEWEST:]
            self._give(device, History(newest, len(newest) < len(room.messages)))
        else:
            for message in room.messages[device.seq :]:
                self._give(device, message)
        device.seq = len(room.messages)
        for id in list(device.pending):
            self._deliver(device, id)

    def drop(self, device: Device) -> None:
        """A connection breaks; its device does not mean to leave."""
        if device.connected:
            if device.given is None:
                device.record.events.append(Lost(self._moment(), 1006, ""))
            self._gone(device)

    def leave(self, device: Device) -> None:
        """A device leaves for good, whether it is connected or not."""
        if device.left:
            return
        for id in device.pending:
            device.record.events.append(GaveUp(self._moment(), id, "left"))
        device.pending.clear()
        device.left = True
        if device.connected:
            self._gone(device)
        at = self._moment()
        for record in device.records:
            record.events.append(Left(at))

    def come_back(self, device: Device) -> Device | None:
        """Somebody who left returns, and begins where they were: another record, not connected."""
        if not device.left or device.given is not None:
            return None
        room = self.rooms.index(self._room(device))
        return self.add(device.user, room, raw=True, after=None if device.fresh else device.seq)

    def _gone(self, device: Device) -> None:
        device.connected = False
        room = self._room(device)
        if not any(other.connected and other.user == device.user for other in room.devices):
            room.leaving[device.user] = self.now + GRACE

    def crash(self) -> None:
        """The service dies and is back: every connection breaks, and nobody is remembered."""
        for device in self.devices:
            self.drop(device)
        for room in self.rooms:
            room.online.clear()
            room.leaving.clear()

    def wait(self, seconds: float) -> None:
        """Time passes; who has been gone for the grace period is offline."""
        self.now += seconds
        for room in self.rooms:
            for user, at in list(room.leaving.items()):
                if at <= self.now:
                    del room.leaving[user]
                    name = room.online.pop(user)
                    self._tell(room, PresenceChange(user, name, Presence.OFFLINE))

    # --- what they do --------------------------------------------------------------------

    def send(self, device: Device, fate: str = "acknowledged") -> None:
        """Send a message. It may be `lost` on the way, or stored and only its `ack lost`."""
        if device.left:
            return
        self._ids += 1
        id = f"{device.record.device}/{self._ids}"
        device.pending[id] = f"text of {id}"
        if device.given is not None:
            device.record.events.append(Sending(self._moment(), id, device.pending[id]))
        if device.connected:
            self._deliver(device, id, fate)

    def send_again(self, device: Device) -> None:
        """Send the device's last stored message once more: it is answered, and not stored."""
        own = [message for message in self._room(device).messages if message.user == device.user]
        mine = [message for message in own if message.id.startswith(f"{device.record.device}/")]
        if device.connected and device.given is None and mine:
            last = mine[-1]
            device.record.events.append(Sending(self._moment(), last.id, last.text))
            self._give(device, Ack(last.id, last.seq, last.ts))

    def refuse(self, device: Device) -> None:
        """Send a message that is refused, and never send it again."""
        if device.left or not device.connected or device.given is not None:
            return
        self._ids += 1
        id = f"{device.record.device}/{self._ids}"
        device.record.events.append(Sending(self._moment(), id, "refused"))
        device.record.events.append(GaveUp(self._moment(), id, "unavailable", refused=True))

    def _deliver(self, device: Device, id: str, fate: str = "acknowledged") -> None:
        room = self._room(device)
        text = device.pending[id]
        if device.given is None:
            device.record.events.append(Sending(self._moment(), id, text))
        if fate == "lost":
            self.drop(device)
            return
        stored = room.find(device.user, id)
        if stored is None:
            stored = self.publish(room, device.user, id, text)
        if fate == "ack lost":
            self.drop(device)
            return
        ack = Ack(id, stored.seq, stored.ts)
        del device.pending[id]
        device.record.events.append(Received(self._moment(), ack))
        if device.given is not None:
            device.record.events.append(Returned(self._moment(), ack))

    def publish(self, room: Room, user: str, id: str, text: str) -> Message:
        """Store a message, and give it to everybody."""
        seq, ts = len(room.messages) + 1, int(self.now * 1000)
        message = Message(seq, id, user, person_name(user), text, ts)
        room.messages.append(message)
        for device in room.devices:
            if device.connected:
                self._give(device, message)
                device.seq = seq
        return message

    def read(self, device: Device) -> None:
        """Read all that the device has seen."""
        room = self._room(device)
        if not device.connected:
            return
        device.record.events.append(Reading(self._moment(), device.seq))
        room.cursors[device.user] = max(room.cursors[device.user], device.seq)
        cursor = ReadCursor(room.cursors[device.user], room.unread(device.user))
        for other in room.devices:
            if other.connected and other.user == device.user:
                self._give(other, cursor)

    def look_around(self, device: Device) -> None:
        """Type, ask for the newest number, and look at a page of history."""
        room = self._room(device)
        if not device.connected:
            return
        for other in room.devices:
            if other.connected and other.user != device.user:
                self._give(other, Typing(device.user))
        device.record.events.append(Received(self._moment(), Pong(len(room.messages))))
        page = History(room.messages[1:4], more=len(room.messages) > 1)
        device.record.events.append(Received(self._moment(), page))

    def finish(self) -> None:
        """Everybody who has not left comes back, and the run ends."""
        for device in self.devices:
            self.connect(device)
        self.wait(GRACE + MOMENT)
        for device in self.devices:
            if not device.left:
                at = self._moment()
                for record in device.records:
                    record.events.append(Stayed(at, connected=True))

    # --- what the checker gets -----------------------------------------------------------

    @property
    def records(self) -> list[Record]:
        """Every device's history."""
        return [record for device in self.devices for record in device.records]

    def stored(self) -> list[Stored]:
        """What the rooms hold, from two sources."""
        return [
            Stored(
                source,
                room.name,
                room.epoch,
                len(room.messages),
                list(room.messages),
                cursors=dict(room.cursors),
                unread={user: room.unread(user) for user in room.cursors},
                everybody=True,
            )
            for source in ("the database", "the GET API")
            for room in self.rooms
        ]

    # --- inside --------------------------------------------------------------------------

    def _moment(self) -> float:
        self.now += MOMENT
        return self.now

    def _room(self, device: Device) -> Room:
        return next(room for room in self.rooms if room.name == device.record.workspace)

    def _tell(self, room: Room, frame: ServerFrame) -> None:
        for device in room.devices:
            if device.connected:
                self._give(device, frame)

    def _give(self, device: Device, frame: ServerFrame) -> None:
        at = self._moment()
        for record in device.records:
            record.events.append(Received(at, frame))
