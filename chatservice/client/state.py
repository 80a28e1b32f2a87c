"""What a client of chat.v1 knows and decides, without any I/O.

`Session` is the client's place in the workspace: it lets each message through once, in order, and
notices when one is missing. `Outbox` holds the sends that have no final answer yet, and says which
to write next. `Backoff` says how long to wait before trying again.

Imports nothing of chatservice but `protocol`.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Final

import msgspec

from chatservice.protocol import (
    Ack,
    History,
    Message,
    Pong,
    Presence,
    PresenceChange,
    ReadCursor,
    Send,
    ServerFrame,
    Welcome,
)

FIRST_WINDOW: Final = 32
"""How many unacknowledged sends are under way at first: fewer than a server's default burst."""


class Backoff(msgspec.Struct, frozen=True):
    """Exponential backoff with full jitter: uniform between 0 and a doubling, capped bound.

    Full jitter spreads a crowd that was cut off together best (M. Brooker, "Exponential Backoff
    And Jitter", AWS Architecture Blog, 2015). Both numbers are seconds.
    """

    base: float = 0.2
    cap: float = 10.0

    def delay(self, failures: int, chance: Callable[[], float]) -> float:
        """Give the seconds to wait after so many failures in a row (1 after the first).

        `chance` gives a number from 0 to 1.
        """
        # 2**60 seconds are past any cap; the bound keeps the power a small number.
        return min(self.cap, self.base * 2.0 ** min(max(failures - 1, 0), 60)) * chance()


def may_reconnect(code: int) -> bool:
    """Whether a client may come back by itself after this close code.

    4500-4999 are final. All others are: 1012 and 4000-4499 by the contract, and what a proxy or
    a broken network leaves (1001, 1006, 1011 ...) because nothing said that it is final.
    """
    return not 4500 <= code <= 4999


class OutOfStepError(Exception):
    """What came does not continue what was seen: the client must connect again.

    `forget`: it must start afresh there, because even resuming did not fit.
    """

    def __init__(self, message: str, *, forget: bool = False) -> None:
        super().__init__(message)
        self.forget = forget


class Session:
    """A client's place in its workspace, and what it knows of it."""

    def __init__(self) -> None:
        self.welcome: Welcome | None = None
        """The newest welcome."""
        self.epoch = ""
        self.seq = 0
        """The number of the last message seen; every one up to it was, or came before."""
        self.read = 0
        self.unread = 0
        self.online: dict[str, str] = {}
        """The names of the users online, by id."""
        self.repeats = 0
        """Messages that came again, and were dropped."""
        self.gaps = 0
        """How often a message was missing."""
        self._awaits_newest = False
        self._pong_ahead: int | None = None

    @property
    def resume(self) -> dict[str, str]:
        """The query parameters that ask for what was missed; none for a fresh start."""
        return {"after": str(self.seq), "epoch": self.epoch} if self.epoch else {}

    @property
    def awaits_newest(self) -> bool:
        """Whether the next `history` frame belongs to the welcome, and answers no request."""
        return self._awaits_newest

    @property
    def caught_up(self) -> bool:
        """Whether all that belongs to the welcome has come: then unanswered sends may go."""
        return self.welcome is not None and not self._awaits_newest and self.seq >= self.welcome.seq

    def receive(self, frame: ServerFrame) -> bool:
        """Take a frame in; give whether it is new to the client's user.

        Raises:
            OutOfStepError: a message is missing, or the welcome contradicts what was seen.
        """
        match frame:
            case Message():
                return self._message(frame)
            case Welcome():
                self._welcomed(frame)
            case History() if self._awaits_newest:
                self._awaits_newest = False
                if frame.messages:
                    self.seq = max(self.seq, frame.messages[-1].seq)
            case PresenceChange(state=Presence.ONLINE):
                self.online[frame.user] = frame.name
            case PresenceChange():
                self.online.pop(frame.user, None)
            case ReadCursor():
                self.read, self.unread = frame.seq, frame.unread
            case Pong():
                self._ponged(frame)
            case _:
                pass
        return True

    def _message(self, message: Message) -> bool:
        if message.seq <= self.seq:
            self.repeats += 1
            return False
        if message.seq != self.seq + 1:
            self._missing(f"message {message.seq} came after {self.seq}")
        self.seq = message.seq
        # The welcome has counted the missed ones among the unread already.
        welcome = self.welcome
        if welcome is not None and message.seq > welcome.seq and message.user != welcome.user:
            self.unread += 1
        return True

    def _welcomed(self, welcome: Welcome) -> None:
        if welcome.resumed and (welcome.epoch != self.epoch or welcome.seq < self.seq):
            self.epoch = ""
            raise OutOfStepError("the server resumed another history", forget=True)
        self.welcome = welcome
        self.epoch = welcome.epoch
        if not welcome.resumed:
            self.seq = welcome.seq
        self._awaits_newest = not welcome.resumed
        self._pong_ahead = None
        self.read, self.unread = welcome.read, welcome.unread
        self.online = {person.user: person.name for person in welcome.online}

    def _ponged(self, pong: Pong) -> None:
        """Notice a lost tail. A pong may overtake a message once, but not until the next pong."""
        if self._pong_ahead is not None and self.seq < self._pong_ahead:
            self._missing(f"the newest message is {self._pong_ahead}, but only {self.seq} came")
        self._pong_ahead = pong.seq if pong.seq > self.seq else None

    def _missing(self, why: str) -> None:
        self.gaps += 1
        raise OutOfStepError(why)


