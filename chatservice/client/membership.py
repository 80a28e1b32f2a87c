"""Keeping one membership over any number of connections.

One task connects, lives with the connection as long as it lasts, and connects again; what comes in
is sorted here into answers for those who asked and events for those who read.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from typing import Final

from websockets.exceptions import WebSocketException

from chatservice import logs
from chatservice.client.answers import TEMPORARY, Answers
from chatservice.client.errors import ClosedForGood, Refused
from chatservice.client.feed import Feed
from chatservice.client.handshake import Target, TokenSource, TokenUnavailable, current_token
from chatservice.client.link import Dropped, Link
from chatservice.client.state import Backoff, Outbox, OutOfStepError, Session, may_reconnect
from chatservice.protocol import (
    Ack,
    Authenticated,
    ClientFrame,
    Error,
    FrameError,
    History,
    Message,
    Pong,
    Read,
    Reconnect,
    Send,
    ServerFrame,
    Welcome,
)

log = logs.get_logger("client")

STABLE_SECONDS: Final = 5.0
"""A connection that lasted so long was good: the next failure is the first again."""


class Membership:
    """A client's whole state, and the task that keeps it connected.

    Args:
        target: where to connect to.
        token: a token or what gives one; may be replaced at any time.
        backoff: how long to wait between attempts, and after a send that came too early.
        reconnect: False to give up at the first refusal or loss of any kind.
        outbox: how many sends may be under way.
        buffer: how many frames the feed keeps.
        on_frame: called with every frame as it came.
    """

    def __init__(
        self,
        target: Target,
        token: TokenSource,
        *,
        backoff: Backoff,
        reconnect: bool,
        outbox: int,
        buffer: int,
        on_frame: Callable[[ServerFrame], None] | None,
    ) -> None:
        self.token = token
        self.session = Session()
        self.answers = Answers()
        self.feed = Feed(buffer)
        self.connections = 0
        self.last_failure = "the first attempt has not ended"
        self._target = target
        self._backoff = backoff
        self._reconnect = reconnect
        self._on_frame = on_frame
        self._outbox = Outbox(widest=outbox)
        self._link: Link | None = None
        self._ready = asyncio.Event()
        self._outgoing = asyncio.Event()
        self._hold_sends_until = 0.0
        self._pauses = 0
        self._read_wanted = 0
        self._read_again = False
        self._come_back_at: float | None = None
        self._welcomed_at: float | None = None

    # --- for the client's calls ----------------------------------------------------------

    @property
    def connected(self) -> bool:
        """Whether all that belongs to the newest welcome has come, and the connection lasts."""
        return self._ready.is_set() and self.feed.ended is None

    def check_not_ended(self) -> None:
        """Raise why nothing more comes, where that is so."""
        if self.feed.ended is not None:
            raise self.feed.ended.with_traceback(None)

    async def until_connected(self) -> None:
        """Wait for a connection.

        Raises:
            Exception: what `end` was told.
        """
        await self._ready.wait()
        self.check_not_ended()

    async def write(self, frame: ClientFrame) -> None:
        """Send a frame on the present connection.

        Raises:
            Dropped: there is none, or it has just broken.
        """
        if self._link is None or not self.connected:
            raise Dropped(1006, "not connected")
        await self._link.write(frame)

    def under_way(self, id: str) -> bool:
        """Whether a send with this id has no final answer yet."""
        return id in self._outbox

    def post(self, frame: Send) -> asyncio.Future[Ack]:
        """Send a message as soon as possible and as often as necessary, until `withdraw`."""
        answer = self.answers.ack(frame.id)
        self._outbox.add(frame)
        self._outgoing.set()
        return answer

    def withdraw(self, id: str) -> None:
        """Nobody waits for this send any more."""
        self._outbox.remove(id)
        self.answers.forget(id)
        self._outgoing.set()

    async def read(self, seq: int) -> None:
        """Move the cursor now, or on the next connection."""
        self._read_wanted = max(seq, self._read_wanted)
        with contextlib.suppress(Dropped):
            await self.write(Read(self._read_wanted))

    def end(self, why: Exception) -> None:
        """Let everybody know that nothing more comes."""
        self.feed.finish(why)
        self.answers.end(why)
        self._ready.set()

    # --- the connection ------------------------------------------------------------------

    async def stay_connected(self) -> None:
        """Connect, again and again, until that is of no use."""
        failures = 0
        loop = asyncio.get_running_loop()
        try:
            while True:
                at_least = 0.0
                try:
                    await self._connect_once()
                except Refused as refused:
                    self.last_failure = str(refused)
                    if refused.final or not self._reconnect:
                        self.end(refused)
                        return
                    at_least = refused.retry_after or 0.0
                except Dropped as dropped:
                    self.last_failure = f"closed with {dropped}"
                    if not may_reconnect(dropped.code) or not self._reconnect:
                        self.end(ClosedForGood(dropped.code, dropped.reason))
                        return
                except (OSError, WebSocketException, TokenUnavailable, OutOfStepError,
                        FrameError) as error:  # fmt: skip
                    self.last_failure = str(error) or type(error).__name__
                    if not self._reconnect:
                        self.end(ClosedForGood(1006, self.last_failure))
                        return
                since, self._welcomed_at = self._welcomed_at, None
                stable = since is not None and loop.time() - since >= STABLE_SECONDS
                failures = 1 if stable else failures + 1
                delay = at_least + self._backoff.delay(failures, random.random)
                if self._come_back_at is not None:
                    delay = max(0.0, self._come_back_at - loop.time())
                    self._come_back_at = None
                log.info("connecting again", why=self.last_failure, delay=round(delay, 3))
                await asyncio.sleep(delay)
        except Exception as error:
            log.exception("bug in the client")
            self.end(error)

    async def _connect_once(self) -> None:
        """Hold one connection for as long as it lasts.

        Raises:
            Refused, Dropped, OSError, WebSocketException, TokenUnavailable, OutOfStepError,
            FrameError: why there is none (any more).
        """
        token = await current_token(self.token)
        socket = await self._target.open(token, self.session.resume)
        link = Link(
            socket,
            receive=self._receive,
            pinged=self.answers.nobodys_pong,
            patience=self._target.open_timeout,
        )
        self._link = link
        sending = asyncio.create_task(self._send_waiting(link), name="chat client sends")
        try:
            await link.run()
        finally:
            sending.cancel()
            try:
                await asyncio.gather(sending, return_exceptions=True)
                self._disconnected()
                await link.close()
            finally:  # also where this is cancelled once more: nobody would close it any more
                link.cut()

    async def _send_waiting(self, link: Link) -> None:
        """Write what waits to be sent, as fast as the server takes it."""
        loop = asyncio.get_running_loop()
        with contextlib.suppress(Dropped):  # the link itself notices, and says why
            while True:
                await self._outgoing.wait()
                self._outgoing.clear()
                while self.connected:
                    if (pause := self._hold_sends_until - loop.time()) > 0:
                        await asyncio.sleep(pause)
                        continue
                    if self._read_again:
                        self._read_again = False
                        await link.write(Read(self._read_wanted))
                    if (frame := self._outbox.take()) is None:
                        break
                    await link.write(frame)

    def _disconnected(self) -> None:
        """Remember what has to be said again on the next connection."""
        self._link = None
        if self.feed.ended is None:
            self._ready.clear()
        for ack in self._outbox.disconnected():
            self.answers.acknowledged(ack)
        self.answers.interrupted()

    # --- what comes in -------------------------------------------------------------------

    def _receive(self, frame: ServerFrame) -> None:
        """Take in one frame.

        Raises:
            OutOfStepError: it does not continue what was seen.
        """
        if self._on_frame is not None:
            self._on_frame(frame)
        belongs_to_welcome = isinstance(frame, History) and self.session.awaits_newest
        if self.session.receive(frame) and not self._answered(frame, belongs_to_welcome):
            self.feed.append(frame)
        if not self._ready.is_set() and self.session.caught_up and self._link is not None:
            self._ready.set()
            self._outgoing.set()

    def _answered(self, frame: ServerFrame, belongs_to_welcome: bool) -> bool:
        """Do what a frame calls for; give whether it concerned one of this client's calls only."""
        match frame:
            case Welcome():
                self._welcomed(frame)
            case Message():
                self._echoed(frame)
            case History() if belongs_to_welcome:
                for message in frame.messages:
                    self._echoed(message)
            case History():
                self.answers.paged(frame)
                return True
            case Ack():
                self._pauses = 0
                self._outbox.acknowledged(frame.id)
                self.answers.acknowledged(frame)
                self._outgoing.set()
                return True
            case Pong():
                self.answers.ponged(frame)
                return True
            case Authenticated():
                self.answers.renewed(frame)
                return True
            case Error():
                return self._refused(frame)
            case Reconnect():
                self._come_back_at = asyncio.get_running_loop().time() + frame.in_ms / 1000
            case _:
                pass
        return False

    def _welcomed(self, welcome: Welcome) -> None:
        self.connections += 1
        self._welcomed_at = asyncio.get_running_loop().time()
        self._read_again = self._read_wanted > welcome.read
        log.info(
            "connected", workspace=welcome.workspace, user=welcome.user, resumed=welcome.resumed
        )

    def _echoed(self, message: Message) -> None:
        """Take one's own message for the acknowledgement of a send that the last connection ate."""
        welcome = self.session.welcome
        if welcome is None or message.user != welcome.user:
            return
        if ack := self._outbox.echoed(message):
            self._outbox.remove(ack.id)
            self.answers.acknowledged(ack)

    def _refused(self, error: Error) -> bool:
        """Take in an error; give whether it answered one of this client's calls."""
        temporary = error.code in TEMPORARY
        if error.id is None:
            if temporary and self._read_wanted > self.session.read:
                self._read_again = True
                self._pause()
            elif not temporary and error.message.startswith("read:"):
                self._read_wanted = self.session.read
            return self.answers.refused(error)
        if temporary:
            known = self._outbox.refused(error.id)
        else:
            known = self._outbox.remove(error.id)
            self.answers.send_refused(error)
        if known and temporary:
            self._pause()
        self._outgoing.set()
        return known

    def _pause(self) -> None:
        """Send nothing for a while, and longer each time in a row."""
        self._pauses += 1
        pause = self._backoff.delay(self._pauses, random.random)
        self._hold_sends_until = asyncio.get_running_loop().time() + pause
        self._outgoing.set()
