"""Many nodes: fan-out with 1, 2 and 4 nodes on one PostgreSQL, beside one node on SQLite.

    python -m bench.nodes [--shape 1x1000 ...] [--nodes 1 2 4] [--seconds S] [--rounds N] [--json]

All of them in each round, one after the other. The members of every room are dealt out over the
nodes, so that with two nodes every message crosses from one to the other. Nodes and PostgreSQL
share the cores that the load does not have: with two cores that is one, and more nodes then show
what they cost, not what they win.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import uvloop

from bench.cluster import Cluster, cluster, postgres
from bench.command_line import CommandLine, shape_of
from bench.dialects import Chat
from bench.fanout import HALF, SATURATED, Cells, of_cells
from bench.load import Measured, Shape, Swarm
from bench.machine import Cores, facts
from bench.report import Round, describe, median_of, progress, table
from tests.postgres_server import PostgresServer

SHAPES: Final = ("1x1000", "100x10", "1000x2")
SQLITE: Final = "SQLite, 1 node"
WARM_UP: Final = 1.0
"""Seconds of load before anything is measured."""


def label(nodes: int) -> str:
    """Name a column."""
    return f"PostgreSQL, {nodes} node{'s' * (nodes > 1)}"


class Meter:
    """What the database used of the CPU, beside what the swarm measures."""

    def __init__(self, servers: Cluster) -> None:
        self._servers = servers
        self.restart()

    def restart(self) -> None:
        """Begin anew."""
        self._since = time.perf_counter(), self._servers.database_cpu()

    def share(self) -> float:
        """Give the CPU seconds of the database in each second since then."""
        begun, cpu = self._since
        return (self._servers.database_cpu() - cpu) / (time.perf_counter() - begun)


def figures(measured: Measured, shape: Shape, database: float) -> Round:
    """Give the figures of one window."""
    return {
        "messages_per_second": measured.deliveries / measured.seconds / shape.members,
        "deliveries_per_second": measured.deliveries / measured.seconds,
        "deliveries_per_cpu_second": measured.per_cpu_second,
        "p50_ms": measured.latency(0.50) * 1000,
        "p99_ms": measured.latency(0.99) * 1000,
        "server_cpu": measured.server_cpu / measured.seconds,
        "database_cpu": database,
        "load_cpu": measured.load_cpu / measured.seconds,
    }


async def measure(
    servers: Cluster, shape: Shape, arguments: argparse.Namespace
) -> dict[str, Round]:
    """Measure saturated, then at half of the rate that this gave."""
    swarm = Swarm(Chat(), shape, servers.ports, servers.token, servers.cpu)
    await swarm.connect()
    meter = Meter(servers)
    warm_up = min(WARM_UP, arguments.seconds)
    try:
        saturated = await swarm.saturate(
            arguments.window, warm_up=warm_up, seconds=arguments.seconds
        )
        first = figures(saturated, shape, meter.share())
        meter.restart()
        half = await swarm.at_rate(
            first["messages_per_second"] / 2, warm_up=warm_up, seconds=arguments.seconds
        )
        second = figures(half, shape, meter.share())
    finally:
        await swarm.leave()
    return {SATURATED: first, HALF: second}


def run(
    arguments: argparse.Namespace, cores: Cores, state_dir: Path, server: PostgresServer
) -> Cells:
    """Measure everything, round by round; who goes first in a round changes."""
    columns = [(SQLITE, 0), *((label(count), count) for count in arguments.nodes)]
    cells: Cells = {}
    directories = itertools.count()
    for number in range(arguments.rounds):
        first = number % len(columns)
        for text in arguments.shape:
            shape = shape_of(text, arguments.publishers)
            for name, count in columns[first:] + columns[:first]:
                progress(f"round {number + 1} of {arguments.rounds}: {shape}, {name}")
                directory = state_dir / str(next(directories))
                database, dsn = (server, server.database()) if count else (None, "")
                with cluster(directory, cores, max(1, count), database, dsn) as servers:
                    loads = uvloop.run(measure(servers, shape, arguments))
                for load, measured in loads.items():
                    cells.setdefault((text, load, name), []).append(measured)
    return cells


def as_text(cells: Cells, machine: dict[str, Any], cores: Cores, notes: Sequence[str]) -> str:
    """Write everything for a person."""
    parts = [describe(machine, cores), *notes]
    header = (
        "",
        "messages/s",
        "deliveries/s",
        "per CPU-s",
        "p50 ms",
        "p99 ms",
        "all servers' CPU",
        "database CPU",
        "load CPU",
    )
    for shape, load in dict.fromkeys((shape, load) for shape, load, _ in cells):
        rows = []
        for name in dict.fromkeys(name for *_, name in cells):
            m = median_of(cells[shape, load, name])
            rows.append(
                (
                    name,
                    f"{m['messages_per_second']:,.0f}",
                    f"{m['deliveries_per_second']:,.0f}",
                    f"{m['deliveries_per_cpu_second']:,.0f}",
                    f"{m['p50_ms']:.1f}",
                    f"{m['p99_ms']:.1f}",
                    f"{m['server_cpu']:.0%}",
                    f"{m['database_cpu']:.0%}",
                    f"{m['load_cpu']:.0%}",
                )
            )
        rows.sort(key=lambda row: (row[0] != SQLITE, row[0]))
        parts.append(f"{shape}, {load}\n{table(header, rows)}")
    return "\n\n".join(parts)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the bench; give the exit status."""
    line = CommandLine("nodes", __doc__)
    line.shapes(SHAPES)
    line.windows(seconds=2.5, rounds=3)
    line.positive("window", 1, "messages of one publisher under way (1)")
    line.add_argument("--nodes", nargs="+", type=int, default=[1, 2, 4], metavar="N")
    arguments = line.read(argv)
    if min(arguments.nodes) < 1:
        line.error("--nodes must be positive")
    cores = Cores(load=1)
    with line.scratch(arguments) as directory:
        machine = facts(directory)
        with postgres(directory / "postgres", cores) as server:
            cells = run(arguments, cores, directory, server)
    if arguments.json:
        parameters = ("seconds", "rounds", "publishers", "window", "nodes")
        print(line.report(arguments, machine, cores, parameters, cells=of_cells(cells)))
        return 0
    notes = [
        f"rounds: {arguments.rounds}, medians; {arguments.seconds:g} s for each load; up to "
        f"{arguments.publishers} members of a room publish, each with {arguments.window} under "
        "way\neverything is durable; nodes and PostgreSQL share the servers' cores"
    ]
    print(as_text(cells, machine, cores, notes))
    return 0


if __name__ == "__main__":
    sys.exit(main())
