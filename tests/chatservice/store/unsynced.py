"""A process whose disk fails to sync for a while (`failing_sync.c`).

    FAILING_SYNC=FLAG LD_PRELOAD=failing_sync.so python unsynced.py DATABASE FLAG

Prints "well" when everything was as it should be, and then waits to be killed.
"""

import asyncio
import sys
import time
from collections.abc import Awaitable
from pathlib import Path

from chatservice.store import Append, StoreError, StoreErrorKind
from chatservice.store.sqlite import SqliteStore


async def failure_of(call: Awaitable[object]) -> StoreErrorKind | None:
    try:
        await call
    except StoreError as error:
        return error.kind
    return None


async def main(database: Path, flag: Path) -> None:
    def message(id: str) -> Append:
        return Append("w", "ann", "Ann", id, "text", 1)

    async def assert_holds(*expected: str) -> None:
        assert [found.id for found in await store.since("w", 0, 99)] == list(expected)

    store = SqliteStore(database, keep=1000, busy_timeout=5)
    await store.start()
    await store.open("w")
    await store.commit([message("before")], [])
    for attempt in range(3):
        flag.touch()
        refused = [message(f"refused-{attempt}-{part}") for part in "ab"]
        assert await failure_of(store.commit(refused, [])) is StoreErrorKind.IO
        assert await failure_of(store.check()) is StoreErrorKind.IO
        await assert_holds("before", *(f"after-{earlier}" for earlier in range(attempt)))
        flag.unlink()
        if attempt:
            await store.check()
        [appended] = (await store.commit([message(f"after-{attempt}")], [])).appended
        assert appended.seq == attempt + 2, appended
    await assert_holds("before", "after-0", "after-1", "after-2")
    print("well", flush=True)
    time.sleep(600)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2])))
