"""The control socket: what the running process is told, and by whom it is relieved.

A Unix socket that only the service's user can open. One connection, one order, one line of JSON
each way; `take-over` goes on from there (see `takeover`). What answers there is the process that
serves.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from chatservice.asking import MAX_LINE, ControlError, Reply, ask, connect
from chatservice.logs import get_logger

__all__ = [
    "MAX_LINE",
    "ControlError",
    "ControlSocket",
    "Order",
    "Reply",
    "ask",
    "connect",
    "read_line",
    "uptime",
]

log = get_logger("control")

RETRY_SECONDS: Final = 0.5
"""How long after a failure the control socket accepts again."""

Order = Callable[[Mapping[str, Any], socket.socket], Awaitable[Reply | None]]
"""Carries out an order; None when it has already answered on the socket itself."""


class ControlSocket:
    """Listens for orders at `path`.

    The socket appears there, or replaces the one of the process before, in one step (rename), so
    that whoever asks always finds somebody who serves.
    """

    def __init__(self, path: Path, orders: Mapping[str, Order]) -> None:
        self._path = path
        self._orders = orders
        self._listener: socket.socket | None = None
        self._identity: tuple[int, int] | None = None
        self._task: asyncio.Task[None] | None = None
        self._conversations: set[asyncio.Task[None]] = set()

    def bind(self) -> None:
        """Do all that can fail: listen under another name, where nobody looks.

        Raises:
            ControlError: the socket cannot be made.
        """
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.setblocking(False)
        before = os.umask(0o177)
        try:
            self._temporary.unlink(missing_ok=True)
            listener.bind(str(self._temporary))
        except OSError as error:
            listener.close()
            why = f"{self._path}: the control socket cannot be made: {error.strerror or error}"
            raise ControlError(f"{why}; look at service.run_dir") from None
        finally:
            os.umask(before)
        listener.listen(16)
        status = self._temporary.stat()
        self._identity = (status.st_dev, status.st_ino)
        self._listener = listener

    def open(self) -> None:
        """Answer at `path`, in the place of whoever did before."""
        assert self._listener is not None
        try:
            self._temporary.rename(self._path)
        except OSError as error:
            log.error("the control socket cannot be put in place", reason=str(error))
        self._task = asyncio.get_running_loop().create_task(self._accept(self._listener))

    def close(self, *, replaced: bool) -> None:
        """Listen no more, and remove the socket unless another process replaces it."""
        if self._listener is None:
            return
        if self._task is not None:
            self._task.cancel()
        self._listener.close()
        self._listener = None
        self._temporary.unlink(missing_ok=True)
        if replaced:
            return
        try:
            status = self._path.stat()
            if (status.st_dev, status.st_ino) == self._identity:
                self._path.unlink()
        except FileNotFoundError:
            pass

    @property
    def _temporary(self) -> Path:
        return self._path.with_name(f".new{os.getpid()}")  # no longer: paths are bounded

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                peer, _ = await loop.sock_accept(listener)
            except OSError as error:  # no descriptors are left, above all
                log.error("the control socket does not accept", reason=str(error))
                await asyncio.sleep(RETRY_SECONDS)
                continue
            task = loop.create_task(self._converse(peer))
            self._conversations.add(task)
            task.add_done_callback(self._conversations.discard)

    async def _converse(self, peer: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with peer:
            peer.setblocking(False)
            reply: Reply | None
            try:
                async with asyncio.timeout(5):
                    order = msgspec.json.decode(await read_line(peer), type=dict[str, Any])
                handler = self._orders.get(str(order.get("order")))
                if handler is None:
                    raise ControlError(f"unknown order {order.get('order')!r}")
                reply = await handler(order, peer)
            except (ControlError, msgspec.DecodeError, TimeoutError, OSError) as error:
                reply = {"ok": False, "error": str(error) or type(error).__name__}
            except Exception:
                log.exception("bug in a control order")
                reply = {"ok": False, "error": "internal error; see the log"}
            if reply is not None:
                try:
                    await loop.sock_sendall(peer, msgspec.json.encode(reply) + b"\n")
                except OSError:
                    log.warning("nobody waited for the answer to a control order")


async def read_line(peer: socket.socket) -> bytes:
    """Read up to a line's end from a non-blocking socket.

    Raises:
        ControlError: the other side hung up, or the line is too long.
    """
    loop = asyncio.get_running_loop()
    line = b""
    while not line.endswith(b"\n"):
        chunk = await loop.sock_recv(peer, 4096)
        if not chunk:
            raise ControlError("the other side hung up")
        line += chunk
        if len(line) > MAX_LINE:
            raise ControlError("the line is too long")
    return line


def uptime(started: float) -> float:
    """Seconds since `started`, in seconds of the Unix clock."""
    return round(time.time() - started, 1)
