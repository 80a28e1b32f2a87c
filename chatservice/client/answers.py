"""Who waits for which answer of the server.

Acknowledgements belong to their send by id, and outlive a connection. The other requests carry no
id: one of each kind is under way at a time, its answer is the next of its kind, and when the
connection breaks it is asked again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Final

from chatservice.client.errors import RequestRefused, SendRefused
from chatservice.protocol import (
    Ack,
    Authenticated,
    Error,
    ErrorCode,
    History,
    Pong,
    ReadHistory,
)

TEMPORARY: Final = frozenset({ErrorCode.UNAVAILABLE, ErrorCode.RATE_LIMITED})
"""What is worth another try, a little later."""


class TryAgainError(Exception):
    """The connection broke, or the server was busy, before the answer came."""


class Answers:
    """The futures of everybody who waits."""

    def __init__(self) -> None:
        self._acks: dict[str, asyncio.Future[Ack]] = {}
        self._page: tuple[ReadHistory, asyncio.Future[History]] | None = None
        self._pongs: deque[asyncio.Future[Pong] | None] = deque()
        self._renewal: asyncio.Future[Authenticated] | None = None

    # --- asking --------------------------------------------------------------------------

    def ack(self, id: str) -> asyncio.Future[Ack]:
        """Wait for the acknowledgement of a send; `forget` it afterwards."""
        self._acks[id] = future = asyncio.get_running_loop().create_future()
        return future

    def forget(self, id: str) -> None:
        """Nobody waits for this acknowledgement any more."""
        self._acks.pop(id, None)

    def page(self, asked: ReadHistory) -> asyncio.Future[History]:
        """Wait for a page of history."""
        future: asyncio.Future[History] = asyncio.get_running_loop().create_future()
        self._page = (asked, future)
        return future

    def pong(self) -> asyncio.Future[Pong]:
        """Wait for the pong of a ping that is sent now."""
        future: asyncio.Future[Pong] = asyncio.get_running_loop().create_future()
        self._pongs.append(future)
        return future

    def nobodys_pong(self) -> None:
        """Expect a pong that nobody waits for, in its place among the others."""
        self._pongs.append(None)

    def renewal(self) -> asyncio.Future[Authenticated]:
        """Wait for the answer to a new token."""
        self._renewal = future = asyncio.get_running_loop().create_future()
        return future

    # --- being answered ------------------------------------------------------------------

    def acknowledged(self, ack: Ack) -> None:
        """A message is stored."""
        _settle(self._acks.get(ack.id), ack)

    def send_refused(self, error: Error) -> None:
        """A message was refused for good."""
        assert error.id is not None
        _fail(self._acks.get(error.id), SendRefused(error.code, error.message))

    def paged(self, history: History) -> None:
        """A page came. One that does not fit answers late a request that was given up."""
        if self._page is None:
            return
        asked, future = self._page
        messages = history.messages
        if len(messages) <= asked.limit and (not messages or messages[-1].seq < asked.before):
            self._page = None
            _settle(future, history)

    def ponged(self, pong: Pong) -> None:
        """The next pong came."""
        if self._pongs:
            _settle(self._pongs.popleft(), pong)

    def renewed(self, answer: Authenticated) -> None:
        """The new token was taken."""
        _settle(self._renewal, answer)
        self._renewal = None

    def refused(self, error: Error) -> bool:
        """An error without an id came. Gives False when it answers nothing that is asked here.

        Such an error names the request it answers only for a person, in front of its message.
        """
        if error.code in TEMPORARY:
            return self.interrupted()
        why = RequestRefused(error.code, error.message)
        if error.code is ErrorCode.AUTH_FAILED or error.message.startswith("auth:"):
            renewal, self._renewal = self._renewal, None
            return _fail(renewal, why)
        if error.message.startswith("history:") and self._page is not None:
            (_, future), self._page = self._page, None
            return _fail(future, why)
        return False

    def interrupted(self) -> bool:
        """Have everything but the sends asked again; give whether there was anything."""
        waiting = [future for future in self._pongs if future is not None]
        futures = [self._page[1] if self._page else None, self._renewal, *waiting]
        self._pongs.clear()
        self._page = self._renewal = None
        return sum(_fail(future, TryAgainError()) for future in futures) > 0

    def end(self, why: Exception) -> None:
        """Nothing more comes: everybody gets `why`."""
        waiting = [future for future in self._pongs if future is not None]
        page = self._page[1] if self._page else None
        for future in (*self._acks.values(), *waiting, page, self._renewal):
            _fail(future, why)


def _settle(future: asyncio.Future[Any] | None, answer: Any) -> None:
    if future is not None and not future.done():
        future.set_result(answer)


def _fail(future: asyncio.Future[Any] | None, why: Exception) -> bool:
    if future is None or future.done():
        return False
    future.set_exception(why)
    return True
