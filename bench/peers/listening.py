"""How a peer comes up: on a free port of this machine, which it prints once it listens."""

from __future__ import annotations

import socket
from typing import Final

BACKLOG: Final = 4096
ANNOUNCEMENT: Final = "listening on "


def listener() -> socket.socket:
    """Listen on a free port of 127.0.0.1."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen(BACKLOG)
    return sock


def announce(sock: socket.socket) -> None:
    """Print the port; whoever connects from now on is served."""
    print(f"{ANNOUNCEMENT}{sock.getsockname()[1]}", flush=True)
