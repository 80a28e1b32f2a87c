"""What one device did and saw, as the checker reads it: plain records, and no I/O.

A `Record` is one device of one user in one workspace, from its first attempt to connect until it
left or the run ended. All times are `time.monotonic()` of the one process that ran the load, in
seconds, so that they compare across devices wherever the service itself runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from chatservice.protocol import Ack, ServerFrame


@dataclass(frozen=True, slots=True)
class Sending:
    """A message is given to the client, or (by a raw device) written to the socket."""

    at: float
    id: str
    text: str


@dataclass(frozen=True, slots=True)
class Returned:
    """The client's `send` returned: its promise that the message is on disk."""

    at: float
    ack: Ack


@dataclass(frozen=True, slots=True)
class GaveUp:
    """A send ended without an answer: nobody knows whether it is stored.

    `refused`: the server refused it, and it was not sent again, so it must not be stored.
    """

    at: float
    id: str
    why: str
    refused: bool = False


@dataclass(frozen=True, slots=True)
class Reading:
    """The device says that everything up to `seq` is read."""

    at: float
    seq: int


@dataclass(frozen=True, slots=True)
class Opening:
    """A raw device connects, asking for what comes after `after` (None: for a fresh start)."""

    at: float
    after: int | None
    epoch: str | None


@dataclass(frozen=True, slots=True)
class Received:
    """One frame, as it came over the wire."""

    at: float
    frame: ServerFrame


@dataclass(frozen=True, slots=True)
class Malformed:
    """What came is not chat.v1."""

    at: float
    why: str


@dataclass(frozen=True, slots=True)
class Lost:
    """The connection of a raw device is over; `code` is 1006 where the server sent none."""

    at: float
    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class Left:
    """The device leaves on purpose, before the end of the run."""

    at: float


@dataclass(frozen=True, slots=True)
class Stayed:
    """The run is over, everything has settled, and the device is still a member."""

    at: float
    connected: bool
    why: str = ""
    """Where it is not connected: what went wrong last."""


Event = (
    Sending | Returned | GaveUp | Reading | Opening | Received | Malformed | Lost | Left | Stayed
)


class Vantage(StrEnum):
    """Where a record was made."""

    CLIENT = "client"
    """Under `ChatClient`: every frame as it came, before the client looked at it."""
    EVENTS = "events"
    """Behind `ChatClient`: what it gave to its user."""
    RAW = "raw"
    """At a socket of the websockets library, without any of our code."""


@dataclass(slots=True)
class Record:
    """The history of one device. `device` is unique in a run."""

    device: str
    user: str
    name: str
    workspace: str
    vantage: Vantage
    events: list[Event] = field(default_factory=list)

    def received(self) -> Iterator[Received]:
        """Give the frames only."""
        return (event for event in self.events if isinstance(event, Received))

    @property
    def acks(self) -> Iterator[tuple[float, Ack]]:
        """Every acknowledgement that this device was given, by the server or by its client."""
        for event in self.events:
            if isinstance(event, Returned):
                yield event.at, event.ack
            elif isinstance(event, Received) and isinstance(event.frame, Ack):
                yield event.at, event.frame

    @property
    def stayed(self) -> Stayed | None:
        """How it stood at the end of the run; None where it had left."""
        last = self.events[-1] if self.events else None
        return last if isinstance(last, Stayed) else None
