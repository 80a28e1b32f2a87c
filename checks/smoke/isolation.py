"""Workspaces know nothing of each other."""

from __future__ import annotations

import asyncio
from typing import Final

from chatservice.protocol import (
    Ack,
    History,
    Message,
    Pong,
    Presence,
    StartTyping,
)
from checks.smoke.check import CheckFailed, Found, Group, check
from checks.smoke.describe import describe, listed
from checks.smoke.device import Device
from checks.smoke.run import Run
from checks.smoke.stage import Stage

HERE: Final = 3
"""Messages that are written in the first workspace; the second has one of its own."""
LOOK_AT: Final = "how the service keys its rooms; then take it out of service: this leaks messages"


class TwoWorkspaces(Stage):
    """Two workspaces; one user is in both, one only in the first, one only in the second.

    Attributes:
        there: the id of the second workspace.
        outside: the devices in the second workspace; they must notice nothing of the first.
        mark: how many frames each of these had received before anybody was in the first.
    """

    def __init__(self, run: Run, name: str) -> None:
        super().__init__(run, name)
        self.there = f"{self.workspace}-other"
        self.inside: list[Device] = []
        self.outside: list[Device] = []
        self.mark: dict[Device, int] = {}

    async def prepare(self) -> None:
        """Connect to both; then talk, type and read in the first, and say one thing in the second.

        The last thing said in the second, once it has arrived, shows that all before has, too.
        """
        token = self.token("both", self.workspace, self.there)
        both_there = await self.join("both", "device there", workspace=self.there, token=token)
        outsider = await self.join("outsider", workspace=self.there)
        self.outside = [both_there, outsider]
        # Word between nodes takes a moment: what comes once each knows of the other is a leak.
        await asyncio.gather(
            both_there.sees("outsider", Presence.ONLINE), outsider.sees("both", Presence.ONLINE)
        )
        await outsider.newest()
        self.mark = {device: len(device.seen) for device in self.outside}
        insider = await self.join("insider")
        both_here = await self.join("both", "device here", token=token)
        self.inside = [insider, both_here]
        for number in range(1, HERE + 1):
            await insider.say(f"among us {number}")
        await insider.put(StartTyping())
        await both_here.read(HERE)
        await asyncio.gather(*(device.got(HERE) for device in self.inside))
        await outsider.send("for those out here")


@check(
    "isolation",
    "Nothing of one workspace reaches another",
    look_at=LOOK_AT,
)
async def isolation(stage: TwoWorkspaces) -> Found:
    """Messages, typing, cursors and presence stay; each workspace numbers its own from 1."""
    for device in stage.outside:
        messages = await device.got(1)
        await device.newest()
        expected = "one message, number 1, of outsider"
        if [(message.seq, message.user) for message in messages] != [(1, "outsider")]:
            raise CheckFailed(
                f"{device.name} expected {expected}, but got "
                f"{listed([describe(message) for message in messages])}"
            )
        strange = [
            seen.frame
            for seen in device.seen[stage.mark[device] :]
            if not isinstance(seen.frame, History | Message | Ack | Pong)
        ]
        if strange:
            raise CheckFailed(
                f"{device.name} expected nothing of the other workspace, but got "
                f"{listed([describe(frame) for frame in strange])}"
            )
    for device in stage.inside:
        await device.newest()
        if len(device.messages) != HERE:
            raise CheckFailed(
                f"{device.name} expected {HERE} messages, but got {len(device.messages)}: some "
                "are of the other workspace"
            )
    return Found(f"{len(stage.outside)} devices next door noticed nothing")


@check(
    "isolation_kept",
    "No workspace shows another's members or history",
    look_at=LOOK_AT,
)
async def isolation_kept(stage: TwoWorkspaces) -> Found:
    """What a newcomer and the GET API of the second workspace are told."""
    await stage.outside[0].got(1)
    late = await stage.join("both", "second device there", workspace=stage.there)
    welcome = late.welcome
    if (told := (welcome.seq, welcome.read, welcome.unread)) != (1, 0, 1):
        raise CheckFailed(
            f"{late.name} expected a welcome with (seq, read, unread) (1, 0, 1), but got {told}"
        )
    if late.presence("insider")[0] is Presence.ONLINE:
        raise CheckFailed(f"{late.name} sees a user online who is only in the other workspace")
    if set(members := await stage.members("outsider", workspace=stage.there)) != {
        "both",
        "outsider",
    }:
        raise CheckFailed(f"the members expected both and outsider, but are {', '.join(members)}")
    page = await stage.messages("outsider", workspace=stage.there)
    if [message.user for message in page.messages] != ["outsider"]:
        raise CheckFailed(
            "the GET API expected the one message of outsider, but gave "
            f"{listed([describe(message) for message in page.messages])}"
        )
    return Found("welcome, members and history are its own")


ISOLATION: Final = Group(
    "isolation", TwoWorkspaces, (isolation, isolation_kept), needs=("delivery",)
)
