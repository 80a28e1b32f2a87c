"""A swarm of members on raw sockets, in one process and one thread: the load of every benchmark.

Saturated is a closed loop: each publisher keeps so many messages under way, and sends the next
when it is delivered one of its own. At a rate is an open loop: messages leave on schedule whether
or not the server keeps up, and each bears the time at which it was due, so that a server that
stalls is charged for all the messages that waited (no coordinated omission).
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import math
import random
import time
from collections.abc import Callable, Sequence
from time import monotonic_ns
from typing import Final, NamedTuple

from bench.dialects import Dialect, upgrade_request
from bench.member import LoadError, Member, Room

RECEIVE_BYTES: Final = 262_144
COMPLETE: Final = 40
"""Members that read everything."""
HANDSHAKES: Final = 64
"""Handshakes under way at once."""
DRAIN_SECONDS: Final = 60.0
CONNECT_SECONDS: Final = 120.0
CLOCK_TICK: Final = 0.01
"""Seconds in which the kernel counts CPU time (proc(5))."""
_TICK: Final = 0.001

Token = Callable[[str, str], str]
"""Gives the token of a user for a room."""


class Shape(NamedTuple):
    """How members are spread over rooms, and how many of each room publish."""

    rooms: int
    members: int
    publishers: int

    @property
    def connections(self) -> int:
        return self.rooms * self.members

    def __str__(self) -> str:
        rooms = "1 room" if self.rooms == 1 else f"{self.rooms:,} rooms"
        return f"{rooms} of {self.members:,}"


class Measured(NamedTuple):
    """What happened within one window of time. Latencies in seconds, sorted."""

    seconds: float
    deliveries: int
    server_cpu: float
    load_cpu: float
    latencies: Sequence[float]

    @property
    def per_cpu_second(self) -> float:
        """Deliveries for each CPU second of the server; less than a clock tick counts as one."""
        return self.deliveries / max(self.server_cpu, CLOCK_TICK)

    def latency(self, quantile: float) -> float:
        """Give a quantile of the latencies, in seconds; not a number where none was taken."""
        if not self.latencies:
            return math.nan
        return self.latencies[min(int(quantile * len(self.latencies)), len(self.latencies) - 1)]


def _itself(member: Member) -> Member:
    return member


class Swarm:
    """All members.

    Args:
        dialect: how the server is spoken to.
        shape: who is where.
        ports: where the server listens, on 127.0.0.1; the members of each room are dealt out
            over several, so that neighbours are on different nodes.
        token: signs tokens.
        server_cpu: gives the CPU seconds that the server has used so far.
        complete: how many members read everything; all of them where it is None.
        first_room: the number of the first room, where several swarms share a server.
    """

    def __init__(
        self,
        dialect: Dialect,
        shape: Shape,
        ports: Sequence[int],
        token: Token,
        server_cpu: Callable[[], float],
        *,
        complete: int | None = COMPLETE,
        first_room: int = 0,
    ) -> None:
        self.dialect = dialect
        self.buffer = bytearray(RECEIVE_BYTES)
        self.refill = False
        self._shape = shape
        self._ports = ports
        self._token = token
        self._server_cpu = server_cpu
        self._complete = shape.connections if complete is None else complete
        self._first_room = first_room
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._window = (0, 0)
        self._latencies: list[int] = []
        self._rooms: list[Room] = []
        self._publishers: list[Member] = []
        self._members: list[Member] = []

    def __len__(self) -> int:
        return len(self._members)

    # --- what members tell ---------------------------------------------------------------

    def timed(self, sent: int, received: int) -> None:
        """Keep the latency of what the window covers.

        In an open loop that is what was sent within it, whenever it is received: the late ones
        count. In a closed loop it is what is received within it: there is always something.
        """
        if self._window[0] <= (received if self.refill else sent) < self._window[1]:
            self._latencies.append(received - sent)

    def fail(self, error: Exception) -> None:
        """The first failure ends the run."""
        if not self._failed.done():
            self._failed.set_exception(error)

    # --- coming and going ----------------------------------------------------------------

    async def connect(self) -> None:
        """Open all connections, and wait until every one is a member.

        Raises:
            LoadError: one was refused, or it took too long.
        """
        self._plan()
        waiting = iter(self._members)
        loop = asyncio.get_running_loop()

        async def open_some() -> None:
            for member in waiting:
                await loop.create_connection(
                    functools.partial(_itself, member), "127.0.0.1", self._port_of(member.number)
                )
                await member.ready

        try:
            async with asyncio.timeout(CONNECT_SECONDS), asyncio.TaskGroup() as group:
                for _ in range(HANDSHAKES):
                    group.create_task(open_some())
        except TimeoutError:
            joined = sum(member.ready.done() for member in self._members)
            raise LoadError(
                f"{joined} of {len(self._members)} had joined after {CONNECT_SECONDS:g} s"
            ) from None
        except ExceptionGroup as group_error:
            raise LoadError(str(group_error.exceptions[0])) from None
        publishers = set(self._publishers)
        for member in self._members:
            member.begin(publisher=member in publishers)

    def _port_of(self, position: int) -> int:
        return self._ports[position % len(self._ports)]

    def _plan(self) -> None:
        shape = self._shape
        every = max(1, shape.connections // max(1, self._complete))
        number = itertools.count()
        for index in range(shape.rooms):
            room = Room(f"r{self._first_room + index}")
            for _ in range(shape.members):
                position = next(number)
                user = f"u{room.name}-{position}"
                host = f"127.0.0.1:{self._port_of(position)}"
                request = upgrade_request(
                    self.dialect, host=host, room=room.name, user=user,
                    token=self._token(user, room.name),
                )  # fmt: skip
                complete = position % every == 0 and position // every < self._complete
                room.members.append(Member(self, position, room, request, complete=complete))
            self._rooms.append(room)
            self._members += room.members
            self._publishers += room.members[: shape.publishers]
        # Neighbours in the schedule are not to be neighbours in a room.
        random.Random(1).shuffle(self._publishers)

    def check(self) -> None:
        """See that nothing has failed so far.

        Raises:
            LoadError: a connection was lost, or something wrong was received.
        """
        if self._failed.done():
            self._failed.result()

    async def leave(self) -> None:
        """Cut all connections."""
        for member in self._members:
            member.leave()
        await asyncio.sleep(0)

    # --- load ----------------------------------------------------------------------------

    async def saturate(self, window: int, *, warm_up: float, seconds: float) -> Measured:
        """Keep so many messages of each publisher under way, and measure after the warm-up."""
        self.refill = True
        for publisher in self._publishers:
            publisher.publish(window)
        return await self._measure(warm_up, seconds)

    async def at_rate(self, rate: float, *, warm_up: float, seconds: float) -> Measured:
        """Send so many messages a second, on schedule, and measure after the warm-up."""
        schedule = asyncio.ensure_future(self._keep_schedule(rate))
        try:
            return await self._measure(warm_up, seconds, stop=schedule.cancel)
        finally:
            schedule.cancel()

    async def _keep_schedule(self, rate: float) -> None:
        publishers = itertools.cycle(self._publishers)
        start = monotonic_ns()
        for number in itertools.count():
            due = start + int(number * 1e9 / rate)
            while monotonic_ns() < due:
                await asyncio.sleep(_TICK)
            next(publishers).publish(1, due)

    async def _measure(
        self, warm_up: float, seconds: float, stop: Callable[[], object] | None = None
    ) -> Measured:
        """Measure, then stop the load and wait until everything sent is delivered to everybody."""
        await self._pass(warm_up)
        self._latencies = []
        begun = monotonic_ns()
        self._window = (begun, 2**63)
        before, cpu, own = self._delivered(), self._server_cpu(), time.process_time()
        await self._pass(seconds)
        ended = monotonic_ns()
        self._window = (0, 0) if self.refill else (begun, ended)
        deliveries = self._delivered() - before
        server_cpu, load_cpu = self._server_cpu() - cpu, time.process_time() - own
        self.refill = False
        if stop is not None:
            stop()
        await self._drain()
        return Measured(
            seconds=(ended - begun) / 1e9,
            deliveries=deliveries,
            server_cpu=server_cpu,
            load_cpu=load_cpu,
            latencies=sorted(latency / 1e9 for latency in self._latencies),
        )

    async def _pass(self, seconds: float) -> None:
        """Let time pass, unless something fails."""
        await asyncio.wait([self._failed], timeout=seconds)
        self.check()

    def _delivered(self) -> int:
        return sum(member.deliveries for member in self._members)

    async def _drain(self) -> None:
        """Wait until every member was delivered every message of its room, exactly once.

        Raises:
            LoadError: messages are missing, or there are too many.
        """
        until = time.monotonic() + DRAIN_SECONDS
        while wrong := self._wrong():
            if time.monotonic() > until or wrong.deliveries > wrong.room.sent:
                raise LoadError(
                    f"member {wrong.number} was delivered {wrong.deliveries} of the "
                    f"{wrong.room.sent} messages of room {wrong.room.name}"
                )
            await self._pass(0.01)

    def _wrong(self) -> Member | None:
        return next((m for m in self._members if m.deliveries != m.room.sent), None)
