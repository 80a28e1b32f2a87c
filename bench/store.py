"""Commits: how many batches and messages a second the SQLite store makes durable.

    python -m bench.store [--seconds S] [--rounds N] [--state-dir DIR] [--json]

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
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import uvloop

from bench.command_line import CommandLine
from bench.machine import facts
from bench.report import Round, median_of, of_rounds, progress, table
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


def as_text(rounds: dict[Cell, list[Round]], machine: dict[str, Any]) -> str:
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
    note = f"database on {machine['filesystem']}, one fsync takes {machine['fsync_ms']:g} ms"
    return f"{note}\n\n{table(header, rows)}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the bench; give the exit status."""
    line = CommandLine("store", __doc__)
    line.positive("seconds", 1.5, "for each figure (1.5)")
    line.positive("rounds", 3, "of which the median counts (3)")
    arguments = line.read(argv)
    with line.scratch(arguments) as directory:
        machine = facts(directory)
        rounds = uvloop.run(run(arguments, directory))
    if arguments.json:
        cells = [
            {"workspaces": count, "batch": batch, **of_rounds(figures)}
            for (count, batch), figures in rounds.items()
        ]
        print(line.report(arguments, machine, None, ("seconds", "rounds"), cells=cells))
    else:
        print(as_text(rounds, machine))
    return 0


if __name__ == "__main__":
    sys.exit(main())
