"""Which workspaces make most of the work, in bounded memory; never a label of a metric.

Heavy hitters are counted as in "Space-Saving" (Metwally, Agrawal and El Abbadi, "Efficient
Computation of Frequent and Top-k Elements in Data Streams", ICDT 2005): of at most so many
workspaces at a time, one that comes anew begins with the count of those that were dropped for it.
So no count is ever too low, and none is too high by more than `error`.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Final

import msgspec

CAPACITY: Final = 1024
"""Workspaces that are counted at a time; about 200 bytes each, four times."""
PERIOD: Final = 300.0
"""Seconds after which counting begins anew; what is told covers one to two of these."""
RANKS: Final = ("messages", "bytes", "connections")
MOST: Final = 100


class Sketch:
    """Counts the heaviest of any number of keys."""

    __slots__ = ("_capacity", "_counts", "floor")

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._counts: dict[str, int] = {}
        self.floor = 0
        """What a dropped key may have counted; so what any count may be too high by."""

    def add(self, key: str, count: int) -> None:
        """Count something of a key."""
        counts = self._counts
        known = counts.get(key)
        if known is not None:
            counts[key] = known + count
            return
        if len(counts) >= 2 * self._capacity:  # half go at once: a sort in a thousand calls
            ordered = sorted(counts.items(), key=lambda item: item[1], reverse=True)
            self.floor = max(self.floor, ordered[self._capacity][1])
            self._counts = counts = dict(ordered[: self._capacity])
        counts[key] = self.floor + count

    def get(self, key: str) -> int:
        """Give what a key counts; 0 when it is none of the heavy."""
        return self._counts.get(key, 0)

    def keys(self) -> Iterable[str]:
        """Give the keys that are counted now."""
        return self._counts.keys()


class Rank(msgspec.Struct, frozen=True):
    """One workspace: what it did lately, and its connections now."""

    workspace: str
    messages: int
    bytes: int
    connections: int


class Ranking(msgspec.Struct, frozen=True):
    """The first workspaces by one measure.

    `seconds` is how far back messages and bytes go; `error` by how much a count may be too high.
    """

    by: str
    seconds: float
    error: int
    workspaces: list[Rank]


class Top:
    """Counts messages and bytes of workspaces, over the last five to ten minutes."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._turned = self._began = clock()
        self._now = (Sketch(), Sketch())
        self._before = (Sketch(), Sketch())
        self._connections: Callable[[], dict[str, int]] = dict

    def measure_connections(self, connections: Callable[[], dict[str, int]]) -> None:
        """Say how the connections of each workspace are known; called for each ranking."""
        self._connections = connections

    def count(self, workspace: str, messages: int, size: int) -> None:
        """Count messages of a workspace, and the bytes that they were to all members."""
        if self._clock() - self._turned > PERIOD:
            self._turn()
        self._now[0].add(workspace, messages)
        self._now[1].add(workspace, size)

    def _turn(self) -> None:
        now = self._clock()
        idle = now - self._turned > 2 * PERIOD
        self._began = now if idle else self._turned
        self._before = (Sketch(), Sketch()) if idle else self._now
        self._now = (Sketch(), Sketch())
        self._turned = now

    def ranking(self, by: str, limit: int) -> Ranking:
        """Give the first workspaces by one of `RANKS`."""
        if self._clock() - self._turned > PERIOD:
            self._turn()
        connections = self._connections()
        index = 1 if by == "bytes" else 0
        if by == "connections":
            names: Iterable[str] = connections
        else:
            names = {*self._now[index].keys(), *self._before[index].keys()}
        ranks = (
            Rank(name, self._sum(0, name), self._sum(1, name), connections.get(name, 0))
            for name in names
        )
        first = heapq.nlargest(
            min(limit, MOST), ranks, key=lambda rank: (getattr(rank, by), rank.workspace)
        )
        error = self._now[index].floor + self._before[index].floor
        return Ranking(by, round(self._clock() - self._began, 3), error, first)

    def _sum(self, index: int, name: str) -> int:
        return self._now[index].get(name) + self._before[index].get(name)
