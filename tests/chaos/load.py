"""A load of simulated members over real connections, every one of them recorded.

    load = Load([url], token, Plan(rate=200.0, seed=7))
    async with load:
        await asyncio.sleep(15)          # ... while something goes wrong with the service
        await load.quiesce()
    verdict = check(load.records, stored, Rules(grace=1.0, skew=load.skew))

The load is open loop: a message is due every 1/rate seconds whatever became of those before, as
people do not wait for each other's acknowledgements (Schroeder, Wierman and Harchol-Balter, "Open
versus closed: a cautionary tale", NSDI 2006). What is due while a device is not connected is sent
when it is. Nothing here raises because of what the service does: that is the checker's to judge.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Coroutine, Sequence
from time import monotonic
from types import TracebackType
from typing import Any, Final, Protocol, Self

from tests.chaos.client_device import ClientDevice
from tests.chaos.history import Record, Vantage
from tests.chaos.plan import Plan, Seat, person_name, seats, walkers_and_quitters
from tests.chaos.raw_device import RawDevice

Token = Callable[[str, str, str], str]
"""Gives a token for a user, in a workspace, under a name."""

FILLERS: Final = (
    "",
    "x" * 200,
    "zażółć gęślą jaźń 🦑",
    '"quotes" \\ and\nlines\t\u2028',
    "y" * 2000,
)
ASIDE_SECONDS: Final = 0.05
"""One device somewhere reads, types, or looks back, every so often."""
STALL_TICK: Final = 0.02
PONG_SECONDS: Final = 5.0
"""What a ping may take in any case, so that it is not the deadline's doing if none answers."""


class Device(Protocol):
    """One stay of one device of a user, whatever it is made of."""

    record: Record
    records: list[Record]

    @property
    def connected(self) -> bool: ...
    @property
    def seq(self) -> int: ...
    @property
    def online(self) -> set[str]: ...
    @property
    def unanswered(self) -> int: ...
    @property
    def read_settled(self) -> bool: ...
    @property
    def trouble(self) -> str: ...
    def start(self) -> None: ...
    def send(self, id: str, text: str) -> None: ...
    async def read(self) -> None: ...
    async def type(self) -> None: ...
    async def look_back(self, before: int) -> None: ...
    async def newest(self) -> int: ...
    async def leave(self) -> None: ...
    async def end(self) -> None: ...


