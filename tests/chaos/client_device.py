"""A member of the load on `ChatClient`, recorded both below it and behind it."""

from __future__ import annotations

import asyncio
import contextlib
from time import monotonic

from chatservice.client import (
    Backoff,
    ChatClient,
    ClosedForGood,
    NotConnected,
    Refused,
    SendRefused,
)
from chatservice.protocol import Ack, ServerFrame
from tests.chaos.history import (
    GaveUp,
    Left,
    Opening,
    Reading,
    Received,
    Record,
    Returned,
    Sending,
    Stayed,
    Vantage,
)

PATIENCE = 60.0
"""Seconds that the client goes on trying to connect, and to get an answer to a send."""
BACKOFF = Backoff(base=0.1, cap=1.0)
"""Shorter than the client's own: the run is to be full of connections, not of waiting for them."""


class ClientDevice:
    """One stay of one device.

    Args:
        url: where it connects to.
        token: its token.
        record: an empty record of the vantage CLIENT; its twin behind the client is `given`.
    """

    def __init__(self, url: str, token: str, record: Record) -> None:
        self.record = record
        self.given = Record(
            f"{record.device} (given)", record.user, record.name, record.workspace, Vantage.EVENTS
        )
        self.records = [self.record, self.given]
        self.unanswered = 0
        self._asked = 0
        self._client = ChatClient(
            url,
            workspace=record.workspace,
            token=token,
            backoff=BACKOFF,
            connect_timeout=PATIENCE,
            on_frame=self._on_frame,
        )
        self._sends: set[asyncio.Task[None]] = set()
        self._ended = ""
        self._living: asyncio.Task[None] | None = None

    # --- what it knows -------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """Whether it is connected and up to date."""
        return self._client.connected

    @property
    def seq(self) -> int:
        """The last number seen."""
        return self._client.seq

    @property
    def online(self) -> set[str]:
        """The users whom it is shown as online."""
        return set(self._client.online)

    @property
    def read_settled(self) -> bool:
        """Whether the service has confirmed how far it has read."""
        return self._client.cursor >= self._asked

    @property
    def trouble(self) -> str:
        """Why it is not connected."""
        return self._ended or self._client.last_failure

    # --- what it does --------------------------------------------------------------------

    def start(self) -> None:
        """Connect, and stay connected."""
        self.record.events.append(Opening(monotonic(), None, None))
        self._living = asyncio.create_task(self._live(), name=self.record.device)

    def send(self, id: str, text: str) -> None:
        """Send a message, whatever the state of the connection."""
        self.record.events.append(Sending(monotonic(), id, text))
        self.unanswered += 1
        task = asyncio.create_task(self._send(id, text))
        self._sends.add(task)
        task.add_done_callback(self._sends.discard)

    async def read(self) -> None:
        """Read everything that came so far."""
        seq = self._client.seq
        if seq > self._asked and not self._ended:
            self._asked = seq
            self.record.events.append(Reading(monotonic(), seq))
            with contextlib.suppress(ClosedForGood, Refused):
                await self._client.read(seq)

    async def type(self) -> None:
        """Have the others know that this one types."""
        with contextlib.suppress(ClosedForGood, Refused):
            await self._client.typing()

    async def look_back(self, before: int) -> None:
        """Read a page of history; what comes is on the record."""
        with contextlib.suppress(ClosedForGood, Refused, TimeoutError):
            await self._client.history(before, 20, timeout=PATIENCE)

    async def newest(self) -> int:
        """Ask for the newest number; 0 where there is no answer."""
        with contextlib.suppress(ClosedForGood, Refused, TimeoutError):
            return await self._client.ping(timeout=PATIENCE)
        return 0

    async def leave(self) -> None:
        """Leave, and have what is under way unanswered."""
        await self._close()
        self.record.events.append(Left(monotonic()))
        self.given.events.append(Left(monotonic()))

    async def end(self) -> None:
        """The run is over."""
        stayed = Stayed(monotonic(), self.connected, self.trouble)
        await self._close()
        self.record.events.append(stayed)
        self.given.events.append(stayed)

    # --- inside --------------------------------------------------------------------------

    async def _close(self) -> None:
        await self._client.close()
        await asyncio.gather(*self._sends)
        if self._living is not None:
            await self._living

    def _on_frame(self, frame: ServerFrame) -> None:
        self.record.events.append(Received(monotonic(), frame))

    async def _live(self) -> None:
        try:
            await self._client.connect()
            async for frame in self._client.events():
                self.given.events.append(Received(monotonic(), frame))
        except (Refused, ClosedForGood, NotConnected) as error:
            self._ended = str(error)

    async def _send(self, id: str, text: str) -> None:
        record = self.record
        try:
            ack: Ack = await self._client.send(text, id, timeout=PATIENCE)
        except SendRefused as refused:
            record.events.append(GaveUp(monotonic(), id, str(refused), refused=True))
        except (TimeoutError, ClosedForGood, Refused) as error:
            record.events.append(GaveUp(monotonic(), id, str(error)))
        else:
            record.events.append(Returned(monotonic(), ack))
        finally:
            self.unanswered -= 1
