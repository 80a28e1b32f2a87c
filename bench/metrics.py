"""What the metrics cost: the service as it is, and the same without counting, in each round.

    python -m bench.metrics [--shape 100x10 ...] [--seconds S] [--rounds N] [--json]

Each in a fresh process on a core of its own, saturated as in `bench.fanout`. `counted` is the
ratio of what it delivers for a CPU-second to what it would deliver without metrics: 0.97 is a cost
of three percent. A scrape is timed beside it, on the process that has just been under load.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import uvloop

from bench.command_line import CommandLine, shape_of
from bench.dialects import Chat
from bench.fanout import figures
from bench.load import Swarm
from bench.machine import Cores, cpu_seconds, facts
from bench.member import LoadError
from bench.report import Round, describe, median_of, of_rounds, progress, ratio, table
from bench.servers import LIFTED, NEVER
from tests.service_process import ServiceProcess

COUNTED: Final = "counted"
UNCOUNTED: Final = "uncounted"
PROGRAMS: Final = {COUNTED: ("-m", "chatservice"), UNCOUNTED: ("-m", "bench.peers.uncounted")}
SHAPES: Final = ("1x1000", "100x10", "1000x2")
WARM_UP: Final = 1.0
SCRAPES: Final = 20
TARGET: Final = 0.95
"""What we promise: metrics cost at most a twentieth of the service's work, in any shape."""


@contextlib.contextmanager
def serving(name: str, directory: Path, cores: Cores) -> Iterator[ServiceProcess]:
    """Run the service, counting or not."""
    service = ServiceProcess(directory, overrides=LIFTED, program=PROGRAMS[name])
    service.configure({"timing": {"heartbeat": NEVER}})
    try:
        with cores.of_server():
            service.start()
        yield service
    finally:
        service.close()


async def measure(
    name: str, text: str, directory: Path, cores: Cores, arguments: argparse.Namespace
) -> Round:
    """Measure one of the two in one shape, and a scrape of it."""
    shape = shape_of(text, arguments.publishers)
    with serving(name, directory, cores) as service:

        def token(user: str, room: str) -> str:
            return service.token(user, room, ttl=NEVER)

        cpu = functools.partial(cpu_seconds, service.pid)
        swarm = Swarm(Chat(), shape, [service.port], token, cpu)
        await swarm.connect()
        try:
            warm_up = min(WARM_UP, arguments.seconds)
            measured = await swarm.saturate(1, warm_up=warm_up, seconds=arguments.seconds)
        finally:
            await swarm.leave()
        return {**figures(measured), "scrape_ms": scrape_ms(service)}


def scrape_ms(service: ServiceProcess) -> float:
    """Time a scrape, as Prometheus makes it; the median of several."""
    seconds = []
    for _ in range(SCRAPES):
        started = time.perf_counter()
        status, body = service.get("/metrics", admin=True)
        seconds.append(time.perf_counter() - started)
        if status != 200 or "chat_messages_total" not in body:
            raise LoadError(f"the admin port answered {status}")
    return statistics.median(seconds) * 1000


def run(
    arguments: argparse.Namespace, cores: Cores, state_dir: Path
) -> dict[tuple[str, str], list[Round]]:
    """Measure both in every shape, round by round; who goes first changes."""
    cells: dict[tuple[str, str], list[Round]] = {}
    directories = itertools.count()
    for number in range(arguments.rounds):
        names = list(PROGRAMS) if number % 2 else list(reversed(PROGRAMS))
        for text in arguments.shape:
            for name in names:
                progress(f"round {number + 1} of {arguments.rounds}: {text}, {name}")
                directory = state_dir / str(next(directories))
                measured = uvloop.run(measure(name, text, directory, cores, arguments))
                cells.setdefault((text, name), []).append(measured)
    return cells


def verdicts(cells: dict[tuple[str, str], list[Round]]) -> list[dict[str, Any]]:
    """Say what counting leaves of the work that a CPU-second does, in each shape."""
    key = "deliveries_per_cpu_second"
    shapes = dict.fromkeys(shape for shape, _ in cells)
    found = []
    for shape in shapes:
        got = ratio(cells[shape, COUNTED], cells[shape, UNCOUNTED], key)
        met = got >= TARGET
        found.append({"shape": shape, "target": TARGET, "got": round(got, 3), "met": met})
    return found


def as_text(cells: dict[tuple[str, str], list[Round]], heading: str) -> str:
    """Write everything for a person."""
    header = ("", "deliveries/s", "per CPU-s", "scrape ms")
    rows = []
    for (shape, name), rounds in cells.items():
        m = median_of(rounds)
        per_second, per_cpu = m["deliveries_per_second"], m["deliveries_per_cpu_second"]
        scrape = f"{m['scrape_ms']:.1f}"
        rows.append((f"{shape} {name}", f"{per_second:,.0f}", f"{per_cpu:,.0f}", scrape))
    lines = [
        f"{'met' if v['met'] else 'MISSED':6}  {v['shape']}: with metrics {v['got']:.3f} of the "
        f"work that a CPU-second does without, target {v['target']:g}"
        for v in verdicts(cells)
    ]
    return "\n\n".join([heading, table(header, rows), "\n".join(lines)])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the bench; give the exit status."""
    line = CommandLine("metrics", __doc__)
    line.shapes(SHAPES)
    line.windows(seconds=2.5, rounds=5)
    arguments = line.read(argv)
    cores = Cores()
    with line.scratch(arguments) as directory:
        machine = facts(directory)
        cells = run(arguments, cores, directory)
    if not arguments.json:
        print(as_text(cells, describe(machine, cores)))
        return 0
    found = {
        "cells": [
            {"shape": shape, "server": name, **of_rounds(rounds)}
            for (shape, name), rounds in cells.items()
        ],
        "targets": verdicts(cells),
    }
    parameters = ("seconds", "rounds", "publishers")
    print(line.report(arguments, machine, cores, parameters, **found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
