"""A server that does on the wire exactly what a test's script says, connection by connection."""

from __future__ import annotations

import asyncio
import http
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Self, TypeVar
from urllib.parse import parse_qsl, urlsplit

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from chatservice.protocol import (
    Ack,
    ClientFrame,
    History,
    Message,
    Person,
    Send,
    ServerFrame,
    Welcome,
    decode_client,
    encode,
)

DEADLINE = 20.0
Frame = TypeVar("Frame", bound=ClientFrame)


def message(seq: int, user: str = "bob", id: str = "") -> Message:
    """Give a message as the server would."""
    return Message(seq, id or f"m{seq}", user, user.title(), f"text {seq}", seq * 1000)


class Wire:
    """One connection, from the server's side."""

    def __init__(self, socket: ServerConnection) -> None:
        self.socket = socket
        assert socket.request is not None
        self.headers = socket.request.headers
        self.query = dict(parse_qsl(urlsplit(socket.request.path).query))

    async def say(self, *frames: ServerFrame) -> None:
        """Send frames."""
        for frame in frames:
            await self.socket.send(encode(frame), text=True)

    async def welcome(
        self, seq: int = 0, *, resumed: bool = False, heartbeat: float = 60.0, epoch: str = "e1",
        newest: Sequence[Message] = (), unread: int = 0,
    ) -> None:  # fmt: skip
        """Send the first frames: a welcome and, where nothing is resumed, a history."""
        online = [Person("ada", "Ada")]
        await self.say(Welcome("ada", "w", epoch, seq, 0, unread, online, resumed, heartbeat))
        if not resumed:
            await self.say(History(list(newest), False))

    async def hear(self, kind: type[Frame]) -> Frame:
        """Receive the next frame, which must be of this kind."""
        frame = decode_client(str(await self.socket.recv()))
        assert isinstance(frame, kind), f"expected {kind.__name__}, got {frame}"
        return frame

    async def hear_sends(self, count: int) -> list[str]:
        """Receive so many sends; give their ids."""
        return [(await self.hear(Send)).id for _ in range(count)]

    async def publish(self, send: Send, seq: int) -> None:
        """Send the message and its acknowledgement."""
        await self.say(
            Message(seq, send.id, "ada", "Ada", send.text, seq * 1000),
            Ack(send.id, seq, seq * 1000),
        )

    async def serve_sends(self, seq: int) -> None:
        """Publish every send from the number after `seq` on, until the client goes."""
        while True:
            send = await self.hear(Send)
            seq += 1
            await self.publish(send, seq)

    async def idle(self) -> None:
        """Stay until the client goes."""
        await self.socket.wait_closed()

    async def close(self, code: int, reason: str = "") -> None:
        """Close with a code."""
        await self.socket.close(code, reason)

    def cut(self) -> None:
        """Break the connection without a word."""
        self.socket.transport.abort()


Script = Callable[[Wire], Awaitable[None]]


class Refusal:
    """The step of a script that refuses the upgrade."""

    def __init__(self, answer: Callable[[Request], Response]) -> None:
        self.answer = answer


def refuse(status: int, body: str = "no", **headers: str) -> Refusal:
    """Give the step that refuses with this answer."""

    def answer(request: Request) -> Response:
        encoded = body.encode()
        fields = Headers({name.replace("_", "-"): value for name, value in headers.items()})
        fields["Content-Length"] = str(len(encoded))
        return Response(status, http.HTTPStatus(status).phrase, fields, encoded)

    return Refusal(answer)


class ScriptedServer:
    """Plays one step for each request: a script for a connection, or a refusal.

    The last step is repeated. What a script raises is raised at the end of the test.
    """

    def __init__(self, *steps: Script | Refusal) -> None:
        self.steps = list(steps)
        self.requests: list[Request] = []
        self.failures: list[BaseException] = []
        self._server: Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await serve(
            self._play,
            "127.0.0.1",
            0,
            process_request=self._request,
            subprotocols=[Subprotocol("chat.v1")],
            ping_interval=None,
            close_timeout=1,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()
        if self.failures and error is None:
            raise self.failures[0]

    @property
    def url(self) -> str:
        """Where it listens."""
        assert self._server is not None
        return f"ws://127.0.0.1:{next(iter(self._server.sockets)).getsockname()[1]}"

    @property
    def queries(self) -> list[dict[str, str]]:
        """The query of each request."""
        return [dict(parse_qsl(urlsplit(request.path).query)) for request in self.requests]

    def _step(self, number: int) -> Script | Refusal:
        return self.steps[min(number, len(self.steps) - 1)]

    def _request(self, socket: ServerConnection, request: Request) -> Response | None:
        step = self._step(len(self.requests))
        self.requests.append(request)
        if isinstance(step, Refusal):
            return step.answer(request)
        socket.script = step  # type: ignore[attr-defined]
        return None

    async def _play(self, socket: ServerConnection) -> None:
        try:
            async with asyncio.timeout(DEADLINE * 2):
                await socket.script(Wire(socket))  # type: ignore[attr-defined]
        except ConnectionClosed:
            pass
        except BaseException as failure:
            self.failures.append(failure)
            raise
