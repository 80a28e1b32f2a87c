"""One device of one user: a real connection that records every frame, and when it came."""

from __future__ import annotations

import asyncio
from typing import Final
from uuid import uuid4

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from chatservice.protocol import (
    Ack,
    ClientFrame,
    FrameError,
    Ping,
    Pong,
    Read,
    ReadCursor,
    Send,
    encode,
)
from checks.smoke.check import CheckFailed
from checks.smoke.describe import type_of
from checks.smoke.recording import Record, Seen, Sent

CLOSE_TIMEOUT: Final = 1.0
"""Seconds that the server has to answer a close before the connection is dropped."""


class Device(Record):
    """A connection, and all that it received. Made by `Stage.join`. `user`: the user's id."""

    def __init__(
        self, websocket: ClientConnection, *, name: str, user: str, patience: float
    ) -> None:
        super().__init__(name, patience=patience)
        self.user = user
        self._websocket = websocket
        self._reader = self._loop.create_task(self._record())

    # --- its life -------------------------------------------------------------------------

    async def _record(self) -> None:
        """Record what arrives until the connection ends."""
        why = ""
        try:
            async for payload in self._websocket:
                self.take(payload)
        except FrameError as error:
            why = f"it received a frame that is not chat.v1: {error}"
        except ConnectionClosed:
            pass
        finally:
            self.end(why or _how_it_ended(self._websocket))

    async def close(self) -> None:
        """Leave, as an app that is closed does; the connection is dropped if need be."""
        try:
            await self._websocket.close()
            await self._reader
        finally:
            self._reader.cancel()
            self._websocket.transport.abort()
            await asyncio.gather(self._reader, return_exceptions=True)

    # --- what it does ---------------------------------------------------------------------

    async def put(self, frame: ClientFrame) -> None:
        """Send a frame.

        Raises:
            CheckFailed: the connection is closed.
        """
        try:
            async with asyncio.timeout(self._patience):
                await self._websocket.send(encode(frame).decode())
        except ConnectionClosed:
            await self._reader
            raise CheckFailed(
                f"{self.name} could not send a `{type_of(frame)}` frame: {self.ended}"
            ) from None
        except TimeoutError:
            raise CheckFailed(
                f"{self.name} could not send a `{type_of(frame)}` frame: the service had not "
                f"taken it after {self._patience:g} s"
            ) from None

    async def send(self, text: str, *, id: str = "") -> Sent:
        """Send a message under a new id, or a given one, and do not wait for anything."""
        sent = Sent(id or uuid4().hex, self.user, text, self._loop.time())
        await self.put(Send(sent.id, text))
        return sent

    async def say(self, text: str) -> Seen[Ack]:
        """Send a message and wait until it is acknowledged."""
        return await self.acked(await self.send(text))

    async def read(self, seq: int) -> ReadCursor:
        """Say that everything up to `seq` is read, and wait for the cursor that comes of it."""
        mark = len(self.seen)
        await self.put(Read(seq))
        seen = await self.receive(
            ReadCursor, f"the new cursor after reading up to {seq}", since=mark
        )
        return seen.frame

    async def newest(self) -> int:
        """Ask for the room's newest number. What was sent to this device before has arrived."""
        mark = len(self.seen)
        await self.put(Ping())
        return (await self.receive(Pong, "the answer to a ping", since=mark)).frame.seq


def _how_it_ended(websocket: ClientConnection) -> str:
    """Say who closed a connection and how."""
    protocol = websocket.protocol
    if (received := protocol.close_rcvd) is None:
        return "the connection was lost" if protocol.close_sent is None else "it had left"
    if protocol.close_rcvd_then_sent is False:
        return "it had left"
    reason = f" ({received.reason})" if received.reason else ""
    return f"the service closed the connection with {received.code}{reason}"
