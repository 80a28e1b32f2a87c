"""A process that commits without end, and says what was acknowledged. To be killed.

    python committing.py DATABASE ROUND

Prints one line for each batch that was acknowledged: the ids of its messages. An id is made of
the round, the writer, the batch, how many messages the batch has, and which of them it is.
"""

import asyncio
import itertools
import random
import sys
from pathlib import Path

from chatservice.store import Append, MoveCursor
from chatservice.store.sqlite import SqliteStore

WORKSPACES = ("w", "v")


async def main(database: Path, run: str) -> None:
    store = SqliteStore(database, keep=1_000_000, busy_timeout=5)
    await store.start()
    for workspace in WORKSPACES:
        await store.open(workspace)

    async def commit(writer: int) -> None:
        chance = random.Random(f"{run}-{writer}")
        for number in itertools.count():
            size = chance.randrange(1, 9)
            batch = []
            for part in range(size):
                id, text = f"{run}-{writer}-{number}-{size}-{part}", "x" * chance.randrange(3000)
                batch.append(Append(chance.choice(WORKSPACES), "ann", "Ann", id, text, 1))
            await store.commit(batch, [MoveCursor("w", f"user-{writer}", number)])
            print(*(append.id for append in batch), flush=True)

    await asyncio.gather(*(commit(writer) for writer in range(4)))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
