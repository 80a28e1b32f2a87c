"""A live room writes once per member per turn, in order, whoever leaves meanwhile."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chatservice.actions import Announce, Fetch, Recount, Store
from chatservice.connection import Connection
from chatservice.fanout import LiveRoom
from chatservice.metrics import Metrics
from chatservice.protocol import Pong
from chatservice.room import Room, Rules
from chatservice.store import Append, Appended, Cursor, Entry, WorkspaceState
from tests.chatservice.loopback import Handler, Loopback


class Stage:
    """A live room whose turns end, and whose store answers, when the test says so."""

    def __init__(self, state_dir: Path) -> None:
        self.deferred: list[Callable[[], None]] = []
        self.stored: list[Append] = []
        self.metrics = Metrics(release="v1", commit="c", state_dir=state_dir)
        rules = Rules(presence_grace=0.0, text_limit=100, heartbeat=25.0)
        self.live = LiveRoom(
            Room("w", WorkspaceState("epoch", 0, 0), rules),
            metrics=self.metrics,
            defer=lambda call: self.deferred.append(call),
            store=self._store,
            read=self._read,
            announce=self._announce,
        )
        self.handlers: list[Handler] = []

    def _store(self, live: LiveRoom, action: Store[Connection]) -> None:
        assert isinstance(action.operation, Append)
        self.stored.append(action.operation)

    def _read(self, live: LiveRoom, action: Fetch | Recount) -> None:
        raise AssertionError(action)

    def _announce(self, live: LiveRoom, action: Announce) -> None:
        pass

    def join(self, user: str) -> Loopback:
        live = self.live

        class Leaving(Handler):
            def closed(self, connection: Connection, reason: str) -> None:
                live.leave(connection, self.loop.now)

        member = Loopback(Leaving()).upgrade()
        live.room.join(member.connection, user, user, after=None, epoch=None)
        entry = Entry(Cursor(0, 0), [], resumed=False, more=False)
        live.carry_out(live.room.entered(member.connection, entry))
        return member

    def turn(self) -> None:
        """Let the turn of the event loop end."""
        deferred, self.deferred = self.deferred, []
        for call in deferred:
            call()

    def commit(self, member: Loopback, *texts: str) -> None:
        """Send texts and publish them, in one batch."""
        room, connection = self.live.room, member.connection
        for number, text in enumerate(texts):
            self.live.carry_out(room.send(connection, f"{room.seq}-{number}", text, 0))
        stored, self.stored = self.stored, []
        numbers = range(room.seq + 1, room.seq + 1 + len(stored))
        results = [
            (connection, append, Appended(seq, 0, repeated=False))
            for append, seq in zip(stored, numbers, strict=True)
        ]
        self.live.carry_out(room.committed(results))


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def frames(data: bytes) -> list[dict[str, Any]]:
    """Read unmasked text frames of less than 64 KiB."""
    found = []
    while data:
        assert data[0] == 0x81
        start, size = 2, data[1]
        if size == 126:
            start, size = 4, int.from_bytes(data[2:4], "big")
        found.append(json.loads(data[start : start + size]))
        data = data[start + size :]
    return found


def told(member: Loopback) -> list[str]:
    """Give the types of what a member was sent, one list of words a write; then forget it."""
    writes, member.transport.writes = member.transport.writes, []
    return [" ".join(frame["type"] for frame in frames(write)) for write in writes]


def test_all_that_a_turn_brings_is_one_write(stage: Stage) -> None:
    ann, bob = stage.join("ann"), stage.join("bob")
    stage.turn()
    assert told(ann) == ["welcome history presence"]
    assert told(bob) == ["welcome history"]
    stage.commit(ann, "a", "b", "c")
    stage.live.tell(bob.connection, Pong(3))
    assert told(ann) == told(bob) == []
    assert len(stage.deferred) == 1
    stage.turn()
    assert told(ann) == ["message message message ack ack ack"]
    assert told(bob) == ["message message message pong"]
    stage.turn()
    stage.live.flush()
    assert told(ann) == told(bob) == []


def test_messages_are_serialised_once_for_the_whole_room(stage: Stage) -> None:
    talker = stage.join("talker")
    listeners = [stage.join(f"listener-{number}") for number in range(5)]
    stage.turn()
    for listener in listeners:
        listener.transport.writes.clear()
    stage.commit(talker, "a", "b")
    stage.turn()
    [first], *others = [listener.transport.writes for listener in listeners]
    assert [message["text"] for message in frames(first)] == ["a", "b"]
    assert all(write == [first] for write in others)


def test_who_left_is_sent_nothing_more(stage: Stage) -> None:
    ann, bob = stage.join("ann"), stage.join("bob")
    stage.turn()
    told(ann), told(bob)
    stage.commit(ann, "a")
    bob.connection.abort("lost")
    stage.live.tell(bob.connection, Pong(1))
    stage.turn()
    assert told(bob) == []
    assert told(ann) == ["message ack presence"]
    assert stage.live.room.empty is False
    ann.connection.abort("lost")
    assert stage.live.idle


def test_one_that_is_closed_while_it_is_written_to_disturbs_no_other(stage: Stage) -> None:
    """It leaves the room, which then has something to say, in the middle of the writing."""
    members = [stage.join(f"user-{number}") for number in range(5)]
    stage.turn()
    for member in members:
        told(member)
    members[1].transport.room = members[3].transport.room = 0
    members[1].transport.waiting = members[3].transport.waiting = 2000
    stage.commit(members[0], "a")
    stage.turn()
    assert [told(members[number]) for number in (0, 2, 4)] == [["message ack"]] + [["message"]] * 2
    stage.turn()
    for number in (0, 2, 4):
        assert told(members[number]) == ["presence presence"]
    assert len(stage.live.room) == 3


def test_deliveries_are_counted(stage: Stage) -> None:
    ann = stage.join("ann")
    stage.join("bob")
    stage.turn()
    stage.commit(ann, "a", "b", "c")
    stage.turn()
    value = stage.metrics.registry.get_sample_value
    assert value("chat_deliveries_total") == 6
    assert value("chat_fanout_recipients_count") == 1
    assert value("chat_fanout_recipients_sum") == 2
