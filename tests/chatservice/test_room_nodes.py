"""Several nodes with a room of the same workspace each: whatever the order in which word gets
from one to the other, members everywhere see one history, and agree on who is online.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from chatservice.actions import Admit, Announce, Fetch, Load, Recount, Store, ToAll, ToMember
from chatservice.protocol import (
    History,
    Message,
    Presence,
    PresenceChange,
    ReadCursor,
    ServerFrame,
    Welcome,
)
from chatservice.room import Room, Rules
from chatservice.store import Append, Appended, Cursor, Entry, MoveCursor, WorkspaceState

USERS = ("ann", "bob", "cat")
NODES = ("n1", "n2", "n3")
GRACE = 10.0


class Device:
    """What one connection has seen."""

    def __init__(self, node: str, user: str) -> None:
        self.node = node
        self.user = user
        self.welcomed = False
        self.seq = 0
        self.read = 0
        self.unread = 0
        self.online: set[str] = set()

    def receive(self, frame: ServerFrame) -> None:
        match frame:
            case Welcome():
                self.welcomed = True
                self.seq = frame.seq
                self.read, self.unread = frame.read, frame.unread
                self.online = {person.user for person in frame.online}
            case History():
                assert [m.seq for m in frame.messages] == list(range(1, self.seq + 1))
            case Message():
                assert frame.seq == self.seq + 1
                self.seq = frame.seq
                self.unread += frame.user != self.user
            case ReadCursor():
                self.read, self.unread = frame.seq, frame.unread
            case PresenceChange(user=user, state=Presence.ONLINE):
                assert user not in self.online, f"{user} online twice"
                self.online.add(user)
            case PresenceChange(user=user):
                assert user in self.online, f"{user} offline twice"
                self.online.remove(user)


class Node:
    """A process with its room; `inbox` is what the others said and it has not heard yet."""

    def __init__(self, name: str, log: list[Message]) -> None:
        self.name = name
        self.room: Room[Hashable] = Room(
            "w", WorkspaceState("e", len(log), 0), Rules(GRACE, 100, 25.0)
        )
        self.inbox: deque[Any] = deque()
        self.queue: list[Store[Hashable]] = []
        self.loading: dict[Hashable, Load[Hashable]] = {}
        self.fetch: Fetch | None = None
        self.recounts: dict[str, int] = {}


class Cluster(RuleBasedStateMachine):
    """The store is a list that all share; word travels in order from node to node, but late."""

    def __init__(self) -> None:
        super().__init__()
        self.log: list[Message] = []
        self.cursors: dict[str, int] = {}
        self.now = 0.0
        self.keys = 0
        self.ids = 0
        self.devices: dict[Hashable, Device] = {}
        self.nodes = {name: Node(name, self.log) for name in NODES}

    def do(self, node: Node, actions: list[Any]) -> None:
        for action in actions:
            match action:
                case ToAll(frame, but):
                    for device in self.devices.values():
                        if device.node == node.name and device.welcomed and device.user != but:
                            device.receive(frame)
                case ToMember(key, frame):
                    if key in self.devices:
                        self.devices[key].receive(frame)
                case Store():
                    node.queue.append(action)
                case Fetch():
                    assert node.fetch is None
                    node.fetch = action
                case Recount(user=user, upto=upto):
                    assert user not in node.recounts
                    node.recounts[user] = upto
                case Announce():
                    self.tell_others(node, action)
                case Admit():
                    pass

    def tell_others(self, node: Node, word: Any) -> None:
        for other in self.nodes.values():
            if other is not node:
                other.inbox.append((node.name, word))

    def count(self, user: str, upto: int) -> Cursor:
        read = self.cursors.get(user, 0)
        return Cursor(read, sum(read < m.seq <= upto and m.user != user for m in self.log))

    # --- events --------------------------------------------------------------------------

    @rule(name=st.sampled_from(NODES), user=st.sampled_from(USERS))
    def join(self, name: str, user: str) -> None:
        node = self.nodes[name]
        self.keys += 1
        self.devices[self.keys] = Device(name, user)
        node.loading[self.keys] = node.room.join(
            self.keys, user, user.title(), after=None, epoch=None
        )

    @rule(name=st.sampled_from(NODES))
    def welcome(self, name: str) -> None:
        node = self.nodes[name]
        while node.loading:
            key, load = node.loading.popitem()
            page = self.log[: load.upto]
            entry = Entry(self.count(load.user, load.upto), page, resumed=False, more=False)
            self.do(node, node.room.entered(key, entry))

    @precondition(lambda self: self.devices)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.devices, key=str)))
        node = self.nodes[self.devices.pop(key).node]
        node.loading.pop(key, None)
        self.do(node, node.room.leave(key, self.now))

    @precondition(lambda self: any(device.welcomed for device in self.devices.values()))
    @rule(data=st.data(), read=st.booleans())
    def act(self, data: st.DataObject, read: bool) -> None:
        welcomed = sorted(str(k) for k, device in self.devices.items() if device.welcomed)
        key = int(data.draw(st.sampled_from(welcomed)))
        node = self.nodes[self.devices[key].node]
        if read:
            self.do(node, node.room.read(key, data.draw(st.integers(0, node.room.seq))))
        else:
            self.ids += 1
            self.do(node, node.room.send(key, f"m{self.ids}", "text", ts=0))

    @rule(name=st.sampled_from(NODES))
    def commit(self, name: str) -> None:
        node = self.nodes[name]
        queue, node.queue = node.queue, []
        results: list[tuple[Hashable, Append, Appended]] = []
        moves: list[str] = []
        for store in queue:
            match store.operation:
                case Append(user=user, id=id):
                    seq = len(self.log) + 1
                    self.log.append(Message(seq, id, user, user.title(), "text", 0))
                    results.append((store.key, store.operation, Appended(seq, 0, False)))
                case MoveCursor(user=user, seq=seq):
                    self.cursors[user] = max(self.cursors.get(user, 0), seq)
                    moves.append(user)
        upto = len(self.log)
        self.do(node, node.room.committed(results))
        if results:
            self.tell_others(node, upto)
        for user in moves:
            cursor = self.count(user, upto)
            self.do(node, node.room.moved(user, cursor, upto))
            self.tell_others(node, (user, cursor, upto))

    @rule(name=st.sampled_from(NODES))
    def fetched(self, name: str) -> None:
        node = self.nodes[name]
        if node.fetch is not None:
            fetch, node.fetch = node.fetch, None
            self.do(node, node.room.fetched(self.log[fetch.after : fetch.upto]))

    @rule(name=st.sampled_from(NODES))
    def recounted(self, name: str) -> None:
        node = self.nodes[name]
        if node.recounts:
            user, upto = node.recounts.popitem()
            self.do(node, node.room.recounted(user, self.count(user, upto)))

    @rule(name=st.sampled_from(NODES), most=st.integers(1, 5))
    def hear(self, name: str, most: int) -> None:
        node = self.nodes[name]
        for _ in range(min(most, len(node.inbox))):
            source, word = node.inbox.popleft()
            match word:
                case Announce(user, called, present):
                    self.do(node, node.room.remote_presence(source, user, called, present=present))
                case int():
                    self.do(node, node.room.noticed(word))
                case (user, cursor, upto):
                    self.do(node, node.room.moved(user, cursor, upto))

    @rule(name=st.sampled_from(NODES), seconds=st.sampled_from([0.0, 4.0, GRACE]))
    def tick(self, name: str, seconds: float) -> None:
        self.now += seconds
        self.do(self.nodes[name], self.nodes[name].room.tick(self.now))

    @rule(name=st.sampled_from(NODES))
    def die(self, name: str) -> None:
        """A node is killed and starts again, empty; the others notice its lease run out."""
        self.devices = {k: d for k, d in self.devices.items() if d.node != name}
        node = self.nodes[name] = Node(name, self.log)
        for other in self.nodes.values():
            if other is not node:
                self.hear(other.name, len(other.inbox))
                self.do(other, other.room.node_gone(name, self.now))
                for word in other.room.announcements():
                    self.do(
                        node,
                        node.room.remote_presence(other.name, word.user, word.name, present=True),
                    )

    def teardown(self) -> None:
        """When all is said and heard, everybody has seen everything, and agrees."""
        for name in NODES:
            self.welcome(name)
            self.commit(name)
        self.now += GRACE
        for _ in range(3):
            for name, node in self.nodes.items():
                self.tick(name, 0.0)
                self.hear(name, len(node.inbox))
                self.fetched(name)
                self.fetched(name)
                while node.recounts:
                    self.recounted(name)
        online = {device.user for device in self.devices.values()}
        for node in self.nodes.values():
            assert node.room.seq == len(self.log)
            assert {person.user for person in node.room.online()} == online
        for device in self.devices.values():
            assert device.seq == len(self.log)
            assert device.online == online
            cursor = self.count(device.user, len(self.log))
            assert (device.read, device.unread) == (cursor.read, cursor.unread)


TestCluster = Cluster.TestCase
TestCluster.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_a_number_read_on_another_node_may_be_ahead_of_this_one() -> None:
    """A user with two devices reads there what has not arrived here: that is no bad frame."""

    def member(*, shared: bool) -> Room[str]:
        rules = Rules(presence_grace=GRACE, text_limit=20, heartbeat=25.0, shared=shared)
        room: Room[str] = Room("w", WorkspaceState("e", 2, 0), rules)
        room.join("here", "ada", "Ada", after=None, epoch=None)
        return room

    assert member(shared=True).read("here", 3) == [Store("here", MoveCursor("w", "ada", 3))]
    for room, seq in ((member(shared=True), -1), (member(shared=False), 3)):
        [refused] = room.read("here", seq)
        assert isinstance(refused, ToMember)
