"""The other end of the control socket: giving the running process an order.

Apart from the listening end, since `ctl` runs within every deployment, and what loads asyncio and
the service takes five times as long to start.
"""

from __future__ import annotations

import socket
import stat
from pathlib import Path
from typing import Any, Final

import msgspec

MAX_LINE: Final = 65_536

Reply = dict[str, Any]


class ControlError(Exception):
    """The order was not carried out; the message says why, for a person."""


def connect(path: Path, timeout: float) -> socket.socket | None:
    """Connect to whoever serves; None when nobody does.

    Args:
        path: the control socket.
        timeout: seconds that each step of the conversation may take.
    """
    try:
        if not stat.S_ISSOCK(path.stat().st_mode):
            return None
        peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        peer.settimeout(timeout)
        peer.connect(str(path))
    except (FileNotFoundError, ConnectionRefusedError):
        return None
    return peer


def ask(path: Path, order: str, *, timeout: float = 10.0, **arguments: Any) -> Reply:
    """Give the running process an order and wait for its answer.

    Raises:
        ControlError: nobody serves, it does not answer in time, or it refused.
    """
    peer = connect(path, timeout)
    if peer is None:
        raise ControlError(f"nobody serves at {path}")
    with peer:
        try:
            peer.sendall(msgspec.json.encode({"order": order, **arguments}) + b"\n")
            with peer.makefile("rb") as lines:
                line = lines.readline(MAX_LINE)
        except TimeoutError:
            raise ControlError(f"the process at {path} did not answer in {timeout:g} s") from None
        except OSError as error:
            raise ControlError(f"the process at {path} hung up: {error}") from None
    if not line:
        raise ControlError(f"the process at {path} hung up")
    try:
        reply = msgspec.json.decode(line, type=dict[str, Any])
    except msgspec.DecodeError:
        raise ControlError(f"what answers at {path} is no chat service") from None
    if not reply.get("ok"):
        raise ControlError(str(reply.get("error", "refused")))
    return reply
