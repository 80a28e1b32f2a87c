"""Several users in one workspace: they see each other, and what each one says reaches them all."""

from __future__ import annotations

import asyncio
import time
from statistics import median
from typing import Final

from chatservice.protocol import (
    Ack,
    Error,
    ErrorCode,
    Message,
    Presence,
    StartTyping,
    Typing,
)
from checks.smoke.check import CheckFailed, Found, check
from checks.smoke.describe import listed
from checks.smoke.device import Device
from checks.smoke.recording import Sent
from checks.smoke.run import Run
from checks.smoke.stage import Stage

BURST: Final = 3
"""Messages that each user sends at once; the rate limit of a connection is far above."""
TALKING: Final = 8
"""Users whose messages are timed at the same time."""
LONGEST_TRIED: Final = 16_000
"""Characters. A larger limit is not tried exactly: one frame might not hold it."""


class Conversation(Stage):
    """The users of the run in one room.

    Attributes:
        devices: one of each user.
        sent: what was sent and is to be stored; not what a check found refused.
    """

    def __init__(self, run: Run, name: str) -> None:
        super().__init__(run, name)
        self.devices: list[Device] = []
        self.sent: list[Sent] = []

    async def say(self, device: Device, text: str) -> Sent:
        """Send a message that is to be stored."""
        sent = await device.send(text)
        self.sent.append(sent)
        return sent

    async def spread(self, *, within: float | None = None) -> None:
        """Wait until every device has every message that was sent.

        Raises:
            CheckFailed: what the first of those that have not lacks, and how many they are.
        """
        outcomes = await asyncio.gather(
            *(device.got_all(self.sent, within=within) for device in self.devices),
            return_exceptions=True,
        )
        failures = [outcome for outcome in outcomes if outcome is not None]
        if failures and isinstance(failures[0], CheckFailed):
            raise CheckFailed(f"{failures[0]} ({len(failures)} of {len(outcomes)} devices)")
        if failures:
            raise failures[0]

    async def record(self) -> list[Message]:
        """Give what was said as the first device has it, each message once."""
        await self.spread()
        return [seen.frame for seen in self.devices[0].first.values()]


@check(
    "connect",
    "The users connect to one workspace",
    look_at="what the answer says; the service's log has one line for each refusal",
)
async def connect(stage: Conversation) -> Found:
    """All users come at the same time, as they do after a deploy."""
    users = [f"user-{number}" for number in range(1, stage.run.users + 1)]

    async def join(user: str) -> tuple[Device, float]:
        begun = time.perf_counter()
        return await stage.join(user), (time.perf_counter() - begun) * 1000

    joined = await asyncio.gather(*(join(user) for user in users))
    stage.devices.extend(device for device, _ in joined)
    times = [taken for _, taken in joined]
    return Found(
        f"{len(users)} users, median {median(times):.0f} ms, slowest {max(times):.0f} ms",
        {"median_ms": round(median(times), 2), "max_ms": round(max(times), 2)},
    )


@check(
    "online",
    "Each user sees every other one online",
    needs=("connect",),
    look_at="whether all users reached the same process and workspace",
)
async def online(stage: Conversation) -> Found:
    """All pairs, whether by the welcome or by a presence frame after it."""
    pairs = [
        (device, other.user)
        for device in stage.devices
        for other in stage.devices
        if other is not device
    ]
    await asyncio.gather(*(device.sees(user, Presence.ONLINE) for device, user in pairs))
    return Found(f"{len(pairs)} pairs")


@check(
    "delivery",
    "What each user writes reaches all the others in time",
    needs=("connect",),
    look_at="the host's load, the disk's time to sync, and the network in between",
)
async def delivery(stage: Conversation) -> Found:
    """Both ways between all users; the time runs from sending to arrival at another user.

    No more than 8 users talk at once: with more, it is this program's own time that is measured.
    """
    bound = stage.run.delivery_bound
    for start in range(0, len(stage.devices), TALKING):
        talking = stage.devices[start : start + TALKING]
        await asyncio.gather(
            *(stage.say(device, f"hello from {device.user}") for device in talking)
        )
        await stage.spread(within=max(bound, stage.run.patience))
    arrived: list[tuple[Device, Sent, float]] = []
    for device in stage.devices:
        for message in stage.sent:
            seen = device.first[message.id]
            if (seen.frame.user, seen.frame.text) != (message.user, message.text):
                raise CheckFailed(
                    f"{device.name} expected {message.text!r} of {message.user}, "
                    f"but got {seen.frame.text!r} of {seen.frame.user}"
                )
            arrived.append((device, message, seen.at - message.at))
    times = [taken * 1000 for device, message, taken in arrived if device.user != message.user]
    slowest = max(arrived, key=lambda arrival: arrival[2])
    measured = {"median_ms": round(median(times), 2), "max_ms": round(max(times), 2)}
    if slowest[2] > bound:
        late = sum(taken > bound for _, _, taken in arrived)
        raise CheckFailed(
            f"{slowest[0].name} expected the message of {slowest[1].user} within {bound:g} s, but "
            f"it took {slowest[2]:.2f} s; {late} of {len(arrived)} deliveries were late "
            f"(median {median(times):.0f} ms)"
        )
    return Found(
        f"{len(times)} deliveries, median {median(times):.0f} ms, slowest {max(times):.0f} ms "
        f"(bound {bound:g} s)",
        measured,
    )


