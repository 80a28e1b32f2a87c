"""Going away: seen after the grace period, and only when somebody is really gone."""

from __future__ import annotations

import asyncio
from typing import Final

from chatservice.protocol import Presence, PresenceChange
from checks.smoke.check import CheckFailed, CheckSkipped, Found, Group, check
from checks.smoke.device import Device
from checks.smoke.run import Run
from checks.smoke.stage import Stage

TURN: Final = 1.0
"""Seconds past the grace period that the service's timers and a busy host may take."""
CLOCKS: Final = 0.99
"""Two clocks that both measure the grace period may differ by this factor."""
LOOK_AT: Final = "timing.presence_grace in the settings, and what closes idle connections early"


class Departures(Stage):
    """Someone who stays and watches, one who leaves, one with two devices, one who blinks.

    Attributes:
        blinked: how many seconds the short absence took, from leaving to being welcomed again.
        leaver_gone: when the one who leaves began to, in seconds of the loop's clock.
        others_gone: the same for the second device, and for the short absence; before that.
    """

    def __init__(self, run: Run, name: str) -> None:
        super().__init__(run, name)
        self.witness: Device
        self.leaver: Device
        self.laptop: Device
        self.blinker: Device
        self.blinked = 0.0
        self.leaver_gone = 0.0
        self.others_gone = 0.0
        self.loop = asyncio.get_running_loop()

    async def prepare(self) -> None:
        """Connect everybody, then let a second device go, one blink, and one leave."""
        self.witness = await self.join("witness")
        self.leaver, self.laptop, _, self.blinker = await asyncio.gather(
            self.join("leaver"),
            self.join("twin", "laptop"),
            self.join("twin", "phone"),
            self.join("blinker"),
        )
        for user in ("leaver", "twin", "blinker"):
            await self.witness.sees(user, Presence.ONLINE)
        self.others_gone = self.loop.time()
        await self.leave(self.laptop)
        await self.leave(self.blinker)
        self.blinker = await self.join("blinker", "device, come back,")
        self.leaver_gone = self.loop.time()
        self.blinked = self.leaver_gone - self.others_gone
        await self.leave(self.leaver)

    @property
    def latest(self) -> float:
        """How many seconds after somebody left the others must know it."""
        return self.target.presence_grace + self.run.delivery_bound + TURN


@check(
    "offline",
    "Who leaves is offline after the grace period, not before",
    look_at=LOOK_AT,
)
async def offline(stage: Departures) -> Found:
    """The time runs from the moment at which the user closes the connection."""
    grace = stage.target.presence_grace
    left = stage.leaver_gone + stage.latest - stage.loop.time()
    since = await stage.witness.sees("leaver", Presence.OFFLINE, within=max(0.0, left))
    taken = since - stage.leaver_gone
    if taken < grace * CLOCKS:
        raise CheckFailed(
            f"{stage.witness.name} expected the one who left to stay online for {grace:g} s, but "
            f"saw it offline after {taken:.2f} s"
        )
    late = await stage.join("latecomer")
    if late.presence("leaver")[0] is Presence.ONLINE:
        raise CheckFailed(f"{late.name} was welcomed with somebody online who is offline")
    return Found(f"after {taken:.2f} s (grace period {grace:g} s)", {"offline_s": round(taken, 3)})


async def _stays_online(stage: Departures, user: str) -> None:
    """Check that nobody was told that this user went, in all the time that it would have taken.

    Whoever left later has been seen to go by then; or else the time has to pass here.
    """
    witness = stage.witness

    def settled() -> bool | None:
        for seen in witness.of(PresenceChange):
            if seen.frame.state is Presence.OFFLINE and (
                seen.frame.user == user
                or seen.at - stage.leaver_gone >= stage.target.presence_grace * CLOCKS
            ):
                return True
        return None

    left = stage.others_gone + stage.latest - stage.loop.time()
    await witness.watch(f"whether {user} stays online", settled, within=max(0.0, left))
    await witness.newest()
    for seen in witness.of(PresenceChange):
        if seen.frame.user == user and seen.frame.state is Presence.OFFLINE:
            raise CheckFailed(
                f"{witness.name} expected {user} to stay online, but was told offline after "
                f"{seen.at - stage.others_gone:.2f} s"
            )


@check(
    "second_device",
    "Who closes one of two devices stays online",
    look_at=LOOK_AT,
)
async def second_device(stage: Departures) -> Found:
    """The laptop went; the phone stayed."""
    await _stays_online(stage, "twin")
    return Found("online with the other device")


@check(
    "short_absence",
    "Who is back within the grace period never left",
    look_at=LOOK_AT,
)
async def short_absence(stage: Departures) -> Found:
    """A reconnect, as on every change of network, is not shown to the others."""
    if stage.target.presence_grace == 0:
        raise CheckSkipped("this environment has no grace period")
    if stage.blinked >= stage.target.presence_grace:
        raise CheckSkipped(
            f"coming back took {stage.blinked:.2f} s, longer than the grace period of "
            f"{stage.target.presence_grace:g} s"
        )
    await _stays_online(stage, "blinker")
    return Found(f"online all the time, though away for up to {stage.blinked * 1000:.0f} ms")


PRESENCE: Final = Group(
    "presence", Departures, (offline, second_device, short_absence), needs=("connect",)
)