class _Entry(msgspec.Struct):
    """One send without a final answer. `echo`: what its own message told, before the ack."""

    order: int
    frame: Send
    under_way: bool = False
    echo: Ack | None = None


class Outbox:
    """Sends without a final answer, in the order in which they were given.

    At most `window` are under way at a time. The window shrinks to one when the server asks for a
    pause, and grows by one with each acknowledgement; a server's rate is found that way without
    being told.
    """

    def __init__(self, *, window: int = FIRST_WINDOW, widest: int = 1000) -> None:
        self._entries: dict[str, _Entry] = {}
        self._waiting: list[tuple[int, str]] = []
        self._under_way = 0
        self._orders = 0
        self._widest = widest
        self._window = min(window, widest)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, id: str) -> bool:
        return id in self._entries

    def add(self, frame: Send) -> None:
        """Take in a send; its id is not in here yet."""
        entry = _Entry(self._orders, frame)
        self._orders += 1
        self._entries[frame.id] = entry
        heapq.heappush(self._waiting, (entry.order, frame.id))

    def take(self) -> Send | None:
        """Give the next one to write, or None: nothing waits, or the window is full."""
        while self._waiting and self._under_way < self._window:
            order, id = heapq.heappop(self._waiting)
            entry = self._entries.get(id)
            if entry is not None and entry.order == order and not entry.under_way:
                entry.under_way = True
                self._under_way += 1
                return entry.frame
        return None

    def acknowledged(self, id: str) -> bool:
        """It is stored. Gives False where it is not in here: acknowledged again, or given up."""
        self._window = min(self._window + 1, self._widest)
        return self.remove(id)

    def remove(self, id: str) -> bool:
        """It was refused for good, or its sender gave up."""
        entry = self._entries.pop(id, None)
        if entry is not None and entry.under_way:
            self._under_way -= 1
        return entry is not None

    def refused(self, id: str) -> bool:
        """The server cannot take it now: it waits again, and the window shrinks."""
        self._window = 1
        entry = self._entries.get(id)
        if entry is not None and entry.under_way:
            self._wait_again(entry)
        return entry is not None

    def echoed(self, message: Message) -> Ack | None:
        """Take the client's own message: give the acknowledgement of a send that waits.

        A send under way gets its own ack; if the connection breaks before, this one counts.
        """
        entry = self._entries.get(message.id)
        if entry is None:
            return None
        entry.echo = Ack(message.id, message.seq, message.ts)
        return None if entry.under_way else entry.echo

    def disconnected(self) -> list[Ack]:
        """The connection is gone: what was under way waits again, but for what was echoed.

        Gives the acknowledgements that follow from the echoes.
        """
        for entry in self._entries.values():
            if entry.under_way:
                self._wait_again(entry)
        echoes = [entry.echo for entry in self._entries.values() if entry.echo is not None]
        for ack in echoes:
            self.remove(ack.id)
        self._window = min(self._window, FIRST_WINDOW)
        return echoes

    def _wait_again(self, entry: _Entry) -> None:
        entry.under_way = False
        self._under_way -= 1
        heapq.heappush(self._waiting, (entry.order, entry.frame.id))
