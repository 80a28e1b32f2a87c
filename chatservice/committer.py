"""Group commit: what arrives while one commit runs goes into the next.

One transaction is under way at a time, so the order of commits is the order of numbers. Nothing
is acknowledged or fanned out before `Store.commit` has returned, that is, before it is on disk.
(DeWitt et al., "Implementation techniques for main memory database systems", SIGMOD 1984.)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import perf_counter
from typing import Generic, TypeVar

import msgspec

from chatservice.store import (
    Append,
    Appended,
    Cursor,
    MoveCursor,
    Store,
    StoreError,
    StoreErrorKind,
)

Origin = TypeVar("Origin")
"""What the caller needs to know of an operation when it is done."""


class Done(msgspec.Struct, Generic[Origin], frozen=True, gc=False):
    """One batch that is on disk: each operation with its origin and its result.

    `newest` is as in `store.Committed`; `seconds` is how long the commit took.
    """

    appends: list[tuple[Origin, Append, Appended]]
    cursors: list[tuple[Origin, MoveCursor, Cursor]]
    newest: dict[str, int]
    seconds: float


class Failed(msgspec.Struct, Generic[Origin], frozen=True, gc=False):
    """One batch of which nothing is stored, and why."""

    appends: list[tuple[Origin, Append]]
    cursors: list[tuple[Origin, MoveCursor]]
    error: StoreError


class Committer(Generic[Origin]):
    """Collects operations, commits them batch by batch, and reports each batch.

    Args:
        store: where they go.
        capacity: operations that may wait; past that, `append` and `move` refuse.
        report: called on the event loop with each batch, in commit order; must not raise.
    """

    def __init__(
        self,
        store: Store,
        capacity: int,
        report: Callable[[Done[Origin] | Failed[Origin]], None],
    ) -> None:
        self._store = store
        self._capacity = capacity
        self._report = report
        self._appends: list[tuple[Origin, Append]] = []
        self._cursors: list[tuple[Origin, MoveCursor]] = []
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to commit."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="committer")

    async def close(self) -> None:
        """Stop; whatever was not drained before is dropped, unacknowledged."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def drain(self) -> None:
        """Wait until everything that was accepted is committed and reported, or has failed."""
        await self._idle.wait()

    @property
    def full(self) -> bool:
        """Whether nothing more is accepted for now."""
        return len(self._appends) + len(self._cursors) >= self._capacity

    def append(self, origin: Origin, operation: Append) -> bool:
        """Queue a message; False when the queue is full."""
        if self.full:
            return False
        self._appends.append((origin, operation))
        self._notify()
        return True

    def move(self, origin: Origin, operation: MoveCursor) -> bool:
        """Queue a cursor; False when the queue is full."""
        if self.full:
            return False
        self._cursors.append((origin, operation))
        self._notify()
        return True

    def _notify(self) -> None:
        self._idle.clear()
        self._wake.set()

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            appends, self._appends = self._appends, []
            cursors, self._cursors = self._cursors, []
            batch = await self._commit(appends, cursors)
            try:
                self._report(batch)
            except Exception as error:  # a bug; the next batch must not wait for ever
                context = {"message": "a batch could not be reported", "exception": error}
                asyncio.get_running_loop().call_exception_handler(context)
            if not self._wake.is_set():
                self._idle.set()

    async def _commit(
        self,
        appends: list[tuple[Origin, Append]],
        cursors: list[tuple[Origin, MoveCursor]],
    ) -> Done[Origin] | Failed[Origin]:
        started = perf_counter()
        try:
            committed = await self._store.commit(
                [operation for _, operation in appends],
                [operation for _, operation in cursors],
            )
            seconds = perf_counter() - started
            return Done(
                [
                    (origin, operation, result)
                    for (origin, operation), result in zip(appends, committed.appended, strict=True)
                ],
                [
                    (origin, operation, result)
                    for (origin, operation), result in zip(cursors, committed.cursors, strict=True)
                ],
                committed.newest,
                seconds,
            )
        except StoreError as error:
            return Failed(appends, cursors, error)
        except Exception as error:  # a bug: what was sent is refused, and sent again
            why = f"{type(error).__name__}: {error}"
            return Failed(appends, cursors, StoreError(StoreErrorKind.INTERNAL, why))
