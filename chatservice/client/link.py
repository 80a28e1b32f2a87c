"""One live connection of a client: reads frames, writes frames, notices when the server is dead."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from chatservice.protocol import ClientFrame, Ping, ServerFrame, Welcome, decode_server, encode


class Dropped(Exception):
    """The connection is over. `code` is the close code: 1006 where the server sent none."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code} {reason}".rstrip())
        self.code = code
        self.reason = reason


class Link:
    """A connection from the end of its handshake on.

    Args:
        socket: the connection.
        receive: called with each frame, in order; what it raises ends the connection.
        pinged: called when the link sends a ping of its own, so that its pong is not taken for
            somebody else's.
        patience: seconds that the first frame may take to come.
    """

    def __init__(
        self,
        socket: ClientConnection,
        *,
        receive: Callable[[ServerFrame], None],
        pinged: Callable[[], None],
        patience: float,
    ) -> None:
        self._socket = socket
        self._receive = receive
        self._pinged = pinged
        self._patience = patience
        self._welcomed = False
        self._loop = asyncio.get_running_loop()
        self._heard = self._loop.time()

    async def write(self, frame: ClientFrame) -> None:
        """Send a frame.

        Raises:
            Dropped: the connection is over. `run` may still have frames to give.
        """
        try:
            await self._socket.send(encode(frame), text=True)
        except ConnectionClosed as error:
            raise _dropped(error) from None

    async def run(self) -> None:
        """Read until the connection is over, and then raise why.

        Raises:
            Dropped: the server closed it, or was silent for two heartbeats.
            FrameError: what came is not chat.v1.
            Exception: what `receive` raised.
        """
        watching = asyncio.create_task(self._watch(), name="chat client watch")
        try:
            while True:
                payload = await self._socket.recv()
                self._heard = self._loop.time()
                frame = decode_server(payload)
                if frame is None:
                    continue
                if isinstance(frame, Welcome):
                    self._patience = frame.heartbeat
                    self._welcomed = True
                self._receive(frame)
        except ConnectionClosed as error:
            if watching.done() and not watching.cancelled():
                watching.result()
            raise _dropped(error) from None
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def close(self) -> None:
        """Close it with 1000, or cut it where the server does not answer in time."""
        await self._socket.close()

    def cut(self) -> None:
        """End it without another word; does nothing once it is closed."""
        self._socket.transport.abort()

    async def _watch(self) -> None:
        """Ping a server that was silent for a heartbeat; cut it off after a second one."""
        while True:
            silent = self._loop.time() - self._heard
            if silent >= 2 * self._patience or (silent >= self._patience and not self._welcomed):
                self.cut()
                raise Dropped(1006, f"nothing came from the server for {silent:.1f} s")
            if silent < self._patience:
                await asyncio.sleep(self._patience - silent)
                continue
            self._pinged()
            # A server that reads nothing blocks the write, too.
            with contextlib.suppress(TimeoutError, Dropped):
                async with asyncio.timeout(self._patience):
                    await self.write(Ping())
            await asyncio.sleep(max(0.0, self._heard + 2 * self._patience - self._loop.time()))


def _dropped(error: ConnectionClosed) -> Dropped:
    if error.rcvd is not None:
        return Dropped(error.rcvd.code, error.rcvd.reason)
    return Dropped(1006, "the connection broke" if error.sent is None else error.sent.reason)
