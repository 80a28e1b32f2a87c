"""One timer wheel for all connections: a dictionary of due ticks, instead of a task each.

Scheduling is O(1). Entries are not removed when a connection closes or its deadline moves: what
is called then finds nothing to do. (Varghese and Lauck, "Hashed and hierarchical timing wheels",
SOSP 1987, scheme 4.)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

TICK: Final = 0.25
"""Seconds between two turns of the wheel, and so the precision of every deadline."""


class Timed(Protocol):
    """Something that wants to be called at a time."""

    def on_timer(self, now: float) -> float | None:
        """Do what is due; give the time of the next call, or None for none."""


class TimerWheel:
    """Calls `on_timer` of whatever was scheduled, at most `TICK` seconds late."""

    def __init__(self, loop: asyncio.AbstractEventLoop, on_lag: Callable[[float], None]) -> None:
        self._loop = loop
        self._on_lag = on_lag
        self._slots: dict[int, list[Timed]] = {}
        self._turned = int(loop.time() / TICK)
        self._handle: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to turn."""
        self._handle = self._loop.call_at((self._turned + 1) * TICK, self._turn)

    def stop(self) -> None:
        """Turn no more."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def schedule(self, timed: Timed, when: float) -> None:
        """Call `timed.on_timer` at `when`, in seconds of the loop's clock."""
        slot = max(int(when / TICK) + 1, self._turned + 1)
        self._slots.setdefault(slot, []).append(timed)

    def _turn(self) -> None:
        now = self._loop.time()
        self._on_lag(max(0.0, now - (self._turned + 1) * TICK))
        current = int(now / TICK)
        for slot in range(self._turned + 1, current + 1):
            self._turned = slot
            for timed in self._slots.pop(slot, ()):
                try:
                    due = timed.on_timer(now)
                except Exception as error:  # a bug; the wheel must turn on for everybody else
                    context = {"message": "a timer failed", "exception": error}
                    self._loop.call_exception_handler(context)
                    continue
                if due is not None:
                    self.schedule(timed, due)
        self._handle = self._loop.call_at((current + 1) * TICK, self._turn)
