"""Whatever happens in a room, in whatever order, its promises hold."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from chatservice.actions import Admit, Fetch, Load, Store, ToAll, ToMember
from chatservice.outbox import Outbox
from chatservice.protocol import (
    Ack,
    History,
    Message,
    Presence,
    PresenceChange,
    ReadCursor,
    ServerFrame,
    Welcome,
    decode_server,
    encode,
)
from chatservice.room import Room, Rules
from chatservice.store import Append, Appended, Cursor, Entry, MoveCursor, WorkspaceState

USERS = ("ann", "bob", "cat")
GRACE = 10.0
NEWEST = 3


class Client:
    """What one connection has seen, as a client would keep it."""

    def __init__(self, user: str, after: int | None) -> None:
        self.user = user
        self.seq = after
        self.online: dict[str, str] = {}
        self.welcomed = False
        self.unread = 0
        self.acked: dict[str, int] = {}

    def receive(self, frame: ServerFrame) -> None:
        match frame:
            case Welcome():
                assert not self.welcomed, "welcomed twice"
                self.welcomed = True
                self.online = {person.user: person.name for person in frame.online}
                self.unread = frame.unread
                if not frame.resumed:
                    self.seq = None
                    self.base = frame.seq
            case History():
                numbers = [message.seq for message in frame.messages]
                assert numbers == list(range(self.base - len(numbers) + 1, self.base + 1))
                self.seq = self.base
            case Message():
                assert self.seq is not None
                assert frame.seq == self.seq + 1, f"saw {frame.seq} after {self.seq}"
                self.seq = frame.seq
            case PresenceChange():
                assert self.welcomed
                if frame.state is Presence.ONLINE:
                    assert self.online.get(frame.user) != frame.name, "online twice"
                    self.online[frame.user] = frame.name
                else:
                    del self.online[frame.user]
            case Ack():
                assert self.acked.setdefault(frame.id, frame.seq) == frame.seq
            case ReadCursor():
                self.unread = frame.unread


class RoomMachine(RuleBasedStateMachine):
    """Joins, leaves, sends, commits, failures, reads, resumes, in any interleaving.

    The store is a list; frames go through a real outbox, are encoded and decoded again.
    """

    def __init__(self) -> None:
        super().__init__()
        self.log: list[Message] = []
        self.cursors: dict[str, int] = {}
        self.room: Room[Hashable] = Room("w", WorkspaceState("e", 0, 0), Rules(GRACE, 100, 25.0))
        self.now = 0.0
        self.next_key = 0
        self.next_id = 0
        self.clients: dict[Hashable, Client] = {}
        self.loading: dict[Hashable, Load[Hashable]] = {}
        self.admitted: dict[Hashable, None] = {}
        self.queue: list[Store[Hashable]] = []
        self.fetch: Fetch | None = None
        self.acknowledged: dict[tuple[str, str], int] = {}
        self.outbox: Outbox[Hashable] = Outbox()
        self.gone: list[tuple[str, int]] = []
        self.known = 0

    def do(self, actions: list[Any]) -> None:
        for action in actions:
            match action:
                case ToAll(frame, but):
                    self.outbox.to_all(self.pack(frame), self.room.devices(but) if but else ())
                case ToMember(key, frame):
                    self.outbox.to_member(key, self.pack(frame))
                case Admit(key):
                    self.outbox.admit(key)
                    self.admitted[key] = None
                case Store():
                    self.queue.append(action)
                case Fetch():
                    assert self.fetch is None, "two fetches at once"
                    self.fetch = action

    @staticmethod
    def pack(frame: ServerFrame) -> bytes:
        return encode(frame) + b"\n"

    def flush(self) -> None:
        self.outbox.flush(tuple(self.admitted), self.deliver)

    def deliver(self, key: Hashable, data: bytes) -> None:
        if (client := self.clients.get(key)) is None:
            return
        for line in data.splitlines():
            frame = decode_server(line)
            assert frame is not None
            client.receive(frame)

    # --- events --------------------------------------------------------------------------

    @rule(user=st.sampled_from(USERS), resume=st.booleans(), flush=st.booleans())
    def join(self, user: str, resume: bool, flush: bool) -> None:
        after = None
        if resume and self.gone:
            after = next((seq for who, seq in reversed(self.gone) if who == user), None)
        self.next_key += 1
        self.clients[self.next_key] = Client(user, after)
        self.loading[self.next_key] = self.room.join(
            self.next_key, user, user.title(), after=after, epoch="e"
        )
        if flush:
            self.flush()

    @precondition(lambda self: self.loading)
    @rule(data=st.data())
    def entered(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.loading, key=str)))
        load = self.loading.pop(key)
        if load.after is not None:
            missed = [m for m in self.log if load.after < m.seq <= load.upto]
            entry = Entry(self.cursor(load.user, load.upto), missed, True, False)
        else:
            kept = [m for m in self.log if m.seq <= load.upto]
            entry = Entry(
                self.cursor(load.user, load.upto), kept[-NEWEST:], False, len(kept) > NEWEST
            )
        self.do(self.room.entered(key, entry))

    def cursor(self, user: str, upto: int) -> Cursor:
        read = self.cursors.get(user, 0)
        unread = sum(read < m.seq <= upto and m.user != user for m in self.log)
        return Cursor(read, unread)

    @precondition(lambda self: self.clients)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        self.flush()
        key = data.draw(st.sampled_from(sorted(self.clients, key=str)))
        client = self.clients.pop(key)
        if client.seq is not None:
            self.gone.append((client.user, client.seq))
        self.loading.pop(key, None)
        self.admitted.pop(key, None)
        self.do(self.room.leave(key, self.now))

    @precondition(lambda self: self.admitted)
    @rule(data=st.data(), again=st.booleans())
    def send(self, data: st.DataObject, again: bool) -> None:
        key = data.draw(st.sampled_from(sorted(self.admitted, key=str)))
        if not (again and self.next_id):
            self.next_id += 1
        self.do(self.room.send(key, f"m{self.next_id}", "text", ts=self.next_id))

    @precondition(lambda self: self.admitted and self.room.seq)
    @rule(data=st.data())
    def read(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.admitted, key=str)))
        self.do(self.room.read(key, data.draw(st.integers(0, self.room.seq))))

    @precondition(lambda self: self.queue)
    @rule(hidden=st.integers(0, 1), flush=st.booleans())
    def commit(self, hidden: int, flush: bool) -> None:
        """Commit what is queued; `hidden`: another process committed a message just before."""
        for _ in range(hidden):
            seq = len(self.log) + 1
            self.log.append(Message(seq, f"hidden{seq}", "zoe", "Zoe", "text", 0))
        results: list[tuple[Hashable, Append, Appended]] = []
        moves: list[MoveCursor] = []
        for store in self.queue:
            match store.operation:
                case Append() as append:
                    results.append((store.key, append, self.store(append)))
                case MoveCursor() as move:
                    moves.append(move)
        self.queue.clear()
        if results:
            self.known = max(self.known, *(result.seq for _, _, result in results))
        self.do(self.room.committed(results))
        assert self.fetch is not None or self.room.seq >= self.known or not results
        for move in moves:
            read = max(self.cursors.get(move.user, 0), move.seq)
            self.cursors[move.user] = read
            self.do(
                self.room.moved(move.user, self.cursor(move.user, len(self.log)), len(self.log))
            )
        if flush:
            self.flush()

    def store(self, append: Append) -> Appended:
        for message in self.log:
            if (message.user, message.id) == (append.user, append.id):
                return Appended(message.seq, message.ts, True)
        seq = len(self.log) + 1
        self.log.append(Message(seq, append.id, append.user, append.name, append.text, append.ts))
        return Appended(seq, append.ts, False)

    @precondition(lambda self: self.queue)
    @rule()
    def fail(self) -> None:
        for store in self.queue:
            self.do(self.room.refused(store.key, store.operation, "later"))
        self.queue.clear()

    @precondition(lambda self: self.fetch)
    @rule()
    def fetched(self) -> None:
        fetch, self.fetch = self.fetch, None
        assert fetch is not None
        self.do(self.room.fetched([m for m in self.log if fetch.after < m.seq <= fetch.upto]))

    @rule(seconds=st.sampled_from([0.0, 4.0, GRACE]))
    def tick(self, seconds: float) -> None:
        self.now += seconds
        self.do(self.room.tick(self.now))

    @rule()
    def flushes(self) -> None:
        self.flush()

    # --- what always holds ---------------------------------------------------------------

    @invariant()
    def published_is_a_prefix_of_what_is_stored(self) -> None:
        assert self.room.seq <= len(self.log)

    @invariant()
    def an_acknowledged_message_is_stored_under_its_number(self) -> None:
        for client in self.clients.values():
            for id, seq in client.acked.items():
                assert self.log[seq - 1].id == id

    @invariant()
    def whoever_is_connected_is_online(self) -> None:
        for key in self.admitted:
            assert self.room.is_online(self.clients[key].user)

    def teardown(self) -> None:
        """A snapshot plus events equals a fresh snapshot, and everybody has seen everything."""
        for key in list(self.loading):
            load = self.loading.pop(key)
            missed = [m for m in self.log if (load.after or 0) < m.seq <= load.upto]
            resumed = load.after is not None
            page = missed if resumed else missed[-NEWEST:]
            self.do(self.room.entered(key, Entry(Cursor(0, 0), page, resumed, False)))
        while self.room.seq < self.known:
            fetch, self.fetch = self.fetch, None
            upto = fetch.upto if fetch is not None else 0
            self.do(self.room.fetched([m for m in self.log if self.room.seq < m.seq <= upto]))
            assert self.fetch is not None or self.room.seq >= self.known, "never published"
        self.flush()
        fresh = {person.user: person.name for person in self.room.online()}
        for client in self.clients.values():
            assert client.seq == self.room.seq
            assert client.online == fresh


TestRoom = RoomMachine.TestCase
TestRoom.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
