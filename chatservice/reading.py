"""What rooms read from the store: each call counted and timed, and what is missing read again.

A call that fails has the store checked; where the store says that it holds another history, the
rooms that the call was about are compared with it, and replaced.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
from time import perf_counter
from typing import Final, TypeVar

from chatservice.actions import Fetch, Recount
from chatservice.fanout import LiveRoom
from chatservice.health import StoreHealth
from chatservice.logs import get_logger
from chatservice.metrics import Metrics
from chatservice.store import Cursor, Store, StoreError, StoreErrorKind, WorkspaceState
from chatservice.tasks import Tasks

log = get_logger("reading")

REACH_SECONDS: Final = 5.0
"""How long a client from another node waits for what it saw there, before it reloads."""
CATCH_UP_SECONDS: Final = 5.0
"""How long members wait after a crash for a store that does not answer."""
FETCH_RETRY_SECONDS: Final = 0.5
"""How long after a failure what a room misses is read again."""

Result = TypeVar("Result")


class Reading:
    """Reads for rooms: what they miss, and whether the store still holds their history.

    Args:
        store: where it is read.
        health: is told of calls that failed.
        metrics: where calls are counted and timed.
        find: gives a room in memory by its workspace.
        replaced: is told of a room whose history the store no longer holds.
    """

    def __init__(
        self,
        store: Store,
        health: StoreHealth,
        metrics: Metrics,
        *,
        find: Callable[[str], LiveRoom | None],
        replaced: Callable[[LiveRoom], None],
    ) -> None:
        self._store = store
        self._health = health
        self._metrics = metrics
        self._find = find
        self._replaced = replaced
        self._tasks = Tasks()
        self._missing: dict[LiveRoom, Fetch] = {}
        self._fetching: asyncio.Task[None] | None = None
        self._verifying: asyncio.Task[None] | None = None
        self._running = asyncio.Event()
        self._running.set()

    def freeze(self) -> None:
        """Change no room, as another process goes on from where they stand."""
        self._running.clear()

    def thaw(self) -> None:
        """Undo `freeze`: what was read meanwhile is published."""
        self._running.set()

    def close(self) -> None:
        """Read no more."""
        self._tasks.cancel()

    # --- calls of the store --------------------------------------------------------------

    async def measured(
        self, operation: str, call: Callable[[], Awaitable[Result]], *concerned: LiveRoom
    ) -> Result:
        """Call the store, counting and timing the call; `concerned` is the room it is about.

        Raises:
            StoreError: as the store raised it; the health check has been told.
        """
        started = perf_counter()
        try:
            result = await call()
        except StoreError as error:
            self.failed(operation, error, *concerned)
            raise
        self._metrics.storage[operation, "ok"].inc()
        self._metrics.storage_duration[operation].observe(perf_counter() - started)
        return result

    def failed(self, operation: str, error: StoreError, *concerned: LiveRoom) -> None:
        """Count a failed call of the store, and have the store, or the rooms, checked."""
        self._metrics.storage[operation, "error"].inc()
        if error.kind is StoreErrorKind.STALE:
            for live in concerned:
                self._tasks.spawn(self._compare(live))
            return
        if error.kind is StoreErrorKind.INTERNAL:
            log.error("bug in the store", operation=operation, reason=str(error))
        self._health.failed(error)

    async def state(self, workspace: str, *concerned: LiveRoom) -> WorkspaceState:
        """Read where a workspace stands.

        Raises:
            StoreError: it cannot be read.
        """
        return await self.measured("open", partial(self._store.open, workspace), *concerned)

    async def _compare(self, live: LiveRoom) -> None:
        """See whether the store still holds the history that the room goes on from.

        It does not when a backup was restored, or the workspace was deleted.
        """
        try:
            state = await self.state(live.room.workspace)
        except StoreError:
            return
        await self._running.wait()
        if state.epoch != live.room.epoch:
            self._replaced(live)

    # --- what a room finds missing -------------------------------------------------------

    def begin(self, live: LiveRoom, action: Fetch | Recount) -> None:
        """Begin to read what a room calls for; it is told what was found."""
        if isinstance(action, Fetch):
            self._missing[live] = action
            if self._fetching is None or self._fetching.done():
                self._fetching = self._tasks.spawn(self._fetch())
        else:
            self._tasks.spawn(self._recount(live, action))

    async def reach(self, live: LiveRoom, seq: int) -> None:
        """Wait until a room has published up to a number that it reads already, or for a while."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(REACH_SECONDS):
                # Where reading is over and the number not reached, the room was replaced.
                while live.room.seq < seq and self._fetching and not self._fetching.done():
                    await asyncio.shield(self._fetching)

    async def _fetch(self) -> None:
        """Read what rooms miss, all of them together, until it is there.

        Nothing is published past a gap, so a failure is tried again.
        """
        while self._missing:
            missing = {live: fetch for live, fetch in self._missing.items() if not live.stale}
            self._missing.clear()
            wanted = [(live.room.workspace, f.after, f.upto) for live, f in missing.items()]
            try:
                found = await self.measured(
                    "since", partial(self._store.since_each, wanted), *missing
                )
            except StoreError:
                self._missing = missing | self._missing
                await asyncio.sleep(FETCH_RETRY_SECONDS)
                continue
            await self._running.wait()
            for (live, fetch), messages in zip(missing.items(), found, strict=True):
                if messages and messages[0].seq == fetch.after + 1:
                    live.carry_out(live.room.fetched(messages))
                else:  # it is out of history already
                    self._replaced(live)

    async def _recount(self, live: LiveRoom, action: Recount) -> None:
        workspace, upto = live.room.workspace, action.upto
        cursor: Cursor | None = None
        try:
            entry = await self.measured(
                "enter",
                lambda: self._store.enter(
                    workspace, action.user, action.name, upto=upto, after=upto, newest=0
                ),
                live,
            )
            cursor = entry.cursor
        except StoreError:
            pass
        await self._running.wait()
        live.carry_out(live.room.recounted(action.user, cursor))

    # --- rooms of another process --------------------------------------------------------

    def verify(self, rooms: Sequence[LiveRoom]) -> None:
        """Begin to see whether the store holds the histories that these rooms go on from.

        What was stored and not published before a crash is published now.
        """
        self._verifying = self._tasks.spawn(self._verify(rooms))

    async def caught_up(self, rooms: Collection[LiveRoom]) -> None:
        """Wait until `verify` is through and these rooms miss nothing more, or for a while."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CATCH_UP_SECONDS):
                if self._verifying is not None:
                    await asyncio.wait([self._verifying])
                while any(live.room.behind for live in rooms):  # noqa: ASYNC110
                    await asyncio.sleep(0.002)

    async def _verify(self, rooms: Sequence[LiveRoom]) -> None:
        for live in rooms:
            workspace = live.room.workspace
            while self._find(workspace) is live:
                try:
                    state = await self.state(workspace, live)
                except StoreError:
                    await asyncio.sleep(FETCH_RETRY_SECONDS)
                    continue
                await self._running.wait()
                if state.epoch != live.room.epoch:
                    self._replaced(live)
                else:
                    live.carry_out(live.room.noticed(state.seq))
                break
