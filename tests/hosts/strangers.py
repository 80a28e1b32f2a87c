"""Two clients of a workspace that are not ours: they know WebSockets, and nothing of this project.

One is a program on the websockets library as it comes: with its own pings, and compression on
offer. It sends a message now and then. The other is a browser's page: its token travels as a
subprotocol, it has an origin, and all that it ever sends of itself are the answers to pings.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from types import TracebackType
from typing import Any, Final, Self

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.protocol import State
from websockets.typing import Origin, Subprotocol

WORKSPACE: Final = "strangers"
PAUSE: Final = 0.2
PING_SECONDS: Final = 2.0
"""Ten times as often as the library's default, so that a pong is due around every deploy."""


class Strangers:
    """Both, from their first connection on, which is their only one.

    Args:
        url: where they connect to.
        tokens: theirs, for `WORKSPACE`: the program's and the page's.
    """

    def __init__(self, url: str, tokens: tuple[str, str]) -> None:
        self._place = f"{url.replace('http', 'ws', 1)}/api/chat/workspace/{WORKSPACE}/connect"
        self._tokens = tokens
        self._sockets: list[ClientConnection] = []
        self._tasks: list[asyncio.Task[None]] = []
        self.sent = 0
        self.seen: tuple[list[int], list[int]] = ([], [])
        """The numbers of the messages that each was given, as they came."""
        self.ended: list[str] = []
        """How a connection ended that should not have."""
        self.stayed = False
        """Whether both were still on their first connection when they settled."""

    async def __aenter__(self) -> Self:
        program, page = self._tokens
        self._sockets = [
            await connect(
                self._place,
                additional_headers={"Authorization": f"Bearer {program}"},
                ping_interval=PING_SECONDS,
                ping_timeout=20.0,
                proxy=None,
            ),
            await connect(
                self._place,
                origin=Origin("https://app.example"),
                subprotocols=[Subprotocol("chat.v1"), Subprotocol(f"bearer.{page}")],
                ping_interval=None,
                proxy=None,
            ),
        ]
        names = "the program", "the page"
        for name, socket, seen in zip(names, self._sockets, self.seen, strict=True):
            self._tasks.append(asyncio.create_task(self._listen(name, socket, seen)))
        self._tasks.append(asyncio.create_task(self._talk(self._sockets[0])))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for socket in self._sockets:
            await socket.close()

    async def settle(self) -> None:
        """Stop talking; wait until both have all that was sent, and note whether both stayed."""
        self._tasks.pop().cancel()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(20):
                while not self.ended and any(len(seen) < self.sent for seen in self.seen):
                    await asyncio.sleep(0.05)
        self.stayed = all(socket.state is State.OPEN for socket in self._sockets)

    async def _listen(self, name: str, socket: ClientConnection, seen: list[int]) -> None:
        try:
            async for payload in socket:
                frame: dict[str, Any] = json.loads(payload)
                if frame["type"] == "message":
                    seen.append(frame["seq"])
        except ConnectionClosed:
            pass
        self.ended.append(f"{name}: {socket.close_code} {socket.close_reason}")

    async def _talk(self, socket: ClientConnection) -> None:
        while True:
            frame = {"type": "send", "id": f"s{self.sent + 1}", "text": "as any program would"}
            await socket.send(json.dumps(frame))
            self.sent += 1
            await asyncio.sleep(PAUSE)
