"""So that a crash of the process disconnects nobody: sockets kept by systemd, whose they are kept
in a file, and the two put together again by the process that comes next.

A connection is restored when the kernel counted the same bytes as the file says, in both
directions: then every frame was whole, everything received was answered, and everything said has
left. A doubtful one is closed, and its client resumes by number.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Sequence

import msgspec

from chatservice.connection import Connection
from chatservice.descriptor_store import DescriptorStore
from chatservice.fanout import LiveRoom
from chatservice.handover_format import (
    Client,
    Clients,
    End,
    Parcel,
    Stream,
    User,
    Workspace,
    Workspaces,
)
from chatservice.logs import get_logger
from chatservice.survival import LEFT, MEMBER, Survival, Who, counted

log = get_logger("lifeline")


def name_of(number: int) -> str:
    """Give the name under which systemd keeps the socket of a slot."""
    return f"c{number}"


class Lifeline:
    """Keeps members' connections beyond this process.

    Args:
        survival: whose they are.
        store: where their sockets are kept.
        grace: seconds for which who left counts as online.
    """

    def __init__(self, survival: Survival, store: DescriptorStore, grace: float) -> None:
        self.survival = survival
        self._store = store
        self._grace = grace

    def hold(self, connection: Connection, live: LiveRoom, *, waiting: int = 0) -> None:
        """Keep a member; so many bytes wait to be written to it.

        It is in doubt until it is settled: who was not welcomed yet is no member to go on with.
        """
        try:
            self._hold(connection, live, waiting)
        except OSError as error:
            log.warning("a connection cannot be kept", conn=connection.id, reason=str(error))

    def _hold(self, connection: Connection, live: LiveRoom, waiting: int) -> None:
        self.publish(live)
        with connection.duplicate() as sock:
            came, went = counted(sock)
            who = Who(
                id=connection.id, user=connection.user, name=connection.name,
                workspace=connection.workspace, exp=connection.exp, token=connection.token,
                base_in=came, base_out=went, origin=connection.origin,
            )  # fmt: skip
            connection.slot = slot = self.survival.keep(who)
            if slot is None:
                return
            slot.wrote(waiting)
            slot.unsettle()
            self._store.keep(name_of(slot.number), sock.fileno())

    def resume(self, connection: Connection, live: LiveRoom, number: int, waiting: int) -> None:
        """Go on with a member whom another process kept."""
        with contextlib.suppress(OSError), connection.duplicate() as sock:
            connection.slot = self.survival.resume(number, sock) if number else None
        if connection.slot is None:
            self.hold(connection, live, waiting=waiting)
            connection.settle()

    def renew(self, connection: Connection) -> None:
        """A member showed another token."""
        if connection.slot is not None:
            who = self.survival.who(connection.slot.number)
            who.token, who.exp = connection.token, connection.exp
            if not self.survival.renew(connection.slot.number, who):
                self.let_go(connection)

    def closed(self, connection: Connection) -> None:
        """A member is gone; its user counts as online for a while."""
        if connection.slot is not None:
            self.survival.leave(connection.slot.number, time.time() + self._grace)

    def let_go(self, connection: Connection) -> None:
        """Have the socket itself closed."""
        slot, connection.slot = connection.slot, None
        if slot is not None:
            self._store.drop(name_of(slot.number))
            self.survival.let_go(slot.number)

    def publish(self, live: LiveRoom) -> None:
        """All members were given everything up to the room's number."""
        room = live.room
        self.survival.publish(room.workspace, room.epoch, room.seq)

    def close(self, *, remove: bool) -> None:
        """Keep nothing more; `remove` what is kept where nobody comes after."""
        self.survival.close(remove=remove)
        self._store.close()


def cut(store: DescriptorStore, kept: Sequence[tuple[str, socket.socket]]) -> None:
    """Close sockets that were kept; their clients come back."""
    for name, sock in kept:
        _end(store, name, sock)


def _end(store: DescriptorStore, name: str, sock: socket.socket, farewell: bytes = b"") -> None:
    with contextlib.suppress(OSError):
        sock.setblocking(False)
        if farewell:
            sock.send(farewell)
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()
    store.drop(name)


class Salvage(msgspec.Struct):
    """What is left after a crash: what an `Inheritance` takes, and how many were in doubt."""

    parcels: list[tuple[Parcel, list[socket.socket]]]
    doubtful: int


def salvage(
    survival: Survival,
    store: DescriptorStore,
    kept: Sequence[tuple[str, socket.socket]],
    *,
    grace: float,
    heartbeat: float,
    farewell: bytes,
) -> Salvage:
    """Put sockets and their owners together; close those that are in doubt.

    Args:
        survival: whose they are.
        store: where they were kept.
        kept: them, by name.
        grace: seconds for which a user counts as online whose connections are all lost.
        heartbeat: seconds until the next keep-alive.
        farewell: what is sent to somebody to whom a frame can be sent.
    """
    sockets = dict(kept)
    rooms = {where.workspace: (where, seq) for _, where, seq in survival.rooms()}
    users: dict[str, dict[str, User]] = {workspace: {} for workspace in rooms}
    clients: list[Client] = []
    restored: list[socket.socket] = []
    doubtful = 0
    now = time.time()
    for number, who, state in survival.members():
        name = name_of(number)
        sock = sockets.pop(name, None)
        left = max(0.0, who.until - now) if state == LEFT else grace
        present = state == MEMBER and sock is not None and who.workspace in rooms
        came = went = False
        if sock is not None and present:
            with contextlib.suppress(OSError):
                came, went = survival.settled(number, who, sock)
        if who.workspace in rooms:
            _count(users[who.workspace], who, None if came and went else left)
        if sock is not None and came and went:
            clients.append(_client(number, who, heartbeat))
            restored.append(sock)
            continue
        if sock is not None:
            doubtful += state == MEMBER
            _end(store, name, sock, farewell if went else b"")
        if who.workspace not in rooms:
            survival.release(number)
        elif state == MEMBER:
            survival.leave(number, now + grace)
    for name, sock in sockets.items():
        _end(store, name, sock)
    workspaces = [
        Workspace(each, where.epoch, seq, seq, list(users[each].values()))
        for each, (where, seq) in rooms.items()
        if users[each]
    ]
    return Salvage(
        [
            (Workspaces(workspaces), []),
            (Clients(clients), restored),
            (End(len(workspaces), len(clients), 0), []),
        ],
        doubtful,
    )


def _count(users: dict[str, User], who: Who, left: float | None) -> None:
    """Count a user as online: with a connection, or else for as long as any of theirs says."""
    known = users.get(who.user)
    if known is None:
        users[who.user] = User(who.user, who.name, announced=True, left=left)
    elif left is None or known.left is None:
        known.left = None
    else:
        known.left = max(known.left, left)


def _client(number: int, who: Who, heartbeat: float) -> Client:
    return Client(
        id=who.id, user=who.user, name=who.name, workspace=who.workspace, exp=who.exp,
        token=who.token, origin=who.origin, slot=number,
        stream=Stream(silent=0.0, due=heartbeat),
    )  # fmt: skip
