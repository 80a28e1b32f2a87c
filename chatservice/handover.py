"""Giving all connections to another process, and taking them from one.

The old process freezes: it reads and writes nothing more and lets nothing change. Then it says
where every connection and every room stands (`parcels`), and passes the sockets; its own copies
stay as they are, so that it can go on at once if the new process fails. The new process makes its
connections and rooms of that (`Inheritance`) and touches no socket before the old one has let go.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from chatservice import protocol
from chatservice.connection import Connection
from chatservice.fanout import LiveRoom
from chatservice.handover_format import (
    Client,
    Clients,
    End,
    Parcel,
    Visitor,
    Visitors,
    Workspace,
    Workspaces,
)
from chatservice.logs import get_logger
from chatservice.passing import AT_ONCE
from chatservice.server import ChatServer

log = get_logger("handover")

ATTACHED_AT_ONCE: Final = 500
"""Sockets that are attached before the event loop turns."""
REVIEW_SECONDS: Final = 0.005
"""How long tokens are checked before the event loop turns."""


# --- the old process ----------------------------------------------------------------------


def parcels(server: ChatServer) -> Iterator[tuple[Parcel, Sequence[int]]]:
    """Say where everything stands in a frozen server, with the descriptors of each parcel.

    Raises:
        OSError: no descriptor is left to separate a socket from what waits to be written to it.
    """
    now = asyncio.get_running_loop().time()
    rooms = server.rooms.captured()
    for start in range(0, len(rooms), AT_ONCE):
        yield Workspaces(rooms[start : start + AT_ONCE]), ()
    members = list(server.connections.members)
    for start in range(0, len(members), AT_ONCE):
        batch = members[start : start + AT_ONCE]
        for connection in batch:
            connection.detach()
        yield (
            Clients([_client(server, connection, now) for connection in batch]),
            [connection.fileno() for connection in batch],
        )
    visitors = server.connections.visitors
    for start in range(0, len(visitors), AT_ONCE):
        batch = visitors[start : start + AT_ONCE]
        yield (
            Visitors([Visitor(one.id, one.left(now), one.unparsed) for one in batch]),
            [connection.fileno() for connection in batch],
        )
    yield End(len(rooms), len(members), len(visitors)), ()


def _client(server: ChatServer, connection: Connection, now: float) -> Client:
    return Client(
        id=connection.id,
        user=connection.user,
        name=connection.name,
        workspace=connection.workspace,
        exp=connection.exp,
        token=connection.token,
        stream=connection.captured(now),
        origin=connection.origin,
        slot=connection.slot.number if connection.slot is not None else 0,
        again=[
            protocol.encode(frame).decode() for frame in server.operations.again.get(connection, ())
        ],
    )


# --- the new process ----------------------------------------------------------------------


class Result(msgspec.Struct):
    """How a process came to serve; `ctl status` tells it.

    `started`: cold, listeners (members were sent away, to come back), handover, or crash (members
    of a process that crashed stayed connected). `moved`: members
    that stayed connected; `drained`: those sent away; `dropped`: those lost or no longer allowed.
    `pause_ms`: from when the old process read nothing more until the new one read everybody.
    """

    started: str = "cold"
    moved: int = 0
    drained: int = 0
    dropped: int = 0
    pause_ms: float | None = None


class InheritanceError(Exception):
    """What another process handed over does not fit together; the message says why."""


class Inheritance:
    """What another process hands over, while it is still its own.

    Nothing here reads or writes a socket before `enter`.
    """

    def __init__(self, server: ChatServer, loop: asyncio.AbstractEventLoop) -> None:
        self._server = server
        self._loop = loop
        self._rooms: dict[str, tuple[LiveRoom, int]] = {}
        self._users: dict[str, set[str]] = {}
        self._members: list[tuple[Connection, socket.socket, Client]] = []
        self._visitors: list[tuple[Connection, socket.socket]] = []
        self._complete = False

    def __len__(self) -> int:
        return len(self._members)

    @property
    def slots(self) -> list[int]:
        """Where members are kept beyond a crash of the process that they come from."""
        return [client.slot for _, _, client in self._members if client.slot]

    @property
    def complete(self) -> bool:
        """Whether all of it came."""
        return self._complete

    def add(self, parcel: Parcel, sockets: Sequence[socket.socket]) -> None:
        """Take one parcel more, with its sockets. May run in another thread than the server.

        Raises:
            InheritanceError: it does not fit to what came before.
        """
        if self._complete:
            raise InheritanceError("something came after the end")
        if any(sock.family not in (socket.AF_INET, socket.AF_INET6) for sock in sockets):
            raise InheritanceError("one of the sockets is no client's")
        match parcel:
            case Workspaces(workspaces):
                for workspace in workspaces:
                    self._add_room(workspace)
            case Clients(clients):
                for client, sock in zip(clients, sockets, strict=True):
                    self._add_member(client, sock)
            case Visitors(visitors):
                for visitor, sock in zip(visitors, sockets, strict=True):
                    self._add_visitor(visitor, sock)
            case End():
                self._count(parcel)

    def _add_room(self, captured: Workspace) -> None:
        if captured.workspace in self._rooms:
            raise InheritanceError("a room came twice")
        self._rooms[captured.workspace] = (
            self._server.rooms.restore(captured, time.monotonic()),
            captured.known,
        )
        self._users[captured.workspace] = {user.user for user in captured.users}

    def _add_member(self, client: Client, sock: socket.socket) -> None:
        if client.user not in self._users.get(client.workspace, ()):
            raise InheritanceError("a member came without its room")
        for text in client.again:
            protocol.decode_client(text)
        connection = Connection.restore(
            self._server, self._loop, client.stream, id=client.id, now=time.monotonic()
        )
        connection.user, connection.name = client.user, client.name
        connection.workspace = client.workspace
        connection.token = client.token
        connection.origin = client.origin
        self._members.append((connection, sock, client))

    def _add_visitor(self, visitor: Visitor, sock: socket.socket) -> None:
        connection = Connection.visit(
            self._server,
            self._loop,
            id=visitor.id,
            head=visitor.head,
            left=visitor.left,
            now=time.monotonic(),
        )
        self._visitors.append((connection, sock))

    def _count(self, end: End) -> None:
        came = len(self._rooms), len(self._members), len(self._visitors)
        if (end.workspaces, end.clients, end.visitors) != came:
            raise InheritanceError(
                f"of {end.workspaces} rooms, {end.clients} members and {end.visitors} half-open "
                f"connections came {came[0]}, {came[1]} and {came[2]}"
            )
        self._complete = True

    def refuse(self) -> None:
        """Let go of everything; the old process still has it."""
        for _, sock, _ in self._members:
            sock.close()
        for _, sock in self._visitors:
            sock.close()

    async def enter(self, *, paused: float | None, succeeding: str) -> Result:
        """Serve everybody.

        Args:
            paused: when the old process stopped reading, in seconds of CLOCK_MONOTONIC; None after
                a crash.
            succeeding: the node that they come from.
        """
        server = self._server
        server.rooms.adopt(self._rooms, succeeding=succeeding)
        for connection, sock, client in self._members:
            connection.bring(sock)
            server.admission.set_expiry(connection, client.exp)  # first: it may be kept anew
            server.connections.adopt(connection, self._rooms[connection.workspace][0], client.slot)
        for connection, _ in self._visitors:
            server.connections.connected(connection)
        for live, _ in self._rooms.values():
            server.rooms.watch(live)
        if paused is None:
            await server.rooms.catch_up()
        attaching = [(connection, sock) for connection, sock, _ in self._members]
        attaching += self._visitors
        lost = 0
        for start in range(0, len(attaching), ATTACHED_AT_ONCE):
            batch = attaching[start : start + ATTACHED_AT_ONCE]
            attached = await asyncio.gather(*(each.attach(sock) for each, sock in batch))
            lost += attached.count(False)
        now = time.monotonic()
        pause = round((now - paused) * 1000, 1) if paused is not None else None
        for connection, _, client in self._members:
            for text in client.again:
                server.operations.operate(connection, protocol.decode_client(text))
        moved = len(self._members) - lost
        return Result("handover", moved, 0, lost, pause)

    async def review(self) -> int:
        """Close whoever is no longer allowed under this process's settings; gives how many."""
        admission = self._server.admission
        closed = 0
        until = self._loop.time() + REVIEW_SECONDS
        for connection, _, _ in self._members:
            if connection.open and (refused := admission.why_not(connection)) is not None:
                code, why, reason = refused
                connection.close(code, why, reason=reason)
                closed += 1
            if self._loop.time() > until:
                await asyncio.sleep(0)
                until = self._loop.time() + REVIEW_SECONDS
        return closed
