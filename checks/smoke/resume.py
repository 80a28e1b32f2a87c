"""Coming back: what was missed arrives, once; who cannot be caught up is told so."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from chatservice.protocol import History, Message, Welcome
from checks.smoke.check import CheckFailed, CheckSkipped, Found, Group, check
from checks.smoke.describe import listed
from checks.smoke.device import Device
from checks.smoke.run import Run
from checks.smoke.stage import Stage

SEEN: Final = 3
MISSED: Final = 3
MEANWHILE: Final = 10
"""Messages written while the connection is being made anew; below the burst of a connection."""
ALL: Final = SEEN + MISSED + MEANWHILE
OTHER_EPOCH: Final = "another-history"
LOOK_AT: Final = "the lines `member joined` with their `result` in the service's log"


class Comeback(Stage):
    """A writer who goes on, and a traveller who saw the first 3 messages and went away."""

    def __init__(self, run: Run, name: str) -> None:
        super().__init__(run, name)
        self.writer: Device
        self.epoch = ""

    async def prepare(self) -> None:
        """Write 3 messages, let the traveller see them and leave, and write 3 more."""
        self.writer = await self.join("writer")
        traveller = await self.join("traveller")
        self.epoch = traveller.welcome.epoch
        for number in range(1, SEEN + 1):
            await self.writer.say(f"seen {number}")
        await traveller.got(SEEN)
        await self.leave(traveller)
        for number in range(1, MISSED + 1):
            await self.writer.say(f"missed {number}")


@check(
    "resume",
    "Who reconnects gets all that was missed, once",
    look_at=LOOK_AT,
)
async def resume(stage: Comeback) -> Found:
    """3 messages were missed, and 10 more are written in the very moment of reconnecting."""
    if stage.target.history_keep < ALL:
        raise CheckSkipped(
            f"only {stage.target.history_keep} messages are kept, and this needs {ALL}"
        )
    writing = asyncio.ensure_future(_write(stage.writer))
    try:
        back = await stage.join(
            "traveller", "device, come back after 3,", after=SEEN, epoch=stage.epoch
        )
    finally:
        await writing
    if not back.welcome.resumed:
        raise CheckFailed(f"{back.name} expected to be resumed, but the welcome says resumed false")
    await back.got(ALL - SEEN)
    await stage.writer.say("a last one")  # whatever is repeated has arrived before it
    messages = await back.got(ALL - SEEN + 1)
    numbers = [message.seq for message in messages]
    if numbers != list(range(SEEN + 1, ALL + 2)):
        raise CheckFailed(
            f"{back.name} expected the numbers {SEEN + 1} to {ALL + 1}, each once and in order, "
            f"but got {listed([str(number) for number in numbers], limit=40)}"
        )
    written = [seen.frame for seen in stage.writer.messages][SEEN:]
    for mine, theirs in zip(messages, written, strict=True):
        if mine != theirs:
            raise CheckFailed(f"{back.name} got another message {mine.seq} than its writer")
    if back.of(History):
        raise CheckFailed(f"{back.name} was resumed, and expected no history frame, but got one")
    return Found(f"{MISSED} missed and {MEANWHILE} written meanwhile, all once")


async def _write(writer: Device) -> None:
    """Write one message after the other, so that they spread over the whole reconnect."""
    for number in range(1, MEANWHILE + 1):
        await writer.say(f"meanwhile {number}")


async def _starts_over(stage: Comeback, device: Device) -> None:
    """Check that a device was told to drop what it had, and got the newest messages instead."""
    if device.welcome.resumed:
        raise CheckFailed(f"{device.name} expected resumed false, but the welcome says true")
    if device.welcome.epoch != stage.epoch:
        raise CheckFailed(
            f"{device.name} expected the epoch {stage.epoch}, but got {device.welcome.epoch}"
        )
    page = (await device.receive(History, "the newest messages after the welcome")).frame
    await device.newest()
    kinds = [type(seen.frame) for seen in device.seen]
    later = [seen.frame for seen in device.messages]
    if kinds[:2] != [Welcome, History] or not goes_on(page.messages, later):
        raise CheckFailed(
            f"{device.name} expected a welcome, one history frame and no missed messages, but got "
            f"{listed([kind.__name__ for kind in kinds])}"
        )


def goes_on(page: Sequence[Message], later: Sequence[Message]) -> bool:
    """Say whether messages begin where a page of the newest ended, and have no gap.

    Word between nodes takes a moment: the page of one node may lack what another has only just
    acknowledged, which then comes as a message.
    """
    first = page[-1].seq + 1 if page else 1
    return [one.seq for one in later] == list(range(first, first + len(later)))


@check(
    "other_epoch",
    "Who knows another history is not resumed",
    look_at=LOOK_AT,
)
async def other_epoch(stage: Comeback) -> Found:
    """After a restore the numbers mean other messages: the client is told to start over."""
    device = await stage.join(
        "traveller", "device with another epoch", after=SEEN, epoch=OTHER_EPOCH
    )
    await _starts_over(stage, device)
    return Found("resumed false, and the newest messages")


@check(
    "ahead",
    "Who has seen more than there is is not resumed",
    look_at=LOOK_AT,
)
async def ahead(stage: Comeback) -> Found:
    """A number above the newest means that history was lost: the client is told to start over."""
    device = await stage.join(
        "traveller", "device from the future", after=1_000_000, epoch=stage.epoch
    )
    await _starts_over(stage, device)
    return Found("resumed false, and the newest messages")


RESUME: Final = Group("resume", Comeback, (resume, other_epoch, ahead), needs=("delivery",))
