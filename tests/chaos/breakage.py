"""Ways to break a history that was perfect, one fault each, for the tests of the checker."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TypeGuard, TypeVar

from chatservice.protocol import (
    Message,
)
from tests.chaos.checker import Fault, Stored
from tests.chaos.history import (
    Event,
    Received,
    Record,
    Vantage,
)
from tests.chaos.world import World

T = TypeVar("T")


class NotHere(Exception):
    """The history has no place that can be broken in this way."""


@dataclass
class Case:
    """A finished run, as the checker will get it."""

    world: World
    records: list[Record]
    stored: list[Stored]
    chance: random.Random

    def pick(self, places: Iterator[T]) -> T:
        """Choose one of the places that fit."""
        found = list(places)
        if not found:
            raise NotHere
        return self.chance.choice(found)

    def raw(self) -> Iterator[Record]:
        """Records of raw devices."""
        return (record for record in self.records if record.vantage is Vantage.RAW)

    def places(self, kind: type[T], raw: bool = True) -> Iterator[tuple[Record, int, T]]:
        """Give where frames of one kind were received, by raw devices: records and indexes."""
        for record in self.raw() if raw else self.records:
            for index, event in enumerate(record.events):
                if isinstance(event, Received) and isinstance(event.frame, kind):
                    yield record, index, event.frame

    def in_store(self, change: Callable[[Stored], Stored]) -> None:
        """Change what all sources of a workspace that is not empty hold."""
        full = self.pick(each.workspace for each in self.stored if len(each.messages) > 3)
        self.stored = [change(each) if each.workspace == full else each for each in self.stored]


def put(record: Record, index: int, frame: object) -> None:
    """Have another frame come in the place of one."""
    event = record.events[index]
    assert isinstance(event, Received)
    record.events[index] = replace(event, frame=frame)  # type: ignore[arg-type]


def add(record: Record, index: int, event: Event) -> None:
    """Have something happen after something else."""
    record.events.insert(index + 1, event)


def at(record: Record, index: int) -> float:
    """Give when something happened."""
    return record.events[index].at


def is_frame(event: Event) -> TypeGuard[Received]:
    """Whether a frame came."""
    return isinstance(event, Received)


def latest(case: Case) -> tuple[Message, list[Record]]:
    """Give the last message of a workspace, if its devices all saw it come last; and them."""
    world = case.world
    room = case.pick(room for room in world.rooms if room.messages)
    return room.messages[-1], [
        record for device in room.devices if not device.left for record in device.records
    ]


def second_sources(case: Case) -> Iterator[tuple[int, Stored]]:
    """Give what all but the first source hold, with its place."""
    return ((i, each) for i, each in enumerate(case.stored) if each.source == "the GET API")


Breakage = Callable[[Case], None]
BREAKAGES: dict[str, tuple[Breakage, set[Fault], set[Fault]]] = {}
"""By name: what breaks it, what the checker must find, and what may follow from that."""


def finds(*faults: Fault, also: Iterable[Fault] = ()) -> Callable[[Breakage], Breakage]:
    """Enter a breakage in the table."""

    def enter(breakage: Breakage) -> Breakage:
        BREAKAGES[breakage.__name__] = (breakage, set(faults), set(also))
        return breakage

    return enter
