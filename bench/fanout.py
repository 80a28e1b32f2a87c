"""Fan-out: how many messages a second reach their members, at which cost and how late.

    python -m bench.fanout [--shape 1x1000 ...] [--seconds S] [--rounds N] [--peers ...] [--json]

The chat service, durable (SQLite, fsync before anything leaves), beside two peers that store
nothing: rooms on `broadcast()` of the websockets library, and rooms of python-socketio. All of
them in each round, one after the other, each in a fresh process on a core of its own.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import uvloop

from bench.command_line import CommandLine, shape_of
from bench.load import Measured, Shape, Swarm
from bench.machine import Cores, cpu_seconds, facts
from bench.report import Round, describe, median_of, of_rounds, progress, ratio, table
from bench.servers import BROADCAST, NAMES, OURS, running

SHAPES: Final = ("1x1000", "100x10", "1000x2")
SATURATED: Final = "saturated"
HALF: Final = "half load"
WARM_UP: Final = 1.0
"""Seconds of load before anything is measured."""
TARGETS: Final = {"1x1000": 5.0, "100x10": 1.5}
"""What we promise: deliveries per CPU-second, saturated, as a multiple of `broadcast()`'s."""
TARGET_P99_MS: Final = 20.0
"""What we promise of the largest room at half load."""

Cells = dict[tuple[str, str, str], list[Round]]
"""The rounds of a shape, a load and a server."""


def figures(measured: Measured) -> dict[str, float]:
    """Give the figures of one window."""
    return {
        "deliveries_per_second": measured.deliveries / measured.seconds,
        "deliveries_per_cpu_second": measured.per_cpu_second,
        "p50_ms": measured.latency(0.50) * 1000,
        "p99_ms": measured.latency(0.99) * 1000,
        "server_cpu": measured.server_cpu / measured.seconds,
        "load_cpu": measured.load_cpu / measured.seconds,
    }


async def measure(
    name: str, shape: Shape, directory: Path, cores: Cores, arguments: argparse.Namespace
) -> dict[str, Round]:
    """Measure one server in one shape: saturated, then at half of the rate that this gave."""
    with running(name, directory, cores) as server:
        cpu = functools.partial(cpu_seconds, server.pid)
        swarm = Swarm(server.dialect, shape, [server.port], server.token, cpu)
        await swarm.connect()
        try:
            warm_up = min(WARM_UP, arguments.seconds)
            saturated = await swarm.saturate(
                arguments.window, warm_up=warm_up, seconds=arguments.seconds
            )
            rate = saturated.deliveries / saturated.seconds / shape.members / 2
            half = await swarm.at_rate(rate, warm_up=warm_up, seconds=arguments.seconds)
        finally:
            await swarm.leave()
    return {SATURATED: figures(saturated), HALF: figures(half)}


def run(arguments: argparse.Namespace, cores: Cores, state_dir: Path) -> Cells:
    """Measure everything, round by round; who goes first in a round changes."""
    servers = [OURS, *arguments.peers]
    cells: Cells = {}
    directories = itertools.count()
    for number in range(arguments.rounds):
        first = number % len(servers)
        for text in arguments.shape:
            shape = shape_of(text, arguments.publishers)
            for name in servers[first:] + servers[:first]:
                progress(f"round {number + 1} of {arguments.rounds}: {shape}, {name}")
                directory = state_dir / str(next(directories))  # short: a socket's path is in it
                loads = uvloop.run(measure(name, shape, directory, cores, arguments))
                for load, measured in loads.items():
                    cells.setdefault((text, load, name), []).append(measured)
    return cells


def ratios(cells: Cells) -> list[dict[str, Any]]:
    """Compare ours with each peer, in each shape and load."""
    return [
        {
            "shape": shape,
            "load": load,
            "peer": name,
            **{
                key: round(ratio(cells[shape, load, OURS], rounds, key), 2)
                for key in ("deliveries_per_second", "deliveries_per_cpu_second")
            },
        }
        for (shape, load, name), rounds in cells.items()
        if name != OURS
    ]


