"""The client itself: its calls, over a membership that is kept alive underneath."""

from __future__ import annotations

import asyncio
import contextlib
import random
import uuid
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from ssl import SSLContext
from types import TracebackType
from typing import Literal, Self, TypeVar

from chatservice.client.answers import TryAgainError
from chatservice.client.errors import ClosedHere, NotConnected
from chatservice.client.handshake import Target, TokenPlace, TokenSource
from chatservice.client.link import Dropped
from chatservice.client.membership import Membership
from chatservice.client.state import Backoff
from chatservice.protocol import (
    Ack,
    Authenticate,
    ClientFrame,
    History,
    Ping,
    ReadHistory,
    Send,
    ServerFrame,
    StartTyping,
    Welcome,
)

Answer = TypeVar("Answer")


class ChatClient:
    """A member of one workspace, over as many connections as it takes.

    Args:
        url: where the service is, `ws://host:port` or `wss://host/prefix`; http(s) will do.
        workspace: the workspace's id.
        token: a token, or a function (it may be async) that gives a fresh one for each
            connection; None for none.
        token_in: where the token travels: in the header `Authorization`, as a subprotocol
            (as browsers must), or in the query.
        origin: the header `Origin`, for a client that stands in for a browser.
        ssl: for `wss://`; the system's authorities by default.
        backoff: how long to wait between attempts.
        reconnect: False for a client that gives up at the first refusal or loss of any kind.
        connect_timeout: seconds until `connect` gives up; None for never.
        open_timeout: seconds that one attempt may take.
        outbox: how many sends may wait for their acknowledgement; further ones wait for room.
        buffer: how many received frames are kept for `events` and `wait_for`.
        headers: more headers for the upgrade request.
        proxy: the address of a proxy, or True for the environment's.
        on_frame: called with every frame as it came, repeats too; for checks of the server.
    """

    def __init__(
        self,
        url: str,
        *,
        workspace: str,
        token: TokenSource,
        token_in: TokenPlace = "header",  # noqa: S107 - a place, not a password
        origin: str | None = None,
        ssl: SSLContext | None = None,
        backoff: Backoff = Backoff(),  # noqa: B008 - immutable
        reconnect: bool = True,
        connect_timeout: float | None = 30.0,
        open_timeout: float = 10.0,
        outbox: int = 1000,
        buffer: int = 10_000,
        headers: Mapping[str, str] | None = None,
        proxy: str | Literal[True] | None = None,
        on_frame: Callable[[ServerFrame], None] | None = None,
    ) -> None:
        self._target = Target(
            url=url,
            workspace=workspace,
            token_in=token_in,
            origin=origin,
            ssl=ssl,
            headers=headers or {},
            proxy=proxy,
            open_timeout=open_timeout,
        )
        self._membership = Membership(
            self._target,
            token,
            backoff=backoff,
            reconnect=reconnect,
            outbox=outbox,
            buffer=buffer,
            on_frame=on_frame,
        )
        self._session = self._membership.session
        self._backoff = backoff
        self._connect_timeout = connect_timeout
        self._outbox_room = asyncio.Semaphore(outbox)
        self._asking: dict[type[ClientFrame], asyncio.Lock] = defaultdict(asyncio.Lock)
        self._task: asyncio.Task[None] | None = None

    # --- what is known -------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """Whether it is connected, and has received all that belongs to the welcome."""
        return self._membership.connected

    @property
    def welcome(self) -> Welcome:
        """The newest welcome.

        Raises:
            RuntimeError: there was none yet.
        """
        if self._session.welcome is None:
            raise RuntimeError("not welcomed yet")
        return self._session.welcome

    @property
    def seq(self) -> int:
        """The number of the last message seen; 0 before any."""
        return self._session.seq

    @property
    def epoch(self) -> str:
        """The identity of the history that `seq` belongs to."""
        return self._session.epoch

    @property
    def online(self) -> dict[str, str]:
        """The names of the users online, by id, as of now."""
        return dict(self._session.online)

    @property
    def unread(self) -> int:
        """How many messages of others come after the cursor."""
        return self._session.unread

    @property
    def cursor(self) -> int:
        """How far this user has read."""
        return self._session.read

    @property
    def repeats(self) -> int:
        """How many messages the server sent again; each was dropped."""
        return self._session.repeats

    @property
    def gaps(self) -> int:
        """How often a message was missing; each time the client connected again to get it."""
        return self._session.gaps

    @property
    def connections(self) -> int:
        """How often it was welcomed."""
        return self._membership.connections

    @property
    def last_failure(self) -> str:
        """What went wrong last, for a person."""
        return self._membership.last_failure

    # --- coming and going ----------------------------------------------------------------

    async def connect(self) -> None:
        """Connect, and stay connected until `close`.

        Raises:
            Refused: the server refused for good (or at all, with `reconnect=False`).
            ClosedForGood: the server closed the first connection for good.
            NotConnected: there was no connection within `connect_timeout`.
        """
        if self._task is not None:
            raise RuntimeError("this client was connected before")
        self._task = asyncio.create_task(self._membership.stay_connected(), name="chat client")
        try:
            async with asyncio.timeout(self._connect_timeout):
                await self._membership.until_connected()
        except TimeoutError:
            await self.close()
            raise NotConnected(
                f"not connected to {self._target.url} within {self._connect_timeout:g} s; "
                f"last: {self.last_failure}"
            ) from None
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Close the connection; whoever still waits for something gets `ClosedForGood`.

        Cancelled, it does not wait for the server's goodbye: the connection is cut.
        """
        try:
            if self._task is not None:
                self._task.cancel()
                await asyncio.gather(self._task, return_exceptions=True)
        finally:
            self._membership.end(ClosedHere())

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    # --- asking --------------------------------------------------------------------------

    async def send(self, text: str, id: str | None = None, *, timeout: float = 30.0) -> Ack:  # noqa: ASYNC109 - says what was not acknowledged
        """Send a message; it is on disk, once, when this returns.

        Sends go out in the order of the calls. One that the server cannot take for now is sent
        again until `timeout`, and then may come after later ones.

        Args:
            text: the message.
            id: names the message, so that it can be sent again; a new one by default.
            timeout: seconds.

        Raises:
            SendRefused: the server refused it for good; it is not stored.
            TimeoutError: no acknowledgement came in time. Only the same id, sent again, tells
                whether it is stored.
            ClosedForGood, Refused: this client is not connected any more, and will not be.
        """
        frame = Send(uuid.uuid4().hex if id is None else id, text)
        if not 1 <= len(frame.id) <= 64:
            raise ValueError("the id of a message must have 1 to 64 characters")
        if self._membership.under_way(frame.id):
            raise ValueError(f"a message with the id {frame.id!r} is under way already")
        try:
            async with asyncio.timeout(timeout), self._outbox_room:
                self._membership.check_not_ended()
                answer = self._membership.post(frame)
                try:
                    return await answer
                finally:
                    self._membership.withdraw(frame.id)
        except TimeoutError:
            raise self._late("acknowledgement", timeout) from None

    async def read(self, seq: int) -> None:
        """Say that everything up to `seq` is read; a `read` frame brings the new count.

        Without a connection it is said at the next one.
        """
        self._membership.check_not_ended()
        await self._membership.read(seq)

    async def typing(self) -> None:
        """Say that the user is typing; nothing happens without a connection."""
        self._membership.check_not_ended()
        with contextlib.suppress(Dropped):
            await self._membership.write(StartTyping())

    async def history(
        self,
        before: int | None = None,
        limit: int = 50,
        *,
        timeout: float = 30.0,  # noqa: ASYNC109 - says what did not come
    ) -> History:
        """Get the `limit` newest messages numbered below `before` (by default: of all).

        Raises:
            RequestRefused, TimeoutError, ClosedForGood, Refused: as in `send`.
        """
        asked = ReadHistory(self.seq + 1 if before is None else before, limit)
        return await self._ask(asked, lambda: self._membership.answers.page(asked), timeout)

    async def ping(self, *, timeout: float = 30.0) -> int:  # noqa: ASYNC109
        """Ask for the newest number.

        Raises:
            TimeoutError, ClosedForGood, Refused: as in `send`.
        """
        return (await self._ask(Ping(), self._membership.answers.pong, timeout)).seq

    async def renew(self, token: str, *, timeout: float = 30.0) -> int:  # noqa: ASYNC109
        """Hand in a newer token for the same user; give its expiry in seconds since 1970.

        Later connections use it too, unless this client was given a function for tokens.

        Raises:
            RequestRefused: it was not taken (`auth_failed`); the old one stays in force.
            TimeoutError, ClosedForGood, Refused: as in `send`.
        """
        answer = await self._ask(Authenticate(token), self._membership.answers.renewal, timeout)
        if not callable(self._membership.token):
            self._membership.token = token
        return answer.exp

    async def _ask(
        self,
        frame: ClientFrame,
        expect: Callable[[], asyncio.Future[Answer]],
        seconds: float,
    ) -> Answer:
        """Send a request, again where necessary, until it is answered."""
        failures = 0
        try:
            async with asyncio.timeout(seconds), self._asking[type(frame)]:
                while True:
                    await self._membership.until_connected()
                    answer = expect()
                    try:
                        await self._membership.write(frame)
                        return await answer
                    except (TryAgainError, Dropped):
                        answer.cancel()
                        failures += 1
                        await asyncio.sleep(self._backoff.delay(failures, random.random))
        except TimeoutError:
            raise self._late("answer", seconds) from None

    def _late(self, what: str, seconds: float) -> TimeoutError:
        state = (
            "connected" if self.connected else f"not connected ({self._membership.last_failure})"
        )
        return TimeoutError(f"no {what} within {seconds:g} s; {state}")

    # --- reading -------------------------------------------------------------------------

    async def events(self) -> AsyncIterator[ServerFrame]:
        """Give what comes, in order: `welcome`, `history` after it, `message`, `presence` ...

        Each message comes once, over all connections. A `welcome` with `resumed: false` says
        that what was seen before does not count any more. Answers to this client's own calls are
        given to the callers only. Another call goes on where the last one stopped; it ends when
        this client is closed.

        Raises:
            LaggedError: frames came faster than they were read, and more than `buffer` waited.
            ClosedForGood, Refused: this client was turned away for good.
        """
        while True:
            try:
                frame = await self._membership.feed.next()
            except ClosedHere:
                return
            yield frame

    def mark(self) -> int:
        """Give the place in what was received so far, for `wait_for`."""
        return self._membership.feed.end

    async def wait_for(
        self,
        fits: Callable[[ServerFrame], bool],
        timeout: float = 10.0,  # noqa: ASYNC109 - says what came instead
        *,
        since: int = 0,
    ) -> ServerFrame:
        """Give the first frame from the place `since` on that fits, as soon as it is there.

        It may have come before: without `since` everything that is kept is looked at. Takes
        nothing away from `events`.

        Raises:
            TimeoutError: none came within `timeout` seconds; says what came.
            ClosedForGood, Refused: this client was turned away for good before one came.
        """
        try:
            async with asyncio.timeout(timeout):
                return await self._membership.feed.find(fits, since)
        except TimeoutError:
            kinds = Counter(type(frame).__name__ for frame in self._membership.feed.since(since))
            seen = ", ".join(f"{kind} {count}x" for kind, count in kinds.items()) or "nothing"
            raise TimeoutError(f"no such frame within {timeout:g} s; there came {seen}") from None
