"""Bytes with descriptors over a Unix socket (SCM_RIGHTS, unix(7)).

The giver never blocks; the taker does, in a thread of its own. Descriptors come with the first
byte of what they were sent with, so a reader that knows how many belong to each part of the
stream never mixes them up.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import errno
import os
import socket
from collections import deque
from collections.abc import Sequence
from typing import Final

AT_ONCE: Final = 250
"""Descriptors of one call; Linux takes 253 (SCM_MAX_FD)."""
RECEIVE_BYTES: Final = 262_144
RETRY_SECONDS: Final = 0.005

_INT: Final = array.array("i").itemsize


class PassingError(Exception):
    """What came is not what was sent; the message says what is wrong with it."""


async def give(peer: socket.socket, data: bytes, descriptors: Sequence[int] = ()) -> None:
    """Send bytes, of which the first carries the descriptors (at most `AT_ONCE`).

    Raises:
        OSError: the other side is gone.
    """
    loop = asyncio.get_running_loop()
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
    while True:
        try:
            sent = peer.sendmsg([data], rights if descriptors else [])
            break
        except BlockingIOError:
            await _writable(loop, peer)
        except OSError as error:
            if error.errno != errno.ETOOMANYREFS:
                raise
            await asyncio.sleep(RETRY_SECONDS)  # too many are on the way: the taker is behind
    if sent < len(data):
        await loop.sock_sendall(peer, memoryview(data)[sent:])


async def _writable(loop: asyncio.AbstractEventLoop, peer: socket.socket) -> None:
    ready: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_writer(peer, wake)
    try:
        await ready
    finally:
        loop.remove_writer(peer)


class Taker:
    """Reads bytes and descriptors from a blocking socket.

    Every descriptor that was not taken is closed by `close`.
    """

    def __init__(self, peer: socket.socket) -> None:
        self._peer = peer
        self._buffer = bytearray()
        self._descriptors: deque[int] = deque()
        self._space = socket.CMSG_SPACE(256 * _INT)

    def line(self, limit: int) -> bytes:
        """Take a line.

        Raises:
            PassingError: it is too long, or the other side hung up.
            OSError: the connection failed, or nothing came in time.
        """
        while (end := self._buffer.find(b"\n")) < 0:
            if len(self._buffer) > limit:
                raise PassingError("sends a line without an end")
            self._more()
        return self.exactly(end + 1)

    def exactly(self, size: int) -> bytes:
        """Take so many bytes.

        Raises:
            PassingError: the other side hung up.
            OSError: the connection failed, or nothing came in time.
        """
        while len(self._buffer) < size:
            self._more()
        data = bytes(memoryview(self._buffer)[:size])
        del self._buffer[:size]
        return data

    def sockets(self, count: int) -> list[socket.socket]:
        """Take so many sockets, of those that came with what was taken.

        Raises:
            PassingError: fewer came, or one is no socket.
        """
        if len(self._descriptors) < count:
            raise PassingError(f"{count} sockets were named, {len(self._descriptors)} passed")
        taken: list[socket.socket] = []
        try:
            for _ in range(count):
                taken.append(socket.socket(fileno=self._descriptors[0]))
                self._descriptors.popleft()
        except OSError as error:
            for each in taken:
                each.close()
            raise PassingError(f"what was passed is no socket: {error.strerror}") from None
        return taken

    @property
    def left_over(self) -> int:
        """Descriptors that came and were not taken."""
        return len(self._descriptors)

    def close(self) -> None:
        """Close what was not taken."""
        while self._descriptors:
            with contextlib.suppress(OSError):
                os.close(self._descriptors.popleft())

    def _more(self) -> None:
        data, ancillary, flags, _ = self._peer.recvmsg(
            RECEIVE_BYTES, self._space, socket.MSG_CMSG_CLOEXEC
        )
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                numbers = array.array("i")
                numbers.frombytes(payload[: len(payload) - len(payload) % _INT])
                self._descriptors.extend(numbers)
        if flags & socket.MSG_CTRUNC:
            raise PassingError("passed more sockets than this process may open: raise LimitNOFILE")
        if not data:
            raise PassingError("hung up")
        self._buffer += data
