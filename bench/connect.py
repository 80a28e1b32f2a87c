"""Connections: how many handshakes a second, and the memory that an idle one costs.

    python -m bench.connect [--connections N N] [--handshakes N] [--rounds N] [--peers ...] [--json]

A handshake is the upgrade request with a token (HS256), the room, and its first frame: with the
chat service that is `welcome`, after it durably noted that the user has been there and read what
they missed. The peers check the same token, and store nothing. Keep-alive is on everywhere.

Memory is what the server process grows by from the first number of idle connections to the
second, divided by the difference, so that what it needs without any does not count.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import itertools
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import uvloop

from bench.command_line import CommandLine
from bench.load import Shape, Swarm
from bench.machine import Cores, cpu_seconds, facts, memory_bytes
from bench.report import Round, describe, median_of, of_rounds, progress, ratio, table
from bench.servers import NAMES, OURS, Running, running

ROOM: Final = 10
"""Members a room. What a room costs is part of what a connection costs."""
TARGET_KIB: Final = 8.0
"""What we promise of a connection of ours."""
SETTLE_SECONDS: Final = 1.0
"""How long the server is left alone before its memory is read."""

Rounds = dict[str, list[Round]]


def swarm_of(server: Running, connections: int, *, first_room: int = 0) -> Swarm:
    """Make a swarm whose members all read everything, and so answer the server's pings."""
    return Swarm(
        server.dialect,
        Shape(max(1, connections // ROOM), min(ROOM, connections), 0),
        [server.port],
        server.token,
        functools.partial(cpu_seconds, server.pid),
        complete=None,
        first_room=first_room,
    )


async def handshakes(server: Running, count: int) -> dict[str, float]:
    """Open so many connections as fast as the server takes them; close them again."""
    swarm = swarm_of(server, count)
    started, cpu = time.perf_counter(), cpu_seconds(server.pid)
    await swarm.connect()
    seconds, cpu = time.perf_counter() - started, cpu_seconds(server.pid) - cpu
    await swarm.leave()
    return {
        "handshakes_per_second": len(swarm) / seconds,
        "handshakes_per_cpu_second": len(swarm) / cpu,
    }


async def memory(server: Running, few: int, many: int) -> dict[str, float]:
    """Hold few connections, then many; give what each further one took."""
    first = swarm_of(server, few)
    await first.connect()
    await asyncio.sleep(SETTLE_SECONDS)
    before = memory_bytes(server.pid)
    second = swarm_of(server, many - few, first_room=few)
    await second.connect()
    await asyncio.sleep(SETTLE_SECONDS)
    after = memory_bytes(server.pid)
    for swarm in (first, second):
        swarm.check()
        await swarm.leave()
    return {
        f"{kind}_kib_per_connection": (after[kind] - before[kind]) / len(second) / 1024
        for kind in before
    }


async def measure(
    name: str, directory: Path, cores: Cores, arguments: argparse.Namespace
) -> dict[str, float]:
    """Measure one server: handshakes, then memory in a process that has done nothing yet."""
    with running(name, directory / "h", cores, keep_alive=True) as server:
        await (warm := swarm_of(server, ROOM)).connect()
        await warm.leave()
        speed = await handshakes(server, arguments.handshakes)
    with running(name, directory / "m", cores, keep_alive=True) as server:
        return speed | await memory(server, *arguments.connections)


def run(arguments: argparse.Namespace, cores: Cores, state_dir: Path) -> Rounds:
    """Measure everything, round by round; who goes first in a round changes."""
    servers = [OURS, *arguments.peers]
    rounds: Rounds = {}
    directories = itertools.count()
    for number in range(arguments.rounds):
        first = number % len(servers)
        for name in servers[first:] + servers[:first]:
            progress(f"round {number + 1} of {arguments.rounds}: {name}")
            directory = state_dir / str(next(directories))  # short: a socket's path is in it
            measured = uvloop.run(measure(name, directory, cores, arguments))
            rounds.setdefault(name, []).append(measured)
    return rounds


def as_text(rounds: Rounds, machine: dict[str, Any], cores: Cores, note: str) -> str:
    """Write everything for a person."""
    header = ("", "handshakes/s", "per CPU-s", "KiB each (USS)", "KiB each (PSS)", "ours is")
    rows = []
    for name in NAMES:
        if name not in rounds:
            continue
        m = median_of(rounds[name])
        rows.append(
            (
                name,
                f"{m['handshakes_per_second']:,.0f}",
                f"{m['handshakes_per_cpu_second']:,.0f}",
                f"{m['uss_kib_per_connection']:.1f}",
                f"{m['pss_kib_per_connection']:.1f}",
                "" if name == OURS else _compared(rounds, name),
            )
        )
    ours = median_of(rounds[OURS])["uss_kib_per_connection"]
    verdict = f"{'met' if ours <= TARGET_KIB else 'MISSED':6}  "
    verdict += f"KiB a connection: {ours:.2f}, target {TARGET_KIB:g}"
    return "\n\n".join((describe(machine, cores), note, table(header, rows), verdict))


def _compared(rounds: Rounds, name: str) -> str:
    speed = ratio(rounds[OURS], rounds[name], "handshakes_per_cpu_second")
    size = ratio(rounds[OURS], rounds[name], "uss_kib_per_connection")
    return f"{speed:.2f}x as fast per CPU, {size:.2f}x the memory"


def compared(rounds: Rounds) -> dict[str, Any]:
    """Give what a script gets: every server, ours beside each peer, and the target."""
    ours = median_of(rounds[OURS])["uss_kib_per_connection"]
    what = "KiB a connection (USS)"
    return {
        "cells": [{"server": name, **of_rounds(of_server)} for name, of_server in rounds.items()],
        "ratios": [
            {"peer": name}
            | {key: round(ratio(rounds[OURS], of_peer, key), 2) for key in of_peer[0]}
            for name, of_peer in rounds.items()
            if name != OURS
        ],
        "targets": [{"what": what, "target": TARGET_KIB, "got": ours, "met": ours <= TARGET_KIB}],
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the bench; give the exit status."""
    line = CommandLine("connect", __doc__)
    peers = [name for name in NAMES if name != OURS]
    line.add_argument(
        "--connections", type=int, nargs=2, default=[1000, 5000], metavar="N",
        help="idle ones held when memory is read, twice (1000 5000)",
    )  # fmt: skip
    line.positive("handshakes", 2000, "timed together (2000)")
    line.positive("rounds", 3, "of which the median counts (3)")
    line.add_argument("--peers", nargs="*", default=peers, choices=peers)
    arguments = line.read(argv)
    few, many = arguments.connections
    if any(number % ROOM or number < ROOM for number in (few, many, arguments.handshakes)):
        line.error(f"--connections and --handshakes must be multiples of {ROOM}")
    if few >= many:
        line.error("--connections must grow")
    cores = Cores()
    with line.scratch(arguments) as directory:
        machine = facts(directory)
        rounds = run(arguments, cores, directory)
    if arguments.json:
        parameters = ("connections", "handshakes", "rounds")
        print(line.report(arguments, machine, cores, parameters, room=ROOM, **compared(rounds)))
        return 0
    note = f"rounds: {arguments.rounds}, medians; rooms of {ROOM}; all on 127.0.0.1"
    print(as_text(rounds, machine, cores, note))
    return 0


if __name__ == "__main__":
    sys.exit(main())
