"""Handover: how long members wait while a new process takes their connections.

    python -m bench.handover [--connections N ...] [--handovers N] [--rate N] [--json]

Members sit in rooms of 20 while messages are sent on schedule (open loop: each bears the time at
which it was due, so a stall is charged for all that waited). The process is replaced several times
in a row; every connection must outlive that, and every message must arrive once.

The pause is the process's own: from when the old one read nothing more until the new one read
every connection. The largest delay is a member's: from due to read. Both at their worst.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import uvloop

from bench.command_line import CommandLine
from bench.dialects import Chat
from bench.load import Shape, Swarm
from bench.machine import Cores, facts
from bench.report import describe, progress, table
from bench.servers import LIFTED, TOKEN_SECONDS
from chatservice.auth import sign
from chatservice.control import ask
from chatservice.descriptors import SPARE
from tests.service_process import ServiceProcess

ROOM: Final = 20
TARGET_CONNECTIONS: Final = 5000
TARGET_SECONDS: Final = 0.5
"""What we promise of the pause at so many connections."""
BETWEEN_SECONDS: Final = 1.0
WARM_UP: Final = 1.0

Cell = dict[str, Any]


async def measure(service: ServiceProcess, connections: int, arguments: argparse.Namespace) -> Cell:
    """Have so many members, and replace the process under them again and again."""
    swarm = Swarm(
        Chat(),
        Shape(max(1, connections // ROOM), min(ROOM, connections), 1),
        [service.port],
        functools.partial(_token, service.secret),
        lambda: 0.0,
    )
    await swarm.connect()
    starts: list[dict[str, Any]] = []

    async def replace() -> None:
        await asyncio.sleep(WARM_UP + BETWEEN_SECONDS)
        for _ in range(arguments.handovers):
            await asyncio.to_thread(service.take_over)
            status = await asyncio.to_thread(ask, service.settings.control_socket, "status")
            starts.append(status["last_start"])
            await asyncio.sleep(BETWEEN_SECONDS)

    replacing = asyncio.create_task(replace())
    seconds = BETWEEN_SECONDS + arguments.handovers * (BETWEEN_SECONDS + 1.5)
    measured = await swarm.at_rate(arguments.rate, warm_up=WARM_UP, seconds=seconds)
    await replacing
    swarm.check()
    await swarm.leave()
    pauses = [start["pause_ms"] / 1000 for start in starts]
    return {
        "connections": len(swarm),
        "moved": min(start["moved"] for start in starts),
        "closed": sum(start["dropped"] + start["drained"] for start in starts),
        "pause_median_s": round(statistics.median(pauses), 4),
        "pause_worst_s": round(max(pauses), 4),
        "delay_median_s": round(measured.latency(0.5), 4),
        "delay_worst_s": round(measured.latencies[-1], 4),
        "deliveries": measured.deliveries,
    }


def _token(secret: str, user: str, room: str) -> str:
    return sign(secret, user=user, workspaces=[room], ttl=TOKEN_SECONDS)


def run(arguments: argparse.Namespace, cores: Cores, state_dir: Path) -> list[Cell]:
    """Measure each number of connections with a service of its own."""
    cells = []
    for number, connections in enumerate(arguments.connections):
        progress(f"{connections:,} connections, {arguments.handovers} handovers")
        service = ServiceProcess(state_dir / str(number), overrides=LIFTED)
        try:
            with cores.of_server():
                service.start()
            cells.append(uvloop.run(measure(service, connections, arguments)))
        finally:
            service.close()
    return cells


def verdict(cells: Sequence[Cell]) -> str:
    """Say whether the promise was kept."""
    lines = []
    for cell in cells:
        if cell["connections"] == TARGET_CONNECTIONS:
            met = cell["pause_worst_s"] <= TARGET_SECONDS
            lines.append(
                f"{'met' if met else 'MISSED':6}  worst pause at {TARGET_CONNECTIONS:,} "
                f"connections: {cell['pause_worst_s'] * 1000:.0f} ms, "
                f"target {TARGET_SECONDS * 1000:.0f} ms"
            )
    return "\n".join(lines)


def as_text(cells: Sequence[Cell], machine: dict[str, Any], cores: Cores, note: str) -> str:
    """Write everything for a person."""
    header = ("connections", "closed", "pause", "worst", "largest delay", "median", "deliveries")
    rows = [
        (
            f"{cell['connections']:,}",
            f"{cell['closed']}",
            f"{cell['pause_median_s'] * 1000:.0f} ms",
            f"{cell['pause_worst_s'] * 1000:.0f} ms",
            f"{cell['delay_worst_s'] * 1000:.0f} ms",
            f"{cell['delay_median_s'] * 1000:.1f} ms",
            f"{cell['deliveries']:,}",
        )
        for cell in cells
    ]
    return "\n\n".join((describe(machine, cores), note, table(header, rows), verdict(cells)))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the bench; give its exit status."""
    line = CommandLine("handover", __doc__)
    line.add_argument(
        "--connections", type=int, nargs="+", default=[1000, 5000, 18_000], metavar="N",
        help="members at a time (1000 5000 18000)",
    )  # fmt: skip
    line.positive("handovers", 5, "in a row (5)")
    line.positive("rate", 200.0, "messages a second (200)")
    arguments = line.read(argv)
    cores = Cores()
    machine = facts(arguments.state_dir)
    started = time.monotonic()
    with line.scratch(arguments) as directory:
        cells = run(arguments, cores, directory)
    if arguments.json:
        found = {"cells": cells, "seconds": round(time.monotonic() - started, 1)}
        print(line.report(arguments, machine, cores, ("handovers", "rate"), **found))
        return 0
    note = (
        f"rooms of {ROOM}, {arguments.rate:g} messages/s, {arguments.handovers} handovers in a "
        f"row; {SPARE} descriptors and the half-open are kept free"
    )
    print(as_text(cells, machine, cores, note))
    return 0


if __name__ == "__main__":
    sys.exit(main())
