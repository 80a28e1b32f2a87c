"""Who noticed something of what was done to the service: counted from the records."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from chatservice.protocol import Message, Presence, PresenceChange, Welcome
from tests.chaos.history import Left, Opening, Received, Record, Sending, Vantage


@dataclass(frozen=True)
class Continuity:
    """What members noticed.

    Attributes:
        closed: connections that ended though nobody meant to leave.
        unfounded: presence events about people who never left, but for their arrival.
        slowest: the longest from sending a message to a member's having it, in seconds.
        deliveries: how many such times were looked at.
    """

    closed: int
    unfounded: int
    slowest: float
    deliveries: int

    def __str__(self) -> str:
        return (
            f"connections closed {self.closed}, presence events about people who never left "
            f"{self.unfounded}, largest delivery delay {self.slowest * 1000:.0f} ms "
            f"of {self.deliveries} deliveries"
        )


def continuity(records: Sequence[Record]) -> Continuity:
    """Count what was noticed, at the sockets."""
    wire = [record for record in records if record.vantage is not Vantage.EVENTS]
    times = list(_delivery_times(wire))
    return Continuity(
        sum(map(_closed, wire)), _unfounded(wire), max(times, default=0.0), len(times)
    )


def _closed(record: Record) -> int:
    """Count how often a device had to connect again, or to try to, once it was a member."""
    welcomes = attempts = 0
    for event in record.events:
        if isinstance(event, Received) and isinstance(event.frame, Welcome):
            welcomes += 1
        elif isinstance(event, Opening) and welcomes:
            attempts += 1
    away_at_the_end = record.stayed is not None and not record.stayed.connected
    return max(attempts, max(welcomes, 1) - 1) + away_at_the_end


def _unfounded(records: Iterable[Record]) -> int:
    """Count who is said to go, and who is said to come more than once, without having left."""
    left = {record.user for record in records if any(isinstance(e, Left) for e in record.events)}
    count = 0
    for record in records:
        came: set[str] = set()
        for event in record.received():
            frame = event.frame
            if isinstance(frame, Welcome):
                came.update(person.user for person in frame.online)
            elif isinstance(frame, PresenceChange) and frame.user not in left:
                count += frame.state is Presence.OFFLINE or frame.user in came
                came.add(frame.user)
    return count


def _delivery_times(records: Sequence[Record]) -> Iterable[float]:
    """Give how long each message took to each member, but for those sent before it could be."""
    sent: dict[tuple[str, str], float] = {}
    for record in records:
        member = False
        for event in record.events:
            if isinstance(event, Received):
                member = member or isinstance(event.frame, Welcome)
            elif isinstance(event, Sending) and member:
                key = record.user, event.id
                sent[key] = min(event.at, sent.get(key, event.at))
    for record in records:
        newest: int | None = None
        for event in record.events:
            if not isinstance(event, Received):
                continue
            frame = event.frame
            if isinstance(frame, Welcome):
                newest = frame.seq
            elif isinstance(frame, Message) and newest is not None and frame.seq > newest:
                at = sent.get((frame.user, frame.id))
                yield from [event.at - at] if at is not None else []