def verdicts(cells: Cells) -> list[dict[str, Any]]:
    """Hold what was measured against what we promise."""
    found: list[dict[str, Any]] = []
    for shape, target in TARGETS.items():
        if (shape, SATURATED, BROADCAST) in cells:
            key = "deliveries_per_cpu_second"
            ours, theirs = cells[shape, SATURATED, OURS], cells[shape, SATURATED, BROADCAST]
            got = ratio(ours, theirs, key)
            what = f"{shape}, saturated, per CPU-second, against broadcast()"
            found.append({"what": what, "target": target, "got": got, "met": got >= target})
    if (SHAPES[0], HALF, OURS) in cells:
        p99 = median_of(cells[SHAPES[0], HALF, OURS])["p99_ms"]
        what = f"{SHAPES[0]}, half load, p99 in ms"
        met = p99 < TARGET_P99_MS
        found.append({"what": what, "target": TARGET_P99_MS, "got": p99, "met": met})
    return found


def as_text(cells: Cells, machine: dict[str, Any], cores: Cores, notes: Sequence[str]) -> str:
    """Write everything for a person."""
    parts = [describe(machine, cores), *notes]
    compared = {(r["shape"], r["load"], r["peer"]): r for r in ratios(cells)}
    header = (
        "",
        "deliveries/s",
        "per CPU-s",
        "p50 ms",
        "p99 ms",
        "server CPU",
        "load CPU",
        "ours per CPU-s",
    )
    for shape, load in dict.fromkeys((shape, load) for shape, load, _ in cells):
        rows = []
        for name in NAMES:
            if (shape, load, name) not in cells:
                continue
            m = median_of(cells[shape, load, name])
            against = compared.get((shape, load, name))
            rows.append(
                (
                    name,
                    f"{m['deliveries_per_second']:,.0f}",
                    f"{m['deliveries_per_cpu_second']:,.0f}",
                    f"{m['p50_ms']:.1f}",
                    f"{m['p99_ms']:.1f}",
                    f"{m['server_cpu']:.0%}",
                    f"{m['load_cpu']:.0%}",
                    f"{against['deliveries_per_cpu_second']:.2f}x" if against else "",
                )
            )
        parts.append(f"{shape}, {load}\n{table(header, rows)}")
    lines = [
        f"{'met' if v['met'] else 'MISSED':6}  {v['what']}: {v['got']:.2f}, target {v['target']:g}"
        for v in verdicts(cells)
    ]
    if lines:
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def of_cells(cells: Cells) -> list[dict[str, Any]]:
    """Give what a script gets of every cell."""
    return [
        {"shape": shape, "load": load, "server": name, **of_rounds(rounds)}
        for (shape, load, name), rounds in cells.items()
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the bench; give the exit status."""
    line = CommandLine("fanout", __doc__)
    peers = [name for name in NAMES if name != OURS]
    line.shapes(SHAPES)
    line.windows(seconds=2.5, rounds=3)
    line.positive("window", 1, "messages of one publisher under way (1)")
    line.add_argument("--peers", nargs="*", default=peers, choices=peers)
    arguments = line.read(argv)
    cores = Cores()
    with line.scratch(arguments) as directory:
        machine = facts(directory)
        cells = run(arguments, cores, directory)
    if arguments.json:
        parameters = ("seconds", "rounds", "publishers", "window")
        found = {"cells": of_cells(cells), "ratios": ratios(cells), "targets": verdicts(cells)}
        print(line.report(arguments, machine, cores, parameters, **found))
        return 0
    notes = [
        f"rounds: {arguments.rounds}, medians; {arguments.seconds:g} s for each load; up to "
        f"{arguments.publishers} members of a room publish, each with {arguments.window} under "
        "way\nchatservice is durable, the others store nothing"
    ]
    print(as_text(cells, machine, cores, notes))
    return 0


if __name__ == "__main__":
    sys.exit(main())
