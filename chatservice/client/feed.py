"""What a client has received, for those who read it at their own pace.

A bounded history of frames: one reader takes them in order (`events`), others wait for a certain
one (`wait_for`). Nobody who reads too slowly makes the client stop receiving; it is told how many
frames it lost instead.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice

from chatservice.protocol import ServerFrame


class LaggedError(Exception):
    """Frames were received faster than read, and the oldest `lost` of them are gone."""

    def __init__(self, lost: int) -> None:
        super().__init__(f"{lost} frames came faster than they were read, and are gone")
        self.lost = lost


class Feed:
    """The last `size` frames. The first ever has the index 0; `end` is that of the next."""

    def __init__(self, size: int) -> None:
        self._frames: deque[ServerFrame] = deque(maxlen=size)
        self._waiters: set[asyncio.Future[None]] = set()
        self._next_read = 0
        self.end = 0
        self.ended: Exception | None = None
        """Why nothing more comes; None as long as more may come."""

    @property
    def start(self) -> int:
        """The index of the oldest frame that is kept."""
        return self.end - len(self._frames)

    def append(self, frame: ServerFrame) -> None:
        """Take in one frame."""
        self._frames.append(frame)
        self.end += 1
        self._wake()

    def finish(self, why: Exception) -> None:
        """Nothing more comes; readers get `why` after the last frame."""
        if self.ended is None:
            self.ended = why
            self._wake()

    async def next(self) -> ServerFrame:
        """Give the frame after the one given last; the place is shared by all callers.

        Raises:
            LaggedError: frames in between are gone; the next call goes on with the oldest kept.
            Exception: what `finish` was told.
        """
        while True:
            if self._next_read < self.start:
                lost = self.start - self._next_read
                self._next_read = self.start
                raise LaggedError(lost)
            if self._next_read < self.end:
                frame = self._frames[self._next_read - self.start]
                self._next_read += 1
                return frame
            await self._more()

    async def find(self, predicate: Callable[[ServerFrame], bool], since: int) -> ServerFrame:
        """Give the first frame from index `since` on that fits, as soon as it is there.

        Raises:
            Exception: what `finish` was told, when none of the kept frames fits.
        """
        while True:
            for frame in self.since(since):
                if predicate(frame):
                    return frame
            since = max(since, self.end)
            await self._more()

    def since(self, index: int) -> Iterator[ServerFrame]:
        """Give the kept frames from an index on; nothing may be appended meanwhile."""
        return islice(self._frames, max(index - self.start, 0), None)

    async def _more(self) -> None:
        """Wait for the next `append`.

        Raises:
            Exception: what `finish` was told.
        """
        if self.ended is not None:
            raise self.ended.with_traceback(None)
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