class Load:
    """All members.

    Args:
        urls: where they connect; several nodes share the devices among them.
        token: signs in a user.
        plan: who takes part.
        arrivals: how many devices come a second, at most; 0 for all at once.
    """

    def __init__(
        self, urls: Sequence[str], token: Token, plan: Plan, *, arrivals: float = 0.0
    ) -> None:
        self.plan = plan
        self.seats = seats(urls, plan)
        self._walkers, self._quitters = walkers_and_quitters(self.seats, plan)
        self.present: dict[Seat, Device] = {}
        self.records: list[Record] = []
        self.skew = 0.0
        """The longest that this process itself stalled, in seconds."""
        self._token = token
        self._pause = 1.0 / arrivals if arrivals else 0.0
        self._chance = random.Random(plan.seed)
        self._stays: dict[Seat, int] = {}
        self._sent = 0
        self._working: list[asyncio.Task[None]] = []
        self._leaving: list[asyncio.Task[None]] = []
        self._asides: set[asyncio.Task[None]] = set()

    # --- its life ------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        for seat in self.seats:
            self._enter(seat)
            await asyncio.sleep(self._pause)
        self._work(self._send_steadily(), self._do_asides(), self._measure_stalls())
        self._work(*(self._walk(seat) for seat in self._walkers))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stop_working()
        await asyncio.gather(*(device.end() for device in self.present.values()))

    async def quiesce(self, deadline: float = 60.0) -> str:
        """Send nothing new, let the quitters leave, and wait until everything has settled.

        So there is always somebody of whom the others must have heard that they left.

        Returns:
            What had not settled at the deadline; "" where all had.
        """
        await self._stop_working(keep_measuring=True)
        until = monotonic() + deadline
        while monotonic() < until and not all(one.connected for one in self.present.values()):
            await asyncio.sleep(0.05)
        leaving = [self.present.pop(seat) for seat in self._quitters]
        await asyncio.gather(*(device.leave() for device in leaving))
        while waiting := await self._unsettled(until):
            await asyncio.sleep(0.05)
            if monotonic() > until:
                return waiting
        return ""

    # --- who takes part ------------------------------------------------------------------

    def _enter(self, seat: Seat, resume: tuple[int, str] | None = None) -> None:
        stay = self._stays[seat] = self._stays.get(seat, 0) + 1
        name = f"{seat.name}#{stay}"
        person = person_name(seat.user)
        token = self._token(seat.user, seat.workspace, person)
        device: Device
        if seat.raw:
            record = Record(name, seat.user, person, seat.workspace, Vantage.RAW)
            chance = random.Random(self._chance.random())
            device = RawDevice(seat.url, token, record, chance, resume)
        else:
            record = Record(name, seat.user, person, seat.workspace, Vantage.CLIENT)
            device = ClientDevice(seat.url, token, record)
        self.records += device.records
        self.present[seat] = device
        device.start()

    async def _walk(self, seat: Seat) -> None:
        """Stay a while, leave a while, and resume where that is possible. Ends gone."""
        chance = random.Random(f"{self.plan.seed} {seat.name}")
        while True:
            await asyncio.sleep(chance.uniform(*self.plan.stay))
            device = self.present.pop(seat)
            leaving = asyncio.create_task(device.leave())
            self._leaving.append(leaving)
            await asyncio.shield(leaving)  # who has begun to leave does, though the load ends
            await asyncio.sleep(chance.uniform(*self.plan.away))
            resume = None
            if isinstance(device, RawDevice) and device.epoch:
                resume = (device.seq, device.epoch)
            self._enter(seat, resume)

    # --- what they do --------------------------------------------------------------------

    async def _send_steadily(self) -> None:
        begin = monotonic()
        while True:
            self._sent += 1
            await asyncio.sleep(max(0.0, begin + self._sent / self.plan.rate - monotonic()))
            device = self._chance.choice(list(self.present.values()))
            id = f"{device.record.device}.{self._sent}"
            device.send(id, f"{id} {self._chance.choice(FILLERS)}")

    async def _do_asides(self) -> None:
        while True:
            await asyncio.sleep(ASIDE_SECONDS)
            device = self._chance.choice(list(self.present.values()))
            if device.connected:
                what = self._chance.choice((device.read, device.read, device.type, None))
                before = self._chance.randint(1, device.seq + 1)
                self._aside(what() if what is not None else device.look_back(before))

    def _aside(self, what: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(what)
        self._asides.add(task)
        task.add_done_callback(self._done)

    def _done(self, aside: asyncio.Task[None]) -> None:
        """Forget it, unless it failed: then it is found when the load ends."""
        if aside.cancelled() or aside.exception() is None:
            self._asides.discard(aside)

    async def _measure_stalls(self) -> None:
        while True:
            due = monotonic() + STALL_TICK
            await asyncio.sleep(STALL_TICK)
            self.skew = max(self.skew, monotonic() - due)

    def _work(self, *work: Coroutine[Any, Any, None]) -> None:
        self._working += [asyncio.create_task(each) for each in work]

    async def _stop_working(self, *, keep_measuring: bool = False) -> None:
        tasks = [*self._working, *self._asides]
        self._working = []
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await asyncio.gather(*self._leaving)
        if keep_measuring:
            self._work(self._measure_stalls())

    # --- settling ------------------------------------------------------------------------

    async def _unsettled(self, until: float) -> str:
        """Say who is not where they will be when nothing more happens."""
        for device in self.present.values():
            name = device.record.device
            if not device.connected:
                return f"{name} is not connected: {device.trouble}"
            if device.unanswered:
                return f"{name} waits for {device.unanswered} acknowledgements"
            if not device.read_settled:
                return f"{name} waits for its cursor"
        try:
            async with asyncio.timeout_at(self._loop_time(max(until, monotonic() + PONG_SECONDS))):
                newest = await asyncio.gather(
                    *(device.newest() for device in self.present.values())
                )
        except TimeoutError:
            return "the service does not answer a ping"
        known: dict[str, int] = {}
        for seat, seq in zip(self.present, newest, strict=True):
            known[seat.workspace] = max(seq, known.get(seat.workspace, 0))
        for seat, device in self.present.items():  # whose own node may not know it yet
            if device.seq < (seq := known[seat.workspace]):
                return f"{device.record.device} has seen {device.seq} of {seq}"
        return self._wrongly_shown()

    def _wrongly_shown(self) -> str:
        here: dict[str, set[str]] = {}
        for seat in self.present:
            here.setdefault(seat.workspace, set()).add(seat.user)
        for seat, device in self.present.items():
            if wrong := device.online ^ here[seat.workspace]:
                return f"{device.record.device} is shown {', '.join(sorted(wrong))} wrongly"
        return ""

    def _loop_time(self, until: float) -> float:
        return asyncio.get_running_loop().time() + until - monotonic()
