"""A live room: one workspace's state machine, its members, and the carrying out of its actions.

Fan-out writes once per member per batch: whatever a room has to say in one turn of the event
loop, or about one commit, is gathered in its outbox and flushed together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from chatservice.actions import Action, Admit, Announce, Fetch, Recount, Store, ToAll, ToMember
from chatservice.connection import Connection
from chatservice.metrics import Metrics
from chatservice.outbox import Outbox, text_frame
from chatservice.protocol import Message, Presence, PresenceChange, ServerFrame
from chatservice.room import Room


class LiveRoom:
    """A room with its members' connections.

    Args:
        room: the state machine.
        metrics: where deliveries are counted.
        defer: calls a function at the end of this turn of the event loop.
        store: takes an operation that the room wants durable.
        read: reads what the room found missing.
        announce: tells the other nodes of this one's users.
        flushed: is told when every member was given what there was.
    """

    __slots__ = (
        "_announce",
        "_defer",
        "_flushed",
        "_flushing",
        "_metrics",
        "_outbox",
        "_read",
        "_shared",
        "_shared_bytes",
        "_store",
        "_welcomed",
        "due",
        "gone",
        "pending",
        "room",
        "stale",
    )

    def __init__(
        self,
        room: Room[Connection],
        *,
        metrics: Metrics,
        defer: Callable[[Callable[[], None]], object],
        store: Callable[[LiveRoom, Store[Connection]], None],
        read: Callable[[LiveRoom, Fetch | Recount], None],
        announce: Callable[[LiveRoom, Announce], None],
        flushed: Callable[[LiveRoom], None] = lambda _: None,
    ) -> None:
        self.room = room
        self.pending = 0
        """Operations that are being made durable; the room stays in memory until they are."""
        self.due = float("inf")
        """When the timer wheel calls next, in seconds of the loop's clock."""
        self.gone: list[str] = []
        """Users of whom the others are about to hear, at the next flush, that they are offline."""
        self.stale = False
        """The store no longer holds this history: members reload, and nobody joins any more."""
        self._metrics = metrics
        self._defer = defer
        self._store = store
        self._read = read
        self._announce = announce
        self._flushed = flushed
        self._outbox: Outbox[Connection] = Outbox()
        self._welcomed: dict[Connection, None] = {}
        self._flushing = False
        self._shared = 0
        self._shared_bytes = 0

    @property
    def idle(self) -> bool:
        """Whether nothing would be missed if the room were dropped from memory."""
        return self.room.empty and not self.pending

    def carry_out(self, actions: Iterable[Action[Connection]]) -> None:
        """Do what the room calls for; what it says leaves at the end of this turn."""
        outbox = self._outbox
        for action in actions:
            if isinstance(action, ToAll):
                frame = text_frame(action.frame)
                if isinstance(action.frame, Message):
                    self._shared += 1
                    self._shared_bytes += len(frame)
                elif isinstance(action.frame, PresenceChange) and (
                    action.frame.state is Presence.OFFLINE
                ):
                    self.gone.append(action.frame.user)
                outbox.to_all(frame, self.room.devices(action.but) if action.but else ())
            elif isinstance(action, ToMember):
                outbox.to_member(action.key, text_frame(action.frame))
            elif isinstance(action, Admit):
                outbox.admit(action.key)
                self._welcomed[action.key] = None
            elif isinstance(action, Store):
                self._store(self, action)
            elif isinstance(action, Fetch | Recount):
                self._read(self, action)
            else:
                self._announce(self, action)
        if outbox and not self._flushing:
            self._flushing = True
            self._defer(self.flush)

    def tell(self, connection: Connection, frame: ServerFrame) -> None:
        """Send one member a frame, in order with everything else it is sent."""
        self.carry_out([ToMember(connection, frame)])

    def leave(self, connection: Connection, now: float) -> None:
        """A connection is gone."""
        self._welcomed.pop(connection, None)
        self.carry_out(self.room.leave(connection, now))

    def adopt(self, connection: Connection) -> None:
        """A member came along from another process.

        Raises:
            KeyError: its user was not said to be online.
        """
        self.room.adopt(connection, connection.user, connection.name)
        self._welcomed[connection] = None

    def flush(self) -> None:
        """Write each member its buffer."""
        self._flushing = False
        if not self._outbox:
            return
        members = tuple(self._welcomed)
        recipients = self._outbox.flush(members, Connection.write)
        if self._shared:
            self._metrics.fanout_recipients.observe(recipients)
            self._metrics.deliveries.inc(self._shared * len(members))
            size = self._shared_bytes * len(members)
            self._metrics.top.count(self.room.workspace, self._shared, size)
            self._shared = self._shared_bytes = 0
        self._flushed(self)
        self.gone.clear()
