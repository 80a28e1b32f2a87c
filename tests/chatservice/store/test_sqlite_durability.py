"""What was acknowledged survives: a killed process, a disk that fails to sync."""

from __future__ import annotations

import os
import random
import select
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.chatservice.store.conftest import SqliteFactory

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[2]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(REPOSITORY)}


def commit_until_killed(database: Path, run: int, least: int) -> list[list[str]]:
    """Have a process commit, kill it at some moment, and give the batches it saw acknowledged."""
    chance = random.Random(run)
    lines: list[bytes] = []
    with subprocess.Popen(
        [sys.executable, str(HERE / "committing.py"), str(database), str(run)],
        stdout=subprocess.PIPE,
        env=ENVIRONMENT,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if len(lines) == least:
                break
        select.select([], [], [], chance.random() / 5)  # some moment; whatever it is just doing
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.readlines()
    assert len(lines) >= least
    if not lines[-1].endswith(b"\n"):
        lines.pop()  # killed while it said so
    return [line.decode().split() for line in lines]


async def test_a_killed_process_loses_nothing_it_acknowledged(
    database: Path, sqlite_store: SqliteFactory
) -> None:
    """Kill -9 in the middle of commits, again and again on the same database."""
    acknowledged: set[str] = set()
    for run in range(6):
        for batch in commit_until_killed(database, run, least=30):
            acknowledged.update(batch)
        store = sqlite_store(keep=1_000_000)
        await store.start()
        await store.check()
        stored: set[str] = set()
        parts: dict[str, set[str]] = {}
        for workspace in ("w", "v"):
            found = await store.since(workspace, 0, 10**9)
            assert [message.seq for message in found] == list(range(1, len(found) + 1))
            assert (await store.open(workspace)).seq == len(found)
            stored.update(message.id for message in found)
            assert len({message.id for message in found}) == len(found)
        for id in stored:
            batch_name, part = id.rsplit("-", 1)
            parts.setdefault(batch_name, set()).add(part)
        assert acknowledged <= stored
        for batch_name, present in parts.items():
            assert len(present) == int(batch_name.rsplit("-", 1)[1]), f"{batch_name} is not whole"
        # What was stored and not acknowledged is at most what was under way: a batch a writer.
        assert len({id.rsplit("-", 1)[0] for id in stored - acknowledged}) <= 4 * (run + 1)
        await store.close()
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


@pytest.fixture(scope="module")
def failing_disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that makes system calls fail on demand."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler, to make fsync and pread fail")
    library = tmp_path_factory.mktemp("library") / "failing_disk.so"
    source = HERE / "failing_disk.c"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True
    )
    return library


def on_failing_disk(library: Path, what: str, database: Path) -> None:
    """Run `on_failing_disk.py`, and kill it when it is satisfied."""
    flag = str(database.with_name("failing"))
    environment = {f"FAILING_{what.upper()}": flag, "LD_PRELOAD": str(library)}
    with subprocess.Popen(
        [sys.executable, str(HERE / "on_failing_disk.py"), what, str(database)],
        stdout=subprocess.PIPE,
        env=ENVIRONMENT | environment,
    ) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        process.kill()
    assert said == b"well\n"


async def test_a_disk_that_fails_to_sync(
    failing_disk: Path, database: Path, sqlite_store: SqliteFactory
) -> None:
    """What could not be synced was not stored, and does not come back, not even after a crash."""
    on_failing_disk(failing_disk, "sync", database)
    store = sqlite_store()
    await store.start()
    found = await store.since("w", 0, 99)
    assert [message.id for message in found] == ["before", "after-0", "after-1", "after-2"]
    assert [message.seq for message in found] == [1, 2, 3, 4]


def test_a_disk_that_fails_to_read(failing_disk: Path, database: Path) -> None:
    on_failing_disk(failing_disk, "read", database)
