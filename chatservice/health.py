"""Whether the store takes writes, watched all the time; it turns green again by itself."""

from __future__ import annotations

import asyncio
from time import perf_counter

from chatservice.logs import get_logger
from chatservice.metrics import Metrics
from chatservice.store import Store, StoreError, StoreErrorKind

log = get_logger("health")

INTERVAL = 5.0
"""Seconds between two checks of a store that works."""
RETRY = 0.5
"""Seconds between two checks of one that does not."""


class StoreHealth:
    """Keeps the verdict on the store. `reason` says, for a person, why it is not `ok`."""

    def __init__(self, store: Store, metrics: Metrics) -> None:
        self._store = store
        self._metrics = metrics
        self._started = False
        self._recheck = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.ok = False
        self.reason = "the store is not started yet"
        self.kind: StoreErrorKind | None = None
        """What kind of failure that is, where it is one."""

    @property
    def readable(self) -> bool:
        """Whether what is stored can be read: a full disk alone keeps nobody from that."""
        return self._started and self.kind in (None, StoreErrorKind.FULL)

    async def start(self) -> None:
        """Start the store and begin to watch it.

        Raises:
            StoreError: it does not start yet, or takes no writes. It is watched all the same, and
                tried again.
        """
        try:
            await self._probe()
        finally:
            self._task = asyncio.get_running_loop().create_task(self._watch(), name="store health")

    async def close(self) -> None:
        """Watch no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def failed(self, error: StoreError) -> None:
        """A call of the store failed: refuse sends until a check succeeds."""
        self._verdict(error)
        self._recheck.set()

    async def _watch(self) -> None:
        while True:
            try:
                async with asyncio.timeout(INTERVAL if self.ok else RETRY):
                    await self._recheck.wait()
                await asyncio.sleep(RETRY)  # a failing store is asked twice a second, not more
            except TimeoutError:
                pass
            self._recheck.clear()
            try:
                await self._probe()
            except StoreError:
                continue

    async def _probe(self) -> None:
        try:
            if not self._started:
                await self._store.start()
                self._started = True
            started = perf_counter()
            await self._store.check()
        except StoreError as error:
            self._metrics.storage["check", "error"].inc()
            self._verdict(error)
            raise
        except Exception as error:  # a bug; the watch must go on
            self._metrics.storage["check", "error"].inc()
            failure = StoreError(StoreErrorKind.INTERNAL, f"{type(error).__name__}: {error}")
            self._verdict(failure)
            raise failure from error
        self._metrics.storage["check", "ok"].inc()
        self._metrics.storage_duration["check"].observe(perf_counter() - started)
        self._verdict(None)

    def _verdict(self, error: StoreError | None) -> None:
        ok = error is None
        reason = "" if error is None else str(error)
        if ok != self.ok or reason != self.reason:
            if error is None:
                log.info("the store takes writes")
            else:
                log.error("the store refuses; sends are refused", kind=error.kind, reason=reason)
        self.ok = ok
        self.reason = reason
        self.kind = error.kind if error is not None else None
        self._metrics.store_up.set(1 if ok else 0)
