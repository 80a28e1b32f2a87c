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
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import uvloop

from bench.load import Measured, Shape, Swarm
from bench.machine import Cores, allow_descriptors, cpu_seconds, facts
from bench.member import LoadError
from bench.report import Round, describe, median_of, progress, ratio, rounded, table
from bench.servers import BROADCAST, NAMES, OURS, running
from tests.service_process import ServiceFailed

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


def shape_of(text: str, publishers: int) -> Shape:
    """Read `ROOMSxMEMBERS`.

    Raises:
        ValueError: it is something else.
    """
    rooms, _, members = text.partition("x")
    shape = Shape(int(rooms), int(members), min(publishers, int(members)))
    if shape.rooms < 1 or shape.members < 1:
        raise ValueError(text)
    return shape


def figures(measured: Measured) -> dict[str, float]:
    """Give the figures of one window."""
    return {
        "deliveries_per_second": measured.deliveries / measured.seconds,
        "deliveries_per_cpu_second": measured.deliveries / measured.server_cpu,
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


def as_json(
    cells: Cells, machine: dict[str, Any], cores: Cores, arguments: argparse.Namespace
) -> str:
    """Write everything for a script."""
    return json.dumps(
        {
            "bench": "fanout",
            "machine": machine | {"placement": str(cores)},
            "parameters": {
                key: getattr(arguments, key)
                for key in ("seconds", "rounds", "publishers", "window")
            },
            "cells": [
                {
                    "shape": shape,
                    "load": load,
                    "server": name,
                    "rounds": [rounded(r) for r in rounds],
                    "median": rounded(median_of(rounds)),
                }
                for (shape, load, name), rounds in cells.items()
            ],
            "ratios": ratios(cells),
            "targets": verdicts(cells),
        },
        indent=2,
    )


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="bench.fanout", description=__doc__.splitlines()[0])
    peers = [name for name in NAMES if name != OURS]
    parser.add_argument("--shape", nargs="+", default=list(SHAPES), metavar="ROOMSxMEMBERS")
    parser.add_argument("--seconds", type=float, default=2.5, help="of each window (2.5)")
    parser.add_argument("--rounds", type=int, default=3, help="of which the median counts (3)")
    parser.add_argument("--peers", nargs="*", default=peers, choices=peers)
    parser.add_argument("--publishers", type=int, default=10, help="most in a room (10)")
    parser.add_argument(
        "--window", type=int, default=1, help="messages of one publisher under way (1)"
    )
    parser.add_argument(
        "--state-dir", type=Path, default=Path("/var/tmp"), help="on a real disk (/var/tmp)"
    )
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(argv)
    for text in arguments.shape:
        try:
            shape_of(text, arguments.publishers)
        except ValueError:
            parser.error(f"--shape {text}: expected ROOMSxMEMBERS, 100x10 for example")
    if arguments.seconds <= 0 or min(arguments.rounds, arguments.publishers, arguments.window) < 1:
        parser.error("--seconds, --rounds, --publishers and --window must be positive")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Run the bench; give the exit status."""
    arguments = parse(argv)
    cores = Cores()
    try:
        allow_descriptors()
        with tempfile.TemporaryDirectory(prefix="b-", dir=arguments.state_dir) as scratch:
            state_dir = Path(scratch)
            machine = facts(state_dir)
            cells = run(arguments, cores, state_dir)
    except (LoadError, ServiceFailed, OSError) as error:
        print(f"bench.fanout: {error}", file=sys.stderr)
        return 1
    if arguments.json:
        print(as_json(cells, machine, cores, arguments))
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
