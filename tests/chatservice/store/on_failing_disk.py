"""A process whose disk fails for a while (`failing_disk.c`).

    FAILING_SYNC=FLAG FAILING_READ=FLAG LD_PRELOAD=failing_disk.so \\
        python on_failing_disk.py (sync|read) DATABASE

Prints "well" when everything was as it should be, and then waits to be killed.
"""

import asyncio
import os
import sys
import time
from collections.abc import Awaitable
from pathlib import Path

from chatservice.store import Append, StoreError, StoreErrorKind
from chatservice.store.sqlite import SqliteStore


def message(id: str) -> Append:
    return Append("w", "ann", "Ann", id, "text" * 100, 1)


async def failure_of(call: Awaitable[object]) -> StoreErrorKind | None:
    try:
        await call
    except StoreError as error:
        return error.kind
    return None


async def sync(store: SqliteStore) -> None:
    """What could not be synced was not stored; the next commit takes its place."""
    flag = Path(os.environ["FAILING_SYNC"])
    expected = ["before"]
    await store.commit([message("before")], [])
    for attempt in range(3):
        flag.touch()
        refused = [message(f"refused-{attempt}-{part}") for part in "ab"]
        assert await failure_of(store.commit(refused, [])) is StoreErrorKind.IO
        assert await failure_of(store.check()) is StoreErrorKind.IO
        assert [found.id for found in await store.since("w", 0, 99)] == expected
        flag.unlink()
        if attempt:
            await store.check()
        expected.append(f"after-{attempt}")
        [appended] = (await store.commit([message(expected[-1])], [])).appended
        assert appended.seq == len(expected), appended
    assert [found.id for found in await store.since("w", 0, 99)] == expected


async def read(store: SqliteStore) -> None:
    """Reads fail while the disk does, each by itself, and no longer."""
    flag = Path(os.environ["FAILING_READ"])
    await store.commit([message(str(number)) for number in range(400)], [])
    flag.touch()
    calls = [store.since("w", 0, 400), store.history("w", 400, 400), store.check()]
    kinds = await asyncio.gather(*(failure_of(call) for call in calls))
    assert kinds == [StoreErrorKind.IO] * 3, kinds
    flag.unlink()
    await store.check()
    assert len(await store.since("w", 0, 400)) == 400


async def main(what: str, database: Path) -> None:
    store = SqliteStore(database, keep=1000, busy_timeout=5)
    await store.start()
    await store.open("w")
    await {"sync": sync, "read": read}[what](store)
    print("well", flush=True)
    time.sleep(600)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
