"""Crash: what it costs to keep members' sockets beyond one, and how long the service is away.

    python -m bench.crash [--connections N] [--kills N] [--rounds N] [--json]

The same connections are opened against a service that keeps nothing, and against one whose sockets
a small manager keeps as systemd does (tests/chatservice/keeper.py). The second is killed with -9
while its members are idle, and must come back with every one of them. The manager starts it again
after 50 ms; what is left of the outage is the start of the process and the taking up of its
connections.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import uvloop

from bench.command_line import CommandLine
from bench.dialects import Chat
from bench.load import Shape, Swarm
from bench.machine import Cores, cpu_seconds, facts, memory_bytes
from bench.report import describe, progress, table
from bench.servers import LIFTED, TOKEN_SECONDS
from chatservice.auth import sign
from chatservice.control import ask
from tests.chatservice.keeper import Keeper
from tests.service_process import ServiceProcess

ROOM: Final = 20
FEW: Final = 200
"""Connections that are there before anything is measured."""


def swarm_of(service: ServiceProcess, connections: int, *, first_room: int = 0) -> Swarm:
    """Make a swarm of idle members."""

    def token(user: str, room: str) -> str:
        return sign(service.secret, user=user, workspaces=[room], ttl=TOKEN_SECONDS)

    return Swarm(
        Chat(),
        Shape(connections // ROOM, ROOM, 0),
        [service.port],
        token,
        lambda: 0.0,
        complete=None,
        first_room=first_room,
    )


async def cost(service: ServiceProcess, connections: int) -> tuple[dict[str, float], list[Swarm]]:
    """Open so many connections; give what each took of time and memory."""
    first = swarm_of(service, FEW)
    await first.connect()
    await asyncio.sleep(1.0)
    before, cpu = memory_bytes(service.pid), cpu_seconds(service.pid)
    second = swarm_of(service, connections - FEW, first_room=FEW)
    await second.connect()
    cpu = cpu_seconds(service.pid) - cpu
    await asyncio.sleep(1.0)
    after = memory_bytes(service.pid)
    each = len(second)
    return {
        "cpu_us": cpu / each * 1e6,
        "kib": (after["uss"] - before["uss"]) / each / 1024,
    }, [first, second]


async def kept(keeper: Keeper, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure the cost with a manager, and kill the service under its members."""
    service = keeper.service
    figures, swarms = await cost(service, arguments.connections)
    outages: list[float] = []
    moved: list[int] = []
    await asyncio.to_thread(keeper.settled, arguments.connections)
    for _ in range(arguments.kills):
        started = time.monotonic()
        await asyncio.to_thread(functools.partial(keeper.kill, idle=True))
        outages.append(time.monotonic() - started)
        status = ask(service.settings.control_socket, "status")
        moved.append(status["last_start"]["moved"])
        for swarm in swarms:
            swarm.check()
    for swarm in swarms:
        await swarm.leave()
    return figures | {
        "stayed": min(moved) / arguments.connections,
        "outage_median_s": statistics.median(outages),
        "outage_worst_s": max(outages),
    }


async def plain(service: ServiceProcess, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure the cost without."""
    figures, swarms = await cost(service, arguments.connections)
    for swarm in swarms:
        await swarm.leave()
    return figures


def run(arguments: argparse.Namespace, cores: Cores, state_dir: Path) -> dict[str, dict[str, Any]]:
    """Measure both, round by round; give the medians."""
    rounds: dict[str, list[dict[str, Any]]] = {"plain": [], "kept": []}
    for number in range(arguments.rounds):
        progress(f"round {number + 1} of {arguments.rounds}: without")
        service = ServiceProcess(state_dir / f"p{number}", overrides=LIFTED)
        try:
            with cores.of_server():
                service.start()
            rounds["plain"].append(uvloop.run(plain(service, arguments)))
        finally:
            service.close()
        progress(f"round {number + 1} of {arguments.rounds}: kept")
        directory = state_dir / f"k{number}"
        service = ServiceProcess(directory, overrides=LIFTED)
        with cores.of_server():
            keeper = Keeper(service, directory)
            keeper.__enter__()
        try:
            rounds["kept"].append(uvloop.run(kept(keeper, arguments)))
        finally:
            keeper.__exit__(None, None, None)
    return {name: _median(each) for name, each in rounds.items()}


def _median(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {key: round(statistics.median(r[key] for r in rounds), 4) for key in rounds[0]}


def as_text(figures: dict[str, dict[str, Any]], describe_machine: Callable[[], str]) -> str:
    """Write everything for a person."""
    without, with_it = figures["plain"], figures["kept"]
    rows = [
        ("without", f"{without['cpu_us']:.0f} us", f"{without['kib']:.2f} KiB", "", "", ""),
        (
            "kept",
            f"{with_it['cpu_us']:.0f} us",
            f"{with_it['kib']:.2f} KiB",
            f"{with_it['stayed']:.1%}",
            f"{with_it['outage_median_s'] * 1000:.0f} ms",
            f"{with_it['outage_worst_s'] * 1000:.0f} ms",
        ),
    ]
    header = ("", "CPU a connection", "memory (USS)", "stayed open", "outage", "worst")
    return f"{describe_machine()}\n\n{table(header, rows)}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the bench; give its exit status."""
    line = CommandLine("crash", __doc__)
    line.positive("connections", 2000, "idle members (2000)")
    line.positive("kills", 3, "in a row (3; more are not restored)")
    line.positive("rounds", 3, "of which the median counts (3)")
    arguments = line.read(argv)
    if arguments.connections < FEW + ROOM:
        line.error(f"--connections must be {FEW + ROOM} or more: it compares with {FEW}")
    cores = Cores()
    machine = facts(arguments.state_dir)
    with line.scratch(arguments) as directory:
        figures = run(arguments, cores, directory)
    if arguments.json:
        parameters = ("connections", "kills", "rounds")
        print(line.report(arguments, machine, cores, parameters, cells=figures))
    else:
        print(as_text(figures, functools.partial(describe, machine, cores)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
