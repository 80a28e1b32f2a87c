"""Taking over: a new process relieves the running one.

Two-phase, so that a bad release costs nothing. The new process asks only when all that can fail
alone has succeeded. The old one reads nothing more, sees what it read through to the disk and to
its members, and passes its sockets. The new one makes sure that it has everything, and confirms;
without that, the old one reads on where it stopped. At no moment do both serve: each would be
ignorant of what the other stores.

A line of JSON each, and parcels (see `handover_format`) in between:

    new -> old   {"order": "take-over", "version": 1, "versions": [1, 2], "room": 20000}
    old -> new   {"ok": true, "version": 2, "listeners": [...], ...}   with their descriptors
    old -> new   parcels, with the sockets of clients                  (version 2)
    new -> old   {"confirmed": true}
    old -> new   {"ok": true}
    new -> old   {"serving": true}                                     (version 2)
    new -> old   {"settled": true}                                     (version 2, some time later)

`serving` decides, and it is sent before anything is done. Who waits for it in vain shuts the
connection down and looks once more: a line that is not there by then can no longer be sent. If
the old process dies after it has sent everything, the new one serves, as nobody else does.

Version 1 is for releases with another idea of what a connection is: only the listeners move, and
the old process sends its members away, to come back at once. `settled` tells that the other nodes
know of the new process, so that the old one may say goodbye to them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

from chatservice.control import MAX_LINE, ControlError, connect, read_line
from chatservice.handover_format import (
    CONNECTIONS,
    LENGTH,
    LISTENERS_ONLY,
    MAX_PARCEL,
    VERSIONS,
    Clients,
    Offer,
    Order,
    Parcel,
    Visitors,
    pack,
    unpack,
)
from chatservice.logs import get_logger
from chatservice.passing import PassingError, Taker, give

log = get_logger("takeover")

CONFIRM_SECONDS: Final = 10.0
"""How long the old process waits, reading nothing, for each word of the new one."""
ASK_SECONDS: Final = 15.0
"""How long the new process waits for the old one to finish what is under way."""
SETTLED_SECONDS: Final = 5.0
"""How long a relieved process stays for the other nodes' sake."""
DEATH_SECONDS: Final = 2.0
"""How long a process takes to die whose sockets are closed already."""


class Heir(Protocol):
    """What the new process makes of what it is given."""

    @property
    def complete(self) -> bool:
        """Whether all of it came."""

    def add(self, parcel: Parcel, sockets: Sequence[socket.socket]) -> None:
        """Take one parcel more. May raise anything: then the old process serves on."""

    def refuse(self) -> None:
        """Let go of everything."""


# --- the new process ----------------------------------------------------------------------


class Claim:
    """The new process's side, in the middle of a take-over: it has the listeners.

    Attributes:
        listeners: by name.
        offer: what the old process said of itself.
    """

    def __init__(
        self,
        peer: socket.socket,
        listeners: Mapping[str, socket.socket],
        offer: Offer | None = None,
        heir: Heir | None = None,
        old: int | None = None,
    ) -> None:
        self._peer = peer
        self._heir = heir
        self._lines = Taker(peer)
        self._old = old
        self.listeners = listeners
        self.offer = offer or Offer(True)

    @property
    def moves_connections(self) -> bool:
        """Whether the members come along."""
        return self.offer.version >= CONNECTIONS

    def confirm(self) -> None:
        """Tell the old process that this one serves, and so it is when this returns.

        Raises:
            ControlError: it is too late; the old one serves on, so this one must not.
        """
        try:
            self._peer.sendall(b'{"confirmed":true}\n')
            reply = msgspec.json.decode(self._lines.line(MAX_LINE), type=dict[str, Any])
            if not reply.get("ok"):
                self._peer.close()
                raise ControlError(f"the running process serves on: {reply.get('error')}")
            if self.moves_connections:
                self._peer.sendall(b'{"serving":true}\n')
        except (OSError, PassingError, msgspec.DecodeError) as error:
            if not self._left_alone():
                raise ControlError(
                    f"the running process did not take the confirmation: {error}"
                ) from None

    def _left_alone(self) -> bool:
        """Whether the old process died, so that nobody serves but this one, which has it all."""
        if self._heir is None or not self._heir.complete:
            return False
        return _dead(self._old)

    def settled(self) -> None:
        """Let the old process say goodbye to the other nodes."""
        with contextlib.suppress(OSError):
            self._peer.sendall(b'{"settled":true}\n')
        self._peer.close()
        if self._old is not None:
            os.close(self._old)
            self._old = None

    def abandon(self) -> None:
        """Let the old process serve on, at once."""
        self._peer.close()
        for listener in self.listeners.values():
            listener.close()
        if self._heir is not None:
            self._heir.refuse()


def _watch(peer: socket.socket) -> int | None:
    """Hold on to the process at the other end (pidfd_open(2)); None where that cannot be."""
    try:
        credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        return os.pidfd_open(struct.unpack("3i", credentials)[0])
    except (OSError, AttributeError):
        return None


def _dead(watched: int | None) -> bool:
    """Whether a process whose connections are closed is dead, or is so in a moment."""
    if watched is None:
        return False
    poll = select.poll()
    poll.register(watched, select.POLLIN)
    return bool(poll.poll(DEATH_SECONDS * 1000))


