"""How much somebody has not read: on one device, on another, and after being away."""

from __future__ import annotations

from typing import Final

from chatservice.protocol import ReadCursor
from checks.smoke.check import CheckFailed, CheckSkipped, Found, Group, check
from checks.smoke.device import Device
from checks.smoke.run import Run
from checks.smoke.stage import Stage

FIRST: Final = 1
WRITTEN: Final = 4
"""Message 1 is read by who then goes away; 2 to 4 follow."""
LOOK_AT: Final = "the cursors table in the database, and the service's log"


class Unread(Stage):
    """A writer, a reader with two devices, and someone who was there, read, and went away."""

    def __init__(self, run: Run, name: str) -> None:
        super().__init__(run, name)
        self.devices: dict[str, Device] = {}

    async def prepare(self) -> None:
        """Write message 1; have it read by the one who leaves; write messages 2 to 4."""
        for user, device in (
            ("writer", "device"),
            ("reader", "phone"),
            ("reader", "laptop"),
            ("traveller", "device"),
        ):
            joined = await self.join(user, device)
            self.devices[joined.name] = joined
        writer, traveller = self.devices["writer's device"], self.devices["traveller's device"]
        await writer.say("before you go")
        await traveller.got(FIRST)
        _is_cursor(traveller, await traveller.read(FIRST), FIRST, 0)
        await self.leave(traveller)
        for number in range(FIRST + 1, WRITTEN + 1):
            await writer.say(f"message {number}")
        for name in ("reader's phone", "reader's laptop"):
            await self.devices[name].got(WRITTEN)


def _is_cursor(device: Device, cursor: ReadCursor, seq: int, unread: int) -> None:
    if (cursor.seq, cursor.unread) != (seq, unread):
        raise CheckFailed(
            f"{device.name} expected to have read up to {seq} with {unread} unread, but was told "
            f"{cursor.seq} with {cursor.unread} unread"
        )


def _is_welcomed(device: Device, read: int, unread: int) -> None:
    welcome = device.welcome
    if (welcome.read, welcome.unread) != (read, unread):
        raise CheckFailed(
            f"{device.name} expected a welcome with {unread} unread after {read}, but got "
            f"{welcome.unread} unread after {welcome.read}"
        )


def _keeps_enough(stage: Unread) -> None:
    if stage.target.history_keep < WRITTEN:
        raise CheckSkipped(
            f"only {stage.target.history_keep} messages are kept, and this needs {WRITTEN}"
        )


@check("unread", "A reader is told how much is left to read", look_at=LOOK_AT)
async def unread(stage: Unread) -> Found:
    """Of 4 messages by somebody else, 2 are read, so 2 are left; a cursor never moves back."""
    _keeps_enough(stage)
    phone = stage.devices["reader's phone"]
    _is_cursor(phone, await phone.read(2), 2, 2)
    _is_cursor(phone, await phone.read(1), 2, 2)
    again = await stage.join("reader", "tablet")
    _is_welcomed(again, 2, 2)
    return Found("read up to 2 of 4: 2 unread")


@check(
    "unread_devices",
    "What is read on one device is read on the others",
    look_at=LOOK_AT,
)
async def unread_devices(stage: Unread) -> Found:
    """Reading on the phone shows on the laptop, and the other way round; not to others."""
    _keeps_enough(stage)
    phone, laptop = stage.devices["reader's phone"], stage.devices["reader's laptop"]
    for reader, other, seq in ((phone, laptop, 3), (laptop, phone, 4)):
        mark = len(other.seen)
        await reader.read(seq)
        shown = await other.receive(
            ReadCursor,
            f"the cursor {seq} that {reader.name} moved",
            lambda frame, seq=seq: frame.seq == seq,  # type: ignore[misc]
            since=mark,
        )
        _is_cursor(other, shown.frame, seq, WRITTEN - seq)
    writer = stage.devices["writer's device"]
    await writer.newest()
    if writer.of(ReadCursor):
        raise CheckFailed(f"{writer.name} was told of the cursor of another user")
    return Found("phone to laptop and back")


@check("unread_own", "One's own messages are never unread", look_at=LOOK_AT)
async def unread_own(stage: Unread) -> Found:
    """The writer never read anything, and has nothing to read."""
    again = await stage.join("writer", "second device")
    _is_welcomed(again, 0, 0)
    return Found("0 unread for the writer")


@check(
    "unread_offline",
    "Who was away comes back to the right unread count",
    look_at=LOOK_AT,
)
async def unread_offline(stage: Unread) -> Found:
    """Read up to 1 before leaving; 3 were written since; the GET API says the same."""
    _keeps_enough(stage)
    missed = WRITTEN - FIRST
    entry = (await stage.members("writer")).get("traveller")
    if entry is None or (entry.read, entry.unread) != (FIRST, missed):
        raise CheckFailed(
            f"the members expected traveller with {missed} unread after {FIRST}, but gave "
            + (f"{entry.unread} unread after {entry.read}" if entry else "no such user")
        )
    back = await stage.join("traveller", "device, come back,")
    _is_welcomed(back, FIRST, missed)
    _is_cursor(back, await back.read(WRITTEN), WRITTEN, 0)
    return Found(f"{missed} unread after {FIRST}")


UNREAD: Final = Group(
    "unread", Unread, (unread, unread_devices, unread_own, unread_offline), needs=("delivery",)
)
