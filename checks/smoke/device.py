"""One device of one user: a real connection that records every frame, and when it came.

It hides nothing, unlike `chatservice.client`, which drops repeats and reconnects: what a check
asks about is just what arrived. Every wait ends with an event or with its deadline, and a wait in
vain says what was expected, of whom, and what came instead.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar
from uuid import uuid4

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from chatservice.protocol import (
    Ack,
    ClientFrame,
    Error,
    ErrorCode,
    FrameError,
    Message,
    Ping,
    Pong,
    Presence,
    PresenceChange,
    Read,
    ReadCursor,
    Send,
    ServerFrame,
    Welcome,
    decode_server,
    encode,
)
from checks.smoke.check import CheckFailed
from checks.smoke.describe import describe, listed, type_of

FrameT = TypeVar("FrameT", bound=ServerFrame)
T = TypeVar("T")

SHOWN_FRAMES: Final = 6
CLOSE_TIMEOUT: Final = 1.0
"""Seconds that the server has to answer a close before the connection is dropped."""


@dataclass(frozen=True)
class Seen(Generic[FrameT]):
    """A frame, and when it arrived, in seconds of the loop's clock."""

    frame: FrameT
    at: float


@dataclass(frozen=True)
class Sent:
    """A message that was sent, by whom, and when, in seconds of the loop's clock."""

    id: str
    user: str
    text: str
    at: float


