"""What goes wrong with a service under load: each a coroutine that ends when it is over."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import resource
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from time import monotonic

from chatservice.protocol import ErrorCode, Welcome
from tests.chaos.history import Record, Vantage
from tests.chaos.summary import errors_in
from tests.service_process import REPOSITORY, ServiceFailed, ServiceProcess

TAKE_OVER_SECONDS = 0.5
"""A take-over is cut short at any moment of it, or just after. On a quick machine it takes 0.25."""

HESITANT = ("-m", "tests.chaos.broken", "hesitates_to_confirm")
PROGRESS_SECONDS = 60.0


class Disruptions:
    """Does things to one service, and counts them.

    Args:
        service: it runs, and does so again after each disruption.
        seed: decides when and in which order.
        records: what the load that the service is under has seen so far.
    """

    def __init__(self, service: ServiceProcess, seed: int, records: Sequence[Record]) -> None:
        self.service = service
        self._records = records
        self.chance = random.Random(seed)
        self.done: Counter[str] = Counter()
        self.timeline: list[tuple[float, str]] = []
        """What was begun when, in seconds from the beginning."""
        self._begin = monotonic()

    def _note(self, what: str) -> None:
        self.done[what] += 1
        self.timeline.append((monotonic() - self._begin, what))

    async def calm(self, least: float, most: float) -> None:
        """Leave the service alone for a random time between two numbers of seconds."""
        await asyncio.sleep(self.chance.uniform(least, most))

    async def progress(self, count: int) -> None:
        """Leave the service alone until so many more messages are acknowledged.

        Raises:
            TimeoutError: they were not.
        """
        goal = acknowledged(self._records) + count
        await self.until(lambda records: acknowledged(records) >= goal)

    async def refused(self, count: int) -> None:
        """Leave the service alone until so many requests were refused for now, from the beginning.

        Raises:
            TimeoutError: they were not.
        """
        await self.until(lambda records: errors_in(records)[ErrorCode.UNAVAILABLE] >= count)

    async def everybody(self, count: int) -> None:
        """Leave the service alone until so many devices have been let in.

        Raises:
            TimeoutError: they were not.
        """
        await self.until(lambda records: _let_in(records) >= count)

    async def until(self, happened: Callable[[Sequence[Record]], bool]) -> None:
        """Leave the service alone until something is on the record.

        Raises:
            TimeoutError: it did not happen.
        """
        async with asyncio.timeout(PROGRESS_SECONDS):
            while not happened(self._records):
                await asyncio.sleep(0.05)

    async def kill(self, *, ready: bool = True) -> None:
        """Kill -9, and start again on the same ports; without `ready`, it need not serve yet."""
        self._note("kill -9")
        await asyncio.to_thread(self.service.kill)
        await asyncio.to_thread(self.service.start, ready=ready)

    async def recovered(self) -> None:
        """Wait until the service says that it is ready."""
        await asyncio.to_thread(self.service.wait_ready)

    async def restart(self) -> None:
        """SIGTERM, and start again on the same ports."""
        self._note("SIGTERM")
        await asyncio.to_thread(self.service.restart)

    async def take_over(self) -> None:
        """Let a new process relieve the running one."""
        self._note("take-over")
        await asyncio.to_thread(self.service.take_over)

    async def cut_take_over_short(self, *, hesitant: bool = False) -> None:
        """Kill -9 the process that takes over, at any moment: whoever was relieved comes back.

        Before the new one has confirmed, the old one must serve on by itself; after that nobody
        is left, as after any crash, and it is started again.

        Args:
            hesitant: have it hesitate to confirm, and be killed then.
        """
        self._note("take-over killed")
        service = self.service
        program = HESITANT if hesitant else service.program
        argv = [*program, "serve", "--settings", str(service.settings_file), "--take-over"]
        with service.log_file.open("ab") as log:
            new = subprocess.Popen(
                [sys.executable, *argv],
                cwd=REPOSITORY,
                env=os.environ | service.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        await self.calm(hesitant * 1.0, hesitant * 1.0 + TAKE_OVER_SECONDS)
        new.kill()
        await asyncio.to_thread(new.wait)
        await asyncio.to_thread(self._carry_on)

    def _carry_on(self) -> None:
        try:
            self.service.wait_ready()
        except ServiceFailed:
            if self.service.returncode != 0:
                raise
            self.service.start()

    async def freeze(self, seconds: float) -> None:
        """SIGSTOP, and SIGCONT later."""
        self._note("SIGSTOP")
        pid = self.service.pid
        os.kill(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            os.kill(pid, signal.SIGCONT)

    # --- a store in trouble, for as long as the context lasts ----------------------------

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Have somebody else hold the database's write lock."""
        self._note("database locked")
        with closing(sqlite3.connect(self.service.settings.database)) as database:
            database.execute("BEGIN IMMEDIATE")
            yield
            database.rollback()

    @contextlib.contextmanager
    def full_disk(self) -> Iterator[None]:
        """Leave no byte on the file system that holds the database; it should be a small one."""
        self._note("disk full")
        filler = Path(self.service.settings.service.state_dir) / "filler"
        try:
            with filler.open("wb", buffering=0) as file:
                for size in (65536, 1):
                    with contextlib.suppress(OSError):
                        while True:
                            file.write(bytes(size))
            yield
        finally:
            filler.unlink()

    @contextlib.contextmanager
    def failing_writes(self) -> Iterator[None]:
        """Have writes past a certain size of a file fail, in the middle of some commit.

        By RLIMIT_FSIZE (setrlimit(2)); what was written up to there remains. A process that is
        started meanwhile writes freely.
        """
        self._note("writes failing")
        pid = self.service.pid
        log = self.service.settings.database.with_name("chat.db-wal")
        before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        limit = log.stat().st_size + self.chance.randrange(100_000)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (limit, before[1]))
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


def acknowledged(records: Sequence[Record]) -> int:
    """Count the acknowledgements on record."""
    return sum(1 for record in records for _ in record.acks)


def _let_in(records: Sequence[Record]) -> int:
    """Count the devices with a welcome on record, each once, however often it came."""
    return len(
        {
            record.device.partition("#")[0]
            for record in records
            if record.vantage is not Vantage.EVENTS
            and any(isinstance(event.frame, Welcome) for event in record.received())
        }
    )
