"""A member of the load on the websockets library alone: resumes and resends by itself.

It shares no code with `chatservice.client`, and checks each frame against the contract's field
names before it decodes it, so that what is proved does not rest on our own client or encoder.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import Callable, Coroutine
from time import monotonic
from typing import Any, Final

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from chatservice.protocol import (
    Ack,
    Error,
    Message,
    Pong,
    Presence,
    PresenceChange,
    ReadCursor,
    ServerFrame,
    Welcome,
    decode_server,
)
from tests.chaos.contract import departure
from tests.chaos.history import (
    GaveUp,
    Left,
    Lost,
    Malformed,
    Opening,
    Reading,
    Received,
    Record,
    Sending,
    Stayed,
)

CONNECT_SECONDS: Final = 5.0
PAUSE_SECONDS: Final = 0.1
"""How long it waits, on average, before it connects again."""
RESEND_SECONDS: Final = 0.5
"""How long it waits, on average, before it sends again what was refused."""
REPEATED: Final = 0.2
"""The share of acknowledged messages that it sends once more."""


class RawDevice:
    """One stay of one device.

    Args:
        url: where it connects to.
        token: its token.
        record: an empty record of the vantage RAW.
        chance: decides what it sends again, and how long it waits.
        resume: number and epoch to begin from, as its user left with; None for a fresh start.
    """

    def __init__(
        self,
        url: str,
        token: str,
        record: Record,
        chance: random.Random,
        resume: tuple[int, str] | None = None,
    ) -> None:
        self.record = record
        self.records = [record]
        self.seq, self.epoch = resume or (0, "")
        self.trouble = "it has not tried yet"
        self._url = url.replace("http", "ws", 1)
        self._token = token
        self._chance = chance
        self._welcome_seq: int | None = None
        self._pending: dict[str, str] = {}
        self._once: set[str] = set()
        self._shown: dict[str, str] = {}
        self._asked = self._read = 0
        self._pongs: list[asyncio.Future[int]] = []
        self._socket: ClientConnection | None = None
        self._living: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    # --- what it knows -------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """Whether it is connected and has what it missed."""
        return self._welcome_seq is not None and self.seq >= self._welcome_seq

    @property
    def unanswered(self) -> int:
        """How many sends wait for their answer."""
        return len(self._pending)

    @property
    def online(self) -> set[str]:
        """The users whom it is shown as online."""
        return set(self._shown)

    @property
    def read_settled(self) -> bool:
        """Whether the service has confirmed how far it has read."""
        return self._read >= self._asked

    # --- what it does --------------------------------------------------------------------

    def start(self) -> None:
        """Connect, and stay connected."""
        self._living = asyncio.create_task(self._live(), name=self.record.device)

    def send(self, id: str, text: str) -> None:
        """Send a message now, or as soon as it is connected.

        Every other one is never sent again after a refusal: it must not turn up.
        """
        if self._chance.random() < 0.5:
            self._once.add(id)
        self._pending[id] = text
        if self.connected:
            self._spawn(self._put(id, text))

    async def read(self) -> None:
        """Read everything that came so far."""
        if self.seq > self._asked:
            self._asked = self.seq
            self.record.events.append(Reading(monotonic(), self.seq))
            await self._write({"type": "read", "seq": self.seq})

    async def type(self) -> None:
        """Have the others know that this one types."""
        await self._write({"type": "typing"})

    async def look_back(self, before: int) -> None:
        """Read a page of history; what comes is on the record."""
        await self._write({"type": "history", "before": before, "limit": 20})

    async def newest(self) -> int:
        """Ask for the newest number, on as many connections as it takes."""
        while True:
            answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            if self.connected:
                self._pongs.append(answer)
                await self._write({"type": "ping"})
                with contextlib.suppress(ConnectionResetError):
                    return await answer
            await self._pause()

    async def leave(self) -> None:
        """Leave, and have what is under way unanswered."""
        await self._close()
        for id in self._pending:
            self.record.events.append(GaveUp(monotonic(), id, "left"))
        self.record.events.append(Left(monotonic()))

    async def end(self) -> None:
        """The run is over."""
        stayed = Stayed(monotonic(), self.connected, self.trouble)
        await self._close()
        for id in self._pending:
            self.record.events.append(GaveUp(monotonic(), id, "the run ended"))
        self.record.events.append(stayed)

    # --- connecting ----------------------------------------------------------------------

    async def _live(self) -> None:
        place = f"{self._url}/api/chat/workspace/{self.record.workspace}/connect"
        while True:
            after = self.seq if self.epoch else None
            query = "" if after is None else f"?after={after}&epoch={self.epoch}"
            self.record.events.append(Opening(monotonic(), after, self.epoch or None))
            try:
                async with connect(
                    place + query,
                    additional_headers={"Authorization": f"Bearer {self._token}"},
                    compression=None,
                    proxy=None,
                    open_timeout=CONNECT_SECONDS,
                    ping_interval=None,
                    close_timeout=1.0,
                    max_size=None,
                ) as socket:
                    await self._listen(socket)
            except InvalidStatus as refused:
                self.trouble = f"refused with {refused.response.status_code}"
            except (OSError, TimeoutError, InvalidHandshake, ConnectionClosed, EOFError) as error:
                self.trouble = str(error) or type(error).__name__
            await self._pause()

    async def _listen(self, socket: ClientConnection) -> None:
        self._socket = socket
        try:
            async for payload in socket:
                self._take(payload)
        except ConnectionClosed:
            pass
        finally:
            self._socket = self._welcome_seq = None
            for answer in self._pongs:
                if not answer.done():
                    answer.set_exception(ConnectionResetError())
            self._pongs.clear()
            code, reason = socket.close_code or 1006, socket.close_reason or ""
            self.trouble = f"closed with {code} {reason}"
            self.record.events.append(Lost(monotonic(), code, reason))

    async def _close(self) -> None:
        tasks = [*self._tasks, *([self._living] if self._living else [])]
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task

    # --- receiving -----------------------------------------------------------------------

    def _take(self, payload: str | bytes) -> None:
        at = monotonic()
        if (why := departure(payload)) is not None:
            self.record.events.append(Malformed(at, why))
            return
        frame = decode_server(payload)
        assert frame is not None
        self.record.events.append(Received(at, frame))
        was_connected = self.connected
        self._follow(frame)
        if self.connected and not was_connected:
            self._caught_up()

    def _follow(self, frame: ServerFrame) -> None:
        match frame:
            case Welcome():
                self._welcome_seq = frame.seq
                self._read = frame.read
                self._shown = {person.user: person.name for person in frame.online}
                if not frame.resumed:
                    self.seq, self.epoch = frame.seq, frame.epoch
            case Message(seq=seq):
                self.seq = max(self.seq, seq)
            case PresenceChange(state=Presence.ONLINE):
                self._shown[frame.user] = frame.name
            case PresenceChange():
                self._shown.pop(frame.user, None)
            case ReadCursor(seq=seq):
                self._read = seq
            case Pong(seq=seq):
                if self._pongs and not (answer := self._pongs.pop(0)).done():
                    answer.set_result(seq)
            case Ack(id=id):
                text = self._pending.pop(id, None)
                if text is not None and self._chance.random() < REPEATED:
                    self._spawn(self._put(id, text))
            case Error():
                self._refused(frame)
            case _:
                pass

    def _caught_up(self) -> None:
        """Send again what has no answer, in order; it may be stored already."""
        self._spawn(self._put_all(list(self._pending.items())))
        if self._asked > self._read:
            self._spawn(self._write({"type": "read", "seq": self._asked}))

    def _refused(self, error: Error) -> None:
        if error.id is None:
            if self._asked > self._read:
                self._spawn(self._later(lambda: self._write({"type": "read", "seq": self._asked})))
            return
        error_id = error.id
        text = self._pending.get(error_id)
        if text is None:
            return
        if error_id in self._once:
            del self._pending[error_id]
            gave_up = GaveUp(monotonic(), error_id, str(error), refused=True)
            self.record.events.append(gave_up)
        else:
            self._spawn(self._later(lambda: self._put_all([(error_id, text)])))

    # --- sending -------------------------------------------------------------------------

    async def _put_all(self, messages: list[tuple[str, str]]) -> None:
        for id, text in messages:
            await self._put(id, text)

    async def _put(self, id: str, text: str) -> None:
        if self._socket is not None:
            self.record.events.append(Sending(monotonic(), id, text))
            await self._write({"type": "send", "id": id, "text": text})

    async def _write(self, frame: dict[str, Any]) -> None:
        """Write a frame; without a connection nothing happens."""
        if self._socket is not None:
            with contextlib.suppress(ConnectionClosed):
                await self._socket.send(json.dumps(frame))

    async def _later(self, what: Callable[[], Coroutine[Any, Any, None]]) -> None:
        await self._pause(RESEND_SECONDS)
        await what()

    async def _pause(self, seconds: float = PAUSE_SECONDS) -> None:
        await asyncio.sleep(self._chance.uniform(0.2, 1.8) * seconds)

    def _spawn(self, what: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(what)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
