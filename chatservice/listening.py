"""Listening sockets: opened, or inherited and compared with what the settings ask for."""

from __future__ import annotations

import os
import socket
from typing import Final

BACKLOG: Final = 4096
"""Connections that may wait to be accepted, as while one process relieves another."""

Address = tuple[str, int]


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
