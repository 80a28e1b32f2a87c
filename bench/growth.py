"""Growth: what workspaces that merely exist cost, with one PostgreSQL.

    python -m bench.growth [--existing 10 1000 100000] [--active 1000] [--seconds S] [--json]

Sends go through the service's own committer and store. Saturated is a closed loop: each active
workspace has one send under way, and the next follows when it is on disk, so a batch has one of
each. At a rate is an open loop at half of what that gave, where each send bears the time at which
it was due. Start-up is a node from its start until /readyz says 200, and its memory is USS: its
alone.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import asyncpg
import uvloop

from bench.cluster import postgres, service
from bench.command_line import CommandLine
from bench.machine import Cores, facts, memory_bytes
from bench.member import LoadError
from bench.report import Round, describe, of_rounds, progress, table
from chatservice.committer import Committer, Done, Failed
from chatservice.store import Append
from chatservice.store.postgres import PostgresStore
from tests.postgres_server import PostgresServer

WARM_UP: Final = 2.0
"""Seconds of load before anything is measured."""
TEXT: Final = "x" * 80
EACH: Final = 5
"""Messages in each workspace before anything is measured."""
USERS: Final = [f"user-{number}" for number in range(50)]
TARGET_SENDS: Final = 10_000
TARGET_ACTIVE: Final = 1000
_TICK: Final = 0.001

_WORKSPACES: Final = """
INSERT INTO workspaces (name, epoch, seq, created_ts)
SELECT 'room-' || i, md5(i::text), $2, 0 FROM generate_series(0, $1::int - 1) AS i"""
_MESSAGES: Final = """
INSERT INTO messages (workspace_id, seq, ts, sender, id, name, text)
SELECT w.id, s, 0, 'user-0', 'before-' || s, 'User', repeat('x', 80)
FROM workspaces w, generate_series(1, $1::int) AS s"""
_MEMBERS: Final = """
INSERT INTO members SELECT w.id, 'user-0', 'User', 0 FROM workspaces w"""


async def populate(dsn: str, existing: int) -> None:
    """Make workspaces that exist, each with a few messages and a member."""
    store = PostgresStore(dsn, keep=1000)
    await store.start()  # which makes the tables
    await store.close()
    connection = await asyncpg.connect(dsn)
    await connection.execute(_WORKSPACES, existing, EACH)
    await connection.execute(_MESSAGES, EACH)
    await connection.execute(_MEMBERS)
    await connection.execute("VACUUM ANALYZE")
    await connection.execute("CHECKPOINT")
    await connection.close()


class Sender:
    """Sends through a committer, and times each send until it is on disk."""

    def __init__(self, store: PostgresStore, active: int) -> None:
        self._committer: Committer[tuple[int, float]] = Committer(store, 10**6, self._report)
        self._active = active
        self._refill = False
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._taken: list[float] = []
        self._batches = 0

    def _report(self, batch: Done[tuple[int, float]] | Failed[tuple[int, float]]) -> None:
        if isinstance(batch, Failed):
            if not self._failed.done():
                self._failed.set_exception(LoadError(str(batch.error)))
            return
        now = time.perf_counter()
        self._batches += 1
        for (number, sent), _, _ in batch.appends:
            self._taken.append(now - sent)
            if self._refill:
                self._send(number, now)

    def _send(self, number: int, due: float) -> None:
        user = USERS[number % len(USERS)]
        message = Append(f"room-{number}", user, user, uuid4().hex, TEXT, time.time_ns() // 10**6)
        if not self._committer.append((number, due), message):
            raise LoadError("a million sends wait")

    async def saturate(self, seconds: float) -> Round:
        """Keep one send of each active workspace under way."""
        self._committer.start()
        self._refill = True
        for number in range(self._active):
            self._send(number, time.perf_counter())
        measured = await self._measure(seconds)
        self._refill = False
        await self._committer.drain()
        return measured

    async def at_rate(self, rate: float, seconds: float) -> Round:
        """Send so many a second, on schedule, to each active workspace in turn."""
        schedule = asyncio.ensure_future(self._keep_schedule(rate))
        measured = await self._measure(seconds)
        schedule.cancel()
        await self._committer.drain()
        await self._committer.close()
        return measured

    async def _keep_schedule(self, rate: float) -> None:
        start = time.perf_counter()
        for number in itertools.count():
            due = start + number / rate
            while time.perf_counter() < due:
                await asyncio.sleep(_TICK)
            self._send(number % self._active, due)

    async def _measure(self, seconds: float) -> Round:
        await asyncio.wait([self._failed], timeout=min(WARM_UP, seconds))
        self._taken, self._batches = [], 0
        begun = time.perf_counter()
        await asyncio.wait([self._failed], timeout=seconds)
        took = time.perf_counter() - begun
        if self._failed.done():
            self._failed.result()
        taken = sorted(self._taken)
        if not taken:
            raise LoadError(f"nothing was committed in {seconds:g} s")
        return {
            "sends_per_second": len(taken) / took,
            "commits_per_second": self._batches / took,
            "p50_ms": taken[len(taken) // 2] * 1000,
            "p99_ms": taken[int(0.99 * len(taken))] * 1000,
        }


async def sends(dsn: str, active: int, seconds: float) -> dict[str, Round]:
    """Measure saturated, then at half of that rate."""
    store = PostgresStore(dsn, keep=1000)
    await store.start()
    try:
        sender = Sender(store, active)
        saturated = await sender.saturate(seconds)
        half = await sender.at_rate(saturated["sends_per_second"] / 2, seconds)
    finally:
        await store.close()
    return {"saturated": saturated, "half load": half}


def start_up(directory: Path, dsn: str, cores: Cores) -> Round:
    """Start a node and stop it: how long until it is ready, and what it occupies then."""
    node = service(directory, dsn)
    try:
        with cores.of_server():
            begun = time.perf_counter()
            node.start()
        took = time.perf_counter() - begun
        return {"start_seconds": took, "mib": memory_bytes(node.pid)["uss"] / 2**20}
    finally:
        node.close()


def run(
    arguments: argparse.Namespace, cores: Cores, state_dir: Path, server: PostgresServer
) -> list[dict[str, Any]]:
    """Measure each number of existing workspaces, round by round."""
    databases: dict[int, str] = {}
    for existing in arguments.existing:
        progress(f"making {existing:,} workspaces")
        databases[existing] = server.database()
        uvloop.run(populate(databases[existing], existing))
    rounds: dict[tuple[int, str], list[Round]] = {}
    directories = itertools.count()
    for number, existing in itertools.product(range(arguments.rounds), arguments.existing):
        progress(f"round {number + 1} of {arguments.rounds}: {existing:,} workspaces exist")
        active = min(arguments.active, existing)
        dsn = databases[existing]
        measured = uvloop.run(sends(dsn, active, arguments.seconds))
        measured["start-up"] = start_up(state_dir / str(next(directories)), dsn, cores)
        for what, figures in measured.items():
            rounds.setdefault((existing, what), []).append(figures)
    return [
        {
            "existing": existing,
            "active": min(arguments.active, existing),
            **{
                what.replace(" ", "_").replace("-", "_"): of_rounds(rounds[existing, what])
                for what in ("saturated", "half load", "start-up")
            },
        }
        for existing in arguments.existing
    ]


def verdicts(cells: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Hold what was measured against what we promise."""
    return [
        {
            "what": f"durable sends/s, {cell['active']:,} active of {cell['existing']:,}",
            "target": TARGET_SENDS,
            "got": (got := cell["saturated"]["median"]["sends_per_second"]),
            "met": got >= TARGET_SENDS,
        }
        for cell in cells
        if cell["active"] == TARGET_ACTIVE
    ]


