"""One workspace's books: what was sent there, what was acknowledged, and what is stored."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final, NamedTuple

from chatservice.protocol import Ack, Message
from tests.chaos.history import GaveUp, Record, Sending

SHOWN: Final = 40
"""Characters of a text that a finding quotes."""


class Key(NamedTuple):
    """What names a message for good, whatever its number."""

    user: str
    id: str


def brief(message: Message) -> str:
    """Name a message, with the beginning of its text."""
    text = message.text if len(message.text) <= SHOWN else f"{message.text[:SHOWN]}..."
    return f"{message.seq} ({message.user}'s {message.id}, {message.ts}: {text!r})"


@dataclass(frozen=True)
class Rules:
    """What the run that is judged was set up to be. Durations in seconds.

    Args:
        grace: the service's `presence_grace`.
        keep: its `history.keep`.
        late: how much later than due the service, stalled as it may have been, may say that
            somebody went offline.
        skew: how far apart two devices of the load may note the same moment; the load measures
            it as the longest stall of its own event loop.
        lag: how much later than one node another may tell who came and went, each in order: for
            as long as it is frozen, or hears nothing of the others; 0 for one process.
        errors: codes of error frames that the run provokes.
    """

    grace: float
    keep: int = 1000
    late: float = 10.0
    skew: float = 0.5
    lag: float = 0.0
    errors: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Stored:
    """One workspace, as one way of reading the store tells it.

    Args:
        source: which way: the database file, the GET API, a client.
        everybody: whether `cursors` has everyone who was ever in the workspace.
        workspace: its id.
        epoch: the identity of its history.
        seq: the newest number.
        messages: all that is kept, in the order in which it was given.
        cursors: for each user, how far they have read.
        unread: for each user, how many messages they have not, where the source tells that.
    """

    source: str
    workspace: str
    epoch: str
    seq: int
    messages: Sequence[Message]
    cursors: Mapping[str, int] = field(default_factory=dict)
    unread: Mapping[str, int] = field(default_factory=dict)
    everybody: bool = False


@dataclass(slots=True)
class Sent:
    """One message as its sender knows it."""

    text: str
    name: str
    first: float
    times: int = 0
    refused: bool = False


class Ledger:
    """The books of one workspace; `stored` is what the first of the sources holds."""

    def __init__(
        self, workspace: str, records: Iterable[Record], sources: Sequence[Stored]
    ) -> None:
        self.workspace = workspace
        self.records = [record for record in records if record.workspace == workspace]
        self.sources = sources
        truth = sources[0]
        self.epoch = truth.epoch
        self.seq = truth.seq
        self.messages = truth.messages
        self.floor = truth.messages[0].seq - 1 if truth.messages else truth.seq
        self.content: dict[int, Message] = {}
        """What stands at each number; below the floor, what was first seen there."""
        for message in truth.messages:
            self.content.setdefault(message.seq, message)
        self.sent: dict[Key, Sent] = {}
        self.acks: dict[Key, list[tuple[float, str, Ack]]] = defaultdict(list)
        """Who was told when, by key."""
        for record in self.records:
            self._enter(record)
        self._own: dict[str, list[int]] = defaultdict(list)
        for message in truth.messages:
            self._own[message.user].append(message.seq)
        self.users = {record.user: record.name for record in self.records}
        self._begun = self._first_sent()

    def _enter(self, record: Record) -> None:
        for event in record.events:
            if isinstance(event, Sending):
                sent = self.sent.setdefault(
                    Key(record.user, event.id), Sent(event.text, record.name, event.at)
                )
                sent.first = min(sent.first, event.at)
                sent.times += 1
            elif isinstance(event, GaveUp) and event.refused:
                self.sent[Key(record.user, event.id)].refused = True
        for at, ack in record.acks:
            self.acks[Key(record.user, ack.id)].append((at, record.device, ack))

    def _first_sent(self) -> list[tuple[float, int]]:
        """Give when messages were first sent, ascending, with the highest number so far."""
        begun = sorted(
            (self.sent[key].first, message.seq)
            for message in self.messages
            if (key := Key(message.user, message.id)) in self.sent
        )
        highest = accumulate((seq for _, seq in begun), max)
        return [(at, seq) for (at, _), seq in zip(begun, highest, strict=True)]

    def may_be_stored(self, at: float) -> int:
        """Give the highest number that can have been stored at a time: it had been sent.

        The newest number that is published at that moment may be lower, by a batch.
        """
        index = bisect_right(self._begun, (at, self.seq))
        return self._begun[index - 1][1] if index else self.floor

    def unread(self, user: str, after: int, upto: int) -> int:
        """Count the kept messages of others numbered `after + 1` to `upto`."""
        after = max(after, self.floor)
        own = self._own.get(user, [])
        return max(0, upto - after) - max(0, bisect_right(own, upto) - bisect_right(own, after))
