"""Commits: how many batches and messages a second the SQLite store makes durable.

    python bench/store.py [--seconds S] [--rounds N] [--state-dir DIR] [--json]

One caller commits batch after batch and waits for each, as the server does: so a batch of 1 is
the latency of a commit, and larger ones are what group commit makes of a backlog. Messages have
80 characters and random ids; 50 users write. In one workspace history is full, so that each
commit prunes what it adds; over 1,000 workspaces each begins with 100 messages, which makes the
pages to be written many, and each row costs a few of them.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import uvloop

from bench.machine import filesystem, fsync_seconds
from bench.report import Round, median_of, progress, rounded, table
from chatservice.store import Append
from chatservice.store.sqlite import SqliteStore

BATCHES: Final = (1, 10, 100, 1000)
WORKSPACES: Final = (1, 1000)
KEEP: Final = 1000
FILL: Final = {1: KEEP, 1000: 100}
"""Messages in each workspace before anything is measured."""
TEXT: Final = "x" * 80
USERS: Final = [f"user-{number}" for number in range(50)]

Cell = tuple[int, int]
"""Workspaces and batch size."""


def traffic(workspaces: Sequence[str]) -> Iterator[Append]:
    """Give messages without end, to each workspace in turn."""
    turns = zip(itertools.cycle(workspaces), itertools.cycle(USERS), itertools.count())
    for workspace, user, number in turns:
        yield Append(workspace, user, user, uuid4().hex, TEXT, 1_700_000_000_000 + number)


async def fill(store: SqliteStore, workspaces: Sequence[str]) -> None:
    """Open the workspaces, and write the messages that they begin with."""
    await asyncio.gather(*(store.open(workspace) for workspace in workspaces))
    messages = traffic(workspaces)
    total = FILL[len(workspaces)] * len(workspaces)
    for _ in range(total // 1000):
        await store.commit(list(itertools.islice(messages, 1000)), [])


async def measure(
    store: SqliteStore, workspaces: Sequence[str], batch: int, seconds: float
) -> Round:
    """Commit for so long; what it takes to make up the messages is not counted."""
    messages = traffic(workspaces)
    taken: list[float] = []
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline or not taken:
        appends = list(itertools.islice(messages, batch))
        started = time.perf_counter()
        committed = await store.commit(appends, [])
        taken.append(time.perf_counter() - started)
        assert len(committed.appended) == batch
    taken.sort()
    rate = len(taken) / sum(taken)
    return {
        "commits_per_second": rate,
        "messages_per_second": rate * batch,
        "p50_ms": 1000 * statistics.median(taken),
        "p99_ms": 1000 * taken[int(0.99 * len(taken))],
    }


async def run(arguments: argparse.Namespace, directory: Path) -> dict[Cell, list[Round]]:
    """Measure each cell in each round; the machine's moods then hit all of them."""
    names = {count: [f"room-{number}" for number in range(count)] for count in WORKSPACES}
    stores: dict[int, SqliteStore] = {}
    for count in WORKSPACES:
        progress(f"writing what {count:,} workspaces begin with")
        stores[count] = SqliteStore(directory / f"{count}.db", keep=KEEP, busy_timeout=5)
        await stores[count].start()
        await fill(stores[count], names[count])
    rounds: dict[Cell, list[Round]] = {}
    for number in range(arguments.rounds):
        progress(f"round {number + 1} of {arguments.rounds}")
        for count, batch in itertools.product(WORKSPACES, BATCHES):
            measured = await measure(stores[count], names[count], batch, arguments.seconds)
            rounds.setdefault((count, batch), []).append(measured)
    for store in stores.values():
        await store.close()
    return rounds


def as_text(rounds: dict[Cell, list[Round]], disk: dict[str, Any]) -> str:
    """Write everything for a person."""
    header = ("workspaces", "batch", "commits/s", "messages/s", "p50 ms", "p99 ms")
    rows = []
    for (count, batch), measured in rounds.items():
        m = median_of(measured)
        rows.append(
            (
                f"{count:,}",
                f"{batch:,}",
                f"{m['commits_per_second']:,.0f}",
                f"{m['messages_per_second']:,.0f}",
                f"{m['p50_ms']:.2f}",
                f"{m['p99_ms']:.2f}",
            )
        )
    note = f"database on {disk['filesystem']}, one fsync takes {disk['fsync_ms']:g} ms"
    return f"{note}\n\n{table(header, rows)}"


def as_json(
    rounds: dict[Cell, list[Round]], disk: dict[str, Any], arguments: argparse.Namespace
) -> str:
    """Write everything for a script."""
    cells = [
        {
            "workspaces": count,
            "batch": batch,
            "rounds": [rounded(each) for each in measured],
            "median": rounded(median_of(measured)),
        }
        for (count, batch), measured in rounds.items()
    ]
    parameters = {"seconds": arguments.seconds, "rounds": arguments.rounds}
    report = {"bench": "store", "disk": disk, "parameters": parameters, "cells": cells}
    return json.dumps(report, indent=2)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="bench/store.py", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=1.5, help="for each figure (1.5)")
    parser.add_argument("--rounds", type=int, default=3, help="of which the median counts (3)")
    parser.add_argument(
        "--state-dir", type=Path, default=Path("/var/tmp"), help="on a real disk (/var/tmp)"
    )
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(argv)
    if arguments.seconds <= 0 or arguments.rounds < 1:
        parser.error("--seconds must be above 0, and --rounds at least 1")
    if not arguments.state_dir.is_dir():
        parser.error(f"--state-dir: {arguments.state_dir} is no directory")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and print what was measured."""
    arguments = parse(argv)
    with tempfile.TemporaryDirectory(dir=arguments.state_dir, prefix="bench-") as name:
        directory = Path(name)
        disk = {
            "filesystem": filesystem(directory),
            "fsync_ms": round(fsync_seconds(directory) * 1000, 3),
        }
        rounds = uvloop.run(run(arguments, directory))
    print(as_json(rounds, disk, arguments) if arguments.json else as_text(rounds, disk))
    return 0


if __name__ == "__main__":
    sys.exit(main())
