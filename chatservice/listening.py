"""Listening sockets: opened, or inherited and compared with what the settings ask for.

Who connects while nobody accepts waits in the backlog, for this process or the one after it.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from chatservice.logs import get_logger

log = get_logger("listening")

BACKLOG: Final = 4096
"""Connections that may wait to be accepted, as while one process relieves another."""
RETRY_SECONDS: Final = 0.5
"""How long after a failure connections are accepted again."""

Address = tuple[str, int]


class Wanted(NamedTuple):
    """Where the settings want a listener: host and port, and the setting that names the port."""

    address: Address
    key: str


class ListenError(Exception):
    """Nobody can listen there; the message is one line that says what to do."""


def listen(address: Address, key: str, where: str) -> socket.socket:
    """Listen on an address of this machine, IPv4 or IPv6.

    Args:
        address: host and port; port 0 for any that is free.
        key: the setting that names the port.
        where: the settings file.

    Raises:
        ListenError: somebody else does, or it is not this machine's.
    """
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    try:
        return socket.create_server(address, family=family, backlog=BACKLOG)
    except OSError as error:
        # Python adds the address to `strerror`; the resolver's errors have a negative number.
        why = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        raise ListenError(
            f"cannot listen on {address[0]}:{address[1]}: {why}; stop what listens there, or "
            f"change {key} (now from {where})"
        ) from None


def listens_on(listener: socket.socket, address: Address) -> bool:
    """Whether an inherited listener is still what the settings ask for."""
    host, port = listener.getsockname()[:2]
    try:
        hosts = {found[4][0] for found in socket.getaddrinfo(address[0], None)}
    except OSError:
        return False
    return host in hosts and port == (address[1] or port)


class Listeners:
    """What a process listens on, by name.

    Args:
        protocols: makes, for each name, the protocol of one who connects there.
    """

    def __init__(self, protocols: Mapping[str, Callable[[], asyncio.BaseProtocol]]) -> None:
        self._protocols = protocols
        self._sockets: dict[str, socket.socket] = {}
        self._servers: list[asyncio.Server] = []

    @property
    def sockets(self) -> Mapping[str, socket.socket]:
        """The listening sockets themselves, which another process may be given."""
        return self._sockets

    def port(self, name: str) -> int:
        """Give the port that one listens on."""
        port: int = self._sockets[name].getsockname()[1]
        return port

    def open(
        self, wanted: Mapping[str, Wanted], *, inherited: Mapping[str, socket.socket], where: str
    ) -> None:
        """Have what is wanted: inherited where it is still that, otherwise opened.

        Args:
            wanted: what the settings ask for.
            inherited: what the process before had; what is not wanted of it is closed.
            where: the settings file.

        Raises:
            ListenError: one cannot be opened.
        """
        given = dict(inherited)
        for name, (address, key) in wanted.items():
            listener = given.pop(name, None)
            if listener is None or not listens_on(listener, address):
                if listener is not None:
                    listener.close()
                listener = listen(address, key, where)
            self._sockets[name] = listener
        for unknown in given.values():
            unknown.close()

    async def get_ready(self) -> None:
        """Do all that can fail. Listeners are duplicated: closing a server keeps ours open.

        Raises:
            OSError: no descriptor is left.
        """
        loop = asyncio.get_running_loop()
        for name, protocol in self._protocols.items():
            duplicate = self._sockets[name].dup()
            duplicate.listen(BACKLOG)  # as `accept` does again, and cannot fail to do then
            self._servers.append(
                await loop.create_server(
                    protocol, sock=duplicate, backlog=BACKLOG, start_serving=False
                )
            )

    async def accept(self) -> None:
        """Accept who connects."""
        for server in self._servers:
            await server.start_serving()

    def refuse_more(self) -> None:
        """Accept no more; who connects meanwhile waits in the backlog."""
        for server in self._servers:
            server.close()
        self._servers = []

    async def accept_again(self) -> None:
        """Undo `refuse_more`, as soon as that can be."""
        while not self._servers:
            try:
                await self.get_ready()
                await self.accept()
            except OSError as error:
                self.refuse_more()
                log.error("connections are not accepted; trying again", reason=str(error))
                await asyncio.sleep(RETRY_SECONDS)

    def close(self) -> None:
        """Listen no more; another process that was given the sockets goes on with them."""
        self.refuse_more()
        for listener in self._sockets.values():
            listener.close()