@check(
    "order",
    "All see the same order, numbered without a gap",
    needs=("delivery",),
    look_at="the service's log; two processes must never serve one workspace from one database",
)
async def order(stage: Conversation) -> Found:
    """Everybody talks at once; everybody sees 1, 2, 3 ... once, with the same message at each."""
    for number in range(BURST):
        await asyncio.gather(
            *(stage.say(device, f"{device.user} says {number}") for device in stage.devices)
        )
    await stage.spread()
    reference = stage.devices[0]
    for device in stage.devices:
        numbers = [seen.frame.seq for seen in device.messages]
        if numbers != list(range(1, len(stage.sent) + 1)):
            raise CheckFailed(
                f"{device.name} expected the numbers 1 to {len(stage.sent)}, each once and in "
                f"order, but got {listed([str(number) for number in numbers], limit=40)}"
            )
        for mine, theirs in zip(device.messages, reference.messages, strict=True):
            if mine.frame != theirs.frame:
                raise CheckFailed(
                    f"{device.name} has another message {mine.frame.seq} than {reference.name}: "
                    f"{mine.frame.text!r} of {mine.frame.user}, not {theirs.frame.text!r} of "
                    f"{theirs.frame.user}"
                )
    return Found(f"{len(stage.sent)} messages at {len(stage.devices)} users")


@check(
    "ack",
    "Each message is acknowledged once, with its number",
    needs=("delivery",),
    look_at="the service's log, for refused writes of that workspace",
)
async def ack(stage: Conversation) -> Found:
    """The number and the time in the acknowledgement are those of the message."""
    numbers = {message.id: message for message in await stage.record()}
    by_user = {device.user: device for device in stage.devices}
    for sent in stage.sent:
        device = by_user[sent.user]
        answer = (await device.acked(sent)).frame
        stored = numbers[sent.id]
        if (answer.seq, answer.ts) != (stored.seq, stored.ts):
            raise CheckFailed(
                f"{device.name} expected number {stored.seq} and time {stored.ts} for its message, "
                f"as the others see it, but was told {answer.seq} and {answer.ts}"
            )
    for device in stage.devices:
        mine = sum(sent.user == device.user for sent in stage.sent)
        if (told := len(device.of(Ack))) != mine:
            raise CheckFailed(f"{device.name} expected {mine} acknowledgements, but got {told}")
    return Found(f"{len(stage.sent)} acknowledgements")


async def _next_number(stage: Conversation, device: Device, text: str) -> None:
    """Say something, and check that nothing was stored between it and the message before."""
    last = max(seen.frame.seq for seen in device.messages)
    sent = await device.send(text)
    await device.acked(sent)
    stage.sent.append(sent)
    seen = await device.receive(Message, "its own message", lambda frame: frame.id == sent.id)
    if seen.frame.seq != last + 1:
        raise CheckFailed(
            f"{device.name} expected number {last + 1} for its next message, but got "
            f"{seen.frame.seq}: something else was stored meanwhile"
        )


@check(
    "repeated_id",
    "A message sent twice with one id is stored once",
    needs=("delivery",),
    look_at="the unique key on workspace, user and id in the database",
)
async def repeated_id(stage: Conversation) -> Found:
    """What a client does that never saw the acknowledgement."""
    device = stage.devices[0]
    sent = await stage.say(device, "a message that is sent twice")
    first = (await device.acked(sent)).frame
    await stage.spread()
    mark = len(device.seen)
    await device.send(sent.text, id=sent.id)
    second = await device.answer(
        Ack, "the acknowledgement of its repeated message", to=sent, since=mark
    )
    if second.frame != first:
        raise CheckFailed(
            f"{device.name} sent message {first.seq} again and expected the same acknowledgement, "
            f"but got {second.frame}"
        )
    await _next_number(stage, device, "after a repeated message")
    await stage.spread()
    for other in stage.devices:
        if (times := sum(seen.frame.id == sent.id for seen in other.messages)) != 1:
            raise CheckFailed(
                f"{other.name} expected message {first.seq} once, but got it {times} times"
            )
    return Found(f"number {first.seq} both times")


@check(
    "typing",
    "Typing shows to the others, and is not stored",
    needs=("delivery",),
    look_at="the service's log",
)
async def typing(stage: Conversation) -> Found:
    """All others see it; the message after it has the next number."""
    typist, *others = stage.devices
    await stage.spread()
    await typist.put(StartTyping())
    await asyncio.gather(
        *(
            device.receive(Typing, f"{typist.user} typing", lambda frame: frame.user == typist.user)
            for device in others
        )
    )
    await _next_number(stage, typist, "after typing")
    await typist.newest()
    if typist.of(Typing):
        raise CheckFailed(f"{typist.name} was told that {typist.of(Typing)[0].frame.user} types")
    return Found(f"seen by {len(others)} others")


@check(
    "too_long",
    "A text over the limit is refused, and nothing more",
    needs=("delivery",),
    look_at="limits.text in the settings, and limits.frame_bytes: a frame must hold such a text",
)
async def too_long(stage: Conversation) -> Found:
    """`too_long` with the message's id; nothing is stored of it."""
    device, limit = stage.devices[-1], stage.target.text_limit
    refused = await device.send("x" * (limit + 1))
    answer = await device.answer(
        Ack, f"the refusal of a text of {limit + 1} characters", to=refused
    )
    if not isinstance(answer.frame, Error) or answer.frame.code is not ErrorCode.TOO_LONG:
        raise CheckFailed(
            f"{device.name} expected {ErrorCode.TOO_LONG.value} for a text of {limit + 1} "
            f"characters, but got {answer.frame}"
        )
    if limit > LONGEST_TRIED:
        await device.newest()
        return Found(f"{limit + 1} characters refused")
    await stage.spread()
    await _next_number(stage, device, "y" * limit)
    return Found(f"{limit + 1} characters refused, {limit} taken")