def as_text(cells: Sequence[dict[str, Any]], machine: dict[str, Any], cores: Cores) -> str:
    """Write everything for a person."""
    header = (
        "workspaces exist",
        "active",
        "sends/s",
        "p50 ms",
        "p99 ms",
        "half load: sends/s",
        "p50 ms",
        "p99 ms",
        "start-up s",
        "node MiB",
    )
    rows = []
    for cell in cells:
        full, half = cell["saturated"]["median"], cell["half_load"]["median"]
        start = cell["start_up"]["median"]
        rows.append(
            (
                f"{cell['existing']:,}",
                f"{cell['active']:,}",
                f"{full['sends_per_second']:,.0f}",
                f"{full['p50_ms']:.1f}",
                f"{full['p99_ms']:.1f}",
                f"{half['sends_per_second']:,.0f}",
                f"{half['p50_ms']:.1f}",
                f"{half['p99_ms']:.1f}",
                f"{start['start_seconds']:.2f}",
                f"{start['mib']:.1f}",
            )
        )
    lines = [
        f"{'met' if v['met'] else 'MISSED':6}  {v['what']}: {v['got']:,.0f}, target {v['target']:,}"
        for v in verdicts(cells)
    ]
    return "\n\n".join([describe(machine, cores), table(header, rows), *["\n".join(lines)]])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the bench; give the exit status."""
    line = CommandLine("growth", __doc__)
    line.windows(seconds=5.0, rounds=3)
    line.positive("active", 1000, "at the most (1000)")
    line.add_argument("--existing", nargs="+", type=int, default=[10, 1000, 100_000], metavar="N")
    arguments = line.read(argv)
    if min(arguments.existing) < 1:
        line.error("--existing must be positive")
    cores = Cores(load=1)
    with line.scratch(arguments) as directory:
        machine = facts(directory)
        with postgres(directory / "postgres", cores) as server:
            cells = run(arguments, cores, directory, server)
    if arguments.json:
        found = {"cells": cells, "targets": verdicts(cells)}
        print(line.report(arguments, machine, cores, ("seconds", "rounds"), **found))
    else:
        print(as_text(cells, machine, cores))
    return 0


if __name__ == "__main__":
    sys.exit(main())