def claim(path: Path, heir: Heir | None = None, *, room: int = 0) -> Claim | None:
    """Ask the running process for its sockets; None when nobody runs, or it died meanwhile.

    Args:
        path: the control socket.
        heir: takes the connections; without one only the listeners are asked for.
        room: how many sockets this process can hold.

    Raises:
        ControlError: it does not answer, or refuses, or hands over nonsense.
    """
    peer = connect(path, ASK_SECONDS)
    if peer is None:
        return None
    old = _watch(peer)
    taker = Taker(peer)
    listeners: list[socket.socket] = []
    try:
        versions = list(VERSIONS) if heir is not None else [LISTENERS_ONLY]
        order = Order(version=LISTENERS_ONLY, versions=versions, room=room)
        peer.sendall(msgspec.json.encode(order) + b"\n")
        offer = msgspec.json.decode(taker.line(MAX_LINE), type=Offer)
        if not offer.ok:
            raise ControlError(f"the running process refused: {offer.error}")
        listeners = taker.sockets(len(offer.listeners))
        if offer.version >= CONNECTIONS:
            assert heir is not None
            _inherit(taker, heir)
        if taker.left_over:
            raise PassingError(f"passed {taker.left_over} sockets that it did not name")
    except BaseException as error:
        peer.close()
        taker.close()
        for listener in listeners:
            listener.close()
        if heir is not None:
            heir.refuse()
        explained = _explained(error)
        if isinstance(error, PassingError | OSError) and _dead(old):
            log.warning("the running process died while it handed over", reason=str(explained))
            return None
        raise explained from None
    named = dict(zip(offer.listeners, listeners, strict=True))
    return Claim(peer, named, offer, heir if offer.version >= CONNECTIONS else None, old)


def _inherit(taker: Taker, heir: Heir) -> None:
    while not heir.complete:
        (size,) = LENGTH.unpack(taker.exactly(LENGTH.size))
        if size > MAX_PARCEL:
            raise PassingError(f"sends a parcel of {size} bytes")
        parcel = unpack(taker.exactly(size))
        count = 0
        if isinstance(parcel, Clients):
            count = len(parcel.clients)
        elif isinstance(parcel, Visitors):
            count = len(parcel.visitors)
        sockets = taker.sockets(count)
        try:
            heir.add(parcel, sockets)
        except BaseException:
            for sock in sockets:
                sock.close()
            raise


def _explained(error: BaseException) -> BaseException:
    """Say what a failure means for the one who reads the new process's last words."""
    match error:
        case ControlError():
            return error
        case TimeoutError():
            return ControlError(
                f"the running process did not answer in {ASK_SECONDS:g} s; it may hang. "
                f"Stop it with `ctl stop`, or kill it, and start this one again"
            )
        case PassingError():
            return ControlError(f"the running process {error}")
        case OSError() | msgspec.DecodeError():
            return ControlError(f"the running process did not answer as one: {error}")
        case MemoryError():
            return ControlError("the running process has more than this one has memory for")
        case Exception():
            return ControlError(f"what the running process handed over is not understood: {error}")
    return error


# --- the old process ----------------------------------------------------------------------


def agreed_version(order: Mapping[str, Any]) -> int:
    """Give the newest version of the conversation that both processes speak.

    Raises:
        ControlError: there is none; nothing has moved.
    """
    offered = order.get("versions") or [order.get("version")]
    known = [each for each in VERSIONS if each in offered] if isinstance(offered, list) else []
    if not known:
        raise ControlError(
            f"take-over version {order.get('version')!r} is not known here, only "
            f"{', '.join(map(str, VERSIONS))}"
        )
    return known[-1]


async def hand_over(
    peer: socket.socket,
    listeners: Mapping[str, socket.socket],
    offer: Offer,
    parcels: Iterable[tuple[Parcel, Sequence[int]]] = (),
) -> None:
    """The old process's side, once it is quiet: pass the sockets and await the confirmation.

    In version 2 the new process serves when this returns; in version 1 when it is answered.

    Raises:
        ControlError: the new process did not confirm; go on serving.
    """
    offer.listeners = list(listeners)
    try:
        async with asyncio.timeout(CONFIRM_SECONDS):
            header = msgspec.json.encode(offer) + b"\n"
            await give(peer, header, [listener.fileno() for listener in listeners.values()])
            for parcel, descriptors in parcels:
                await give(peer, pack(parcel), descriptors)
        async with asyncio.timeout(CONFIRM_SECONDS):
            reply = msgspec.json.decode(await read_line(peer), type=dict[str, Any])
    except TimeoutError:
        raise ControlError(f"no confirmation came in {CONFIRM_SECONDS:g} s") from None
    except (OSError, msgspec.DecodeError) as error:
        raise ControlError(f"the new process went away: {error}") from None
    if reply.get("confirmed") is not True:
        raise ControlError("the new process did not confirm")
    if offer.version >= CONNECTIONS:
        await _let_go(peer)


async def _let_go(peer: socket.socket) -> None:
    """Let the new process serve; without its word that it does, it can no longer say so."""
    loop = asyncio.get_running_loop()
    said = b""
    try:
        await loop.sock_sendall(peer, b'{"ok":true}\n')
        async with asyncio.timeout(CONFIRM_SECONDS):
            said = await read_line(peer)
    except (ControlError, OSError, TimeoutError):
        with contextlib.suppress(OSError):
            peer.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            said += peer.recv(MAX_LINE)
    # What it says next, that all is settled, may have come along with that.
    if not said.startswith(b'{"serving":true}\n'):
        raise ControlError("the new process confirmed, and then did not begin to serve")


async def settled(peer: socket.socket) -> None:
    """Wait until the other nodes know the new process, or it is gone, or for a few seconds."""
    with contextlib.suppress(ControlError, OSError, TimeoutError):
        async with asyncio.timeout(SETTLED_SECONDS):
            await read_line(peer)
