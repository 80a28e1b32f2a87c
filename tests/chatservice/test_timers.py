"""The timer wheel calls what is due, within a tick, and turns on whatever happens."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from chatservice.timers import TICK, TimerWheel


class Clock:
    """The part of an event loop that the wheel uses, with time as the test wants it."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.calls: list[tuple[float, Callable[[], None]]] = []
        self.failures: list[BaseException] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], None]) -> Any:
        entry = (when, callback)
        self.calls.append(entry)

        class Handle:
            def cancel(_) -> None:
                self.calls.remove(entry)

        return Handle()

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.failures.append(context["exception"])

    def advance(self, seconds: float, *, late: float = 0.0) -> None:
        """Let time pass; `late`: how much later than asked the loop calls."""
        until = self.now + seconds
        while self.calls and self.calls[0][0] + late <= until:
            when, callback = self.calls.pop(0)
            self.now = max(self.now, when + late)
            callback()
        self.now = until


class Bell:
    """Notes when it was rung, and wants to be rung again as long as `again` says so."""

    def __init__(self, *again: float) -> None:
        self.rung: list[float] = []
        self._again = list(again)

    def on_timer(self, now: float) -> float | None:
        self.rung.append(now)
        return now + self._again.pop(0) if self._again else None


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def lags() -> list[float]:
    return []


@pytest.fixture
def wheel(clock: Clock, lags: list[float]) -> TimerWheel:
    wheel = TimerWheel(cast(asyncio.AbstractEventLoop, clock), lags.append)
    wheel.start()
    return wheel


@pytest.mark.parametrize("delay", [0.0, 0.01, TICK, 1.0, 1.01, 3600.0])
def test_it_calls_not_before_the_time_and_at_most_a_tick_after(
    wheel: TimerWheel, clock: Clock, delay: float
) -> None:
    bell = Bell()
    due = clock.now + delay
    wheel.schedule(bell, due)
    clock.advance(delay + 2 * TICK)
    [rung] = bell.rung
    assert due <= rung <= due + TICK


def test_what_is_overdue_is_called_at_the_next_turn(wheel: TimerWheel, clock: Clock) -> None:
    bell = Bell()
    wheel.schedule(bell, clock.now - 100)
    clock.advance(TICK)
    assert len(bell.rung) == 1


def test_what_wants_to_be_called_again_is(wheel: TimerWheel, clock: Clock) -> None:
    bell = Bell(1.0, 2.0)
    wheel.schedule(bell, clock.now + 1.0)
    start = clock.now
    clock.advance(60)
    assert [rung - start for rung in bell.rung] == [
        pytest.approx(1.0, abs=TICK),
        pytest.approx(2.0, abs=2 * TICK),
        pytest.approx(4.0, abs=3 * TICK),
    ]


def test_one_that_always_wants_to_be_called_now_does_not_hold_the_turn_up(
    wheel: TimerWheel, clock: Clock
) -> None:
    bell = Bell(*[0.0] * 1000)
    wheel.schedule(bell, clock.now)
    clock.advance(4 * TICK)
    assert len(bell.rung) == 4


def test_a_failure_is_reported_and_the_wheel_turns_on(wheel: TimerWheel, clock: Clock) -> None:
    class Broken:
        def on_timer(self, now: float) -> float | None:
            raise ValueError("broken")

    same_slot, later = Bell(), Bell()
    wheel.schedule(Broken(), clock.now + 1)
    wheel.schedule(same_slot, clock.now + 1)
    wheel.schedule(later, clock.now + 2)
    clock.advance(5)
    assert [str(error) for error in clock.failures] == ["broken"]
    assert len(same_slot.rung) == len(later.rung) == 1


def test_after_a_stall_everything_is_made_up_for(
    wheel: TimerWheel, clock: Clock, lags: list[float]
) -> None:
    bells = [Bell() for _ in range(20)]
    for index, bell in enumerate(bells):
        wheel.schedule(bell, clock.now + index * 0.3)
    clock.advance(10, late=7.0)
    assert all(len(bell.rung) == 1 for bell in bells)
    assert max(lags) == pytest.approx(7.0)


def test_a_stopped_wheel_calls_nothing(wheel: TimerWheel, clock: Clock) -> None:
    bell = Bell()
    wheel.schedule(bell, clock.now + 1)
    wheel.stop()
    wheel.stop()
    clock.advance(10)
    assert bell.rung == []
    assert clock.calls == []