class Device:
    """A connection, and all that it received. Made by `Stage.join`.

    Attributes:
        name: how failures call it, `user-1's phone`.
        user: the user's id.
        welcome: the first frame.
        seen: every frame in the order of arrival, the welcome included.
        messages: those of them that are messages.
        ids: the ids of these.
    """

    def __init__(
        self, websocket: ClientConnection, *, name: str, user: str, patience: float
    ) -> None:
        self.name = name
        self.user = user
        self.seen: list[Seen[ServerFrame]] = []
        self.messages: list[Seen[Message]] = []
        self.ids: set[str] = set()
        self.waiting_for = ""
        self._ended = ""
        self._websocket = websocket
        self._patience = patience
        self._loop = asyncio.get_running_loop()
        self._news: deque[asyncio.Future[None]] = deque()
        self._reader = self._loop.create_task(self._record())

    # --- its life -------------------------------------------------------------------------

    async def _record(self) -> None:
        """Record what arrives until the connection ends."""
        try:
            async for payload in self._websocket:
                if not isinstance(payload, str):
                    raise FrameError(ErrorCode.BAD_FRAME, "a binary frame; all are text")
                if not payload.startswith('{"type":'):
                    raise FrameError(ErrorCode.BAD_FRAME, "the field `type` is not the first")
                frame = decode_server(payload)
                if frame is None:
                    continue
                seen = Seen(frame, self._loop.time())
                self.seen.append(seen)
                if isinstance(frame, Message):
                    self.messages.append(Seen(frame, seen.at))
                    self.ids.add(frame.id)
                self._wake()
        except FrameError as error:
            self._ended = f"it received a frame that is not chat.v1: {error}"
        except ConnectionClosed:
            pass
        finally:
            self._ended = self._ended or _how_it_ended(self._websocket)
            self._wake()

    def _wake(self) -> None:
        while self._news:
            waiter = self._news.popleft()
            if not waiter.done():
                waiter.set_result(None)

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
                f"{self.name} could not send a `{type_of(frame)}` frame: {self._ended}"
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

    # --- what it waits for ----------------------------------------------------------------

    async def until(
        self, what: str, holds: Callable[[], T | None], *, within: float | None = None
    ) -> T:
        """Wait until `holds` gives something; it is asked anew with each frame.

        Args:
            what: what is expected, for people.
            holds: gives None as long as it has not come.
            within: seconds; the run's patience unless given.

        Raises:
            CheckFailed: it did not come in time, or the connection ended before.
        """
        mark = len(self.seen)
        limit = self._patience if within is None else within
        if (found := await self.watch(what, holds, within=limit)) is None:
            raise CheckFailed(
                f"{self.name} expected {what} within {limit:.3g} s, but got {self._account(mark)}"
            )
        return found

    async def watch(self, what: str, holds: Callable[[], T | None], *, within: float) -> T | None:
        """Wait as `until` does, but give None when the time is over.

        Raises:
            CheckFailed: the connection ended before.
        """
        self.waiting_for = f"{self.name} for {what}"
        try:
            async with asyncio.timeout(within):
                while (found := holds()) is None:
                    if self._ended:
                        raise CheckFailed(f"{self.name} expected {what}, but {self._ended}")
                    waiter = self._loop.create_future()
                    self._news.append(waiter)
                    await waiter
        except TimeoutError:
            found = None
        self.waiting_for = ""
        return found

    async def receive(
        self,
        kind: type[FrameT],
        what: str,
        where: Callable[[FrameT], bool] = lambda _: True,
        *,
        since: int = 0,
        within: float | None = None,
    ) -> Seen[FrameT]:
        """Wait for a frame of this kind; `since` (an index into `seen`) skips earlier ones."""
        position = since

        def holds() -> Seen[FrameT] | None:
            nonlocal position
            while position < len(self.seen):
                seen = self.seen[position]
                position += 1
                if isinstance(seen.frame, kind) and where(seen.frame):
                    return Seen(seen.frame, seen.at)
            return None

        return await self.until(what, holds, within=within)

    async def answer(
        self, kind: type[FrameT], what: str, *, to: Sent | None = None, since: int = 0
    ) -> Seen[FrameT | Error]:
        """Wait for a frame of this kind or an error; where `to` is given, for the answer to it."""

        def holds() -> Seen[FrameT | Error] | None:
            for seen in self.seen[since:]:
                frame = seen.frame
                if isinstance(frame, kind | Error) and (
                    to is None or getattr(frame, "id", None) == to.id
                ):
                    return Seen(frame, seen.at)
            return None

        return await self.until(what, holds)

    async def acked(self, sent: Sent) -> Seen[Ack]:
        """Wait for the acknowledgement of a message; an error in its place fails at once."""
        answer = await self.answer(Ack, "the acknowledgement of its message", to=sent)
        if isinstance(answer.frame, Error):
            raise CheckFailed(
                f"{self.name} expected the acknowledgement of its message, "
                f"but got {describe(answer.frame)}"
            )
        return Seen(answer.frame, answer.at)

    async def got(self, count: int, *, within: float | None = None) -> list[Message]:
        """Wait until that many messages have arrived, and give all that have."""
        await self.until(
            f"{count} messages",
            lambda: True if len(self.messages) >= count else None,
            within=within,
        )
        return [seen.frame for seen in self.messages]

    async def got_all(self, ids: set[str]) -> None:
        """Wait until the messages with these ids have arrived."""
        missing = set(ids)

        def holds() -> bool | None:
            nonlocal missing
            missing = missing - self.ids  # takes as long as what is missing, not as what is there
            return None if missing else True

        await self.until(f"{len(ids)} messages", holds)

    async def sees(self, user: str, state: Presence, *, within: float | None = None) -> float:
        """Wait until this device counts a user as online or offline; give since when."""

        def holds() -> float | None:
            now, since = self.presence(user)
            return since if now is state else None

        return await self.until(f"{user} to be {state.value}", holds, within=within)

    # --- what it knows --------------------------------------------------------------------

    @property
    def welcome(self) -> Welcome:
        """The first frame; `Stage.join` has waited for it."""
        first = self.seen[0].frame
        assert isinstance(first, Welcome)
        return first

    def of(self, kind: type[FrameT], since: int = 0) -> list[Seen[FrameT]]:
        """Give the frames of one kind so far, from index `since` on."""
        return [
            Seen(seen.frame, seen.at) for seen in self.seen[since:] if isinstance(seen.frame, kind)
        ]

    def presence(self, user: str) -> tuple[Presence, float]:
        """Tell how this device sees a user now, and since when."""
        state, since = Presence.OFFLINE, self.seen[0].at
        if any(person.user == user for person in self.welcome.online):
            state = Presence.ONLINE
        for seen in self.of(PresenceChange):
            if seen.frame.user == user and seen.frame.state is not state:
                state, since = seen.frame.state, seen.at
        return state, since

    def _account(self, mark: int) -> str:
        """Say what arrived from index `mark` on."""
        frames = [seen.frame for seen in self.seen[mark:]]
        if not frames:
            before = f"; the last frame before was {describe(self.seen[-1].frame)}"
            return "nothing at all" + (before if self.seen else "")
        return listed([describe(frame) for frame in frames], limit=SHOWN_FRAMES)


def _how_it_ended(websocket: ClientConnection) -> str:
    """Say who closed a connection and how."""
    protocol = websocket.protocol
    if (received := protocol.close_rcvd) is None:
        return "the connection was lost" if protocol.close_sent is None else "it had left"
    if protocol.close_rcvd_then_sent is False:
        return "it had left"
    reason = f" ({received.reason})" if received.reason else ""
    return f"the service closed the connection with {received.code}{reason}"
