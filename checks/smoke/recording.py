"""What one connection received, and how to wait for it.

Nothing is hidden, unlike in `chatservice.client`, which drops repeats: what a check asks about is
just what arrived. Every wait ends with an event or with its deadline, and a wait in vain says what
was expected, of whom, and what came instead.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from chatservice.protocol import (
    Ack,
    Error,
    ErrorCode,
    FrameError,
    Message,
    Presence,
    PresenceChange,
    ServerFrame,
    Welcome,
    decode_server,
)
from checks.smoke.check import CheckFailed
from checks.smoke.describe import describe, listed

FrameT = TypeVar("FrameT", bound=ServerFrame)
T = TypeVar("T")

SHOWN_FRAMES: Final = 6


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


class Record:
    """All that one connection received.

    Attributes:
        name: how failures call it, `user-1's phone`.
        seen: every frame in the order of arrival, the welcome included.
        messages: those of them that are messages.
        first: each of these by its id, as it came first.
        waiting_for: what is being waited for now; empty when nothing is.
        ended: why nothing more comes; empty as long as something may.
    """

    def __init__(self, name: str, *, patience: float) -> None:
        self.name = name
        self.seen: list[Seen[ServerFrame]] = []
        self.messages: list[Seen[Message]] = []
        self.first: dict[str, Seen[Message]] = {}
        self.waiting_for = ""
        self.ended = ""
        self._patience = patience
        self._loop = asyncio.get_running_loop()
        self._news: deque[asyncio.Future[None]] = deque()

    # --- what comes in --------------------------------------------------------------------

    def take(self, payload: str | bytes) -> None:
        """Record one frame.

        Raises:
            FrameError: it is not as the contract wants it.
        """
        if not isinstance(payload, str):
            raise FrameError(ErrorCode.BAD_FRAME, "a binary frame; all are text")
        if not payload.startswith('{"type":'):
            raise FrameError(ErrorCode.BAD_FRAME, "the field `type` is not the first")
        frame = decode_server(payload)
        if frame is None:
            return
        now = self._loop.time()
        self.seen.append(Seen(frame, now))
        if isinstance(frame, Message):
            self.messages.append(Seen(frame, now))
            self.first.setdefault(frame.id, self.messages[-1])
        self._wake()

    def end(self, why: str) -> None:
        """Note that nothing more comes."""
        self.ended = why
        self._wake()

    def _wake(self) -> None:
        while self._news:
            waiter = self._news.popleft()
            if not waiter.done():
                waiter.set_result(None)

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
                    if self.ended:
                        raise CheckFailed(f"{self.name} expected {what}, but {self.ended}")
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
            f"{count} message{'s' * (count != 1)}",
            lambda: True if len(self.messages) >= count else None,
            within=within,
        )
        return [seen.frame for seen in self.messages]

    async def got_all(self, sent: Sequence[Sent], *, within: float | None = None) -> None:
        """Wait until these messages have arrived."""
        mark = len(self.seen)
        missing = list(sent)

        def holds() -> bool | None:
            missing[:] = [one for one in missing if one.id not in self.first]
            return None if missing else True

        limit = self._patience if within is None else within
        what = f"{len(sent)} message{'s' * (len(sent) != 1)}"
        if await self.watch(what, holds, within=limit) is None:
            whose = listed(sorted({one.user for one in missing}), limit=SHOWN_FRAMES)
            raise CheckFailed(
                f"{self.name} expected {what} within {limit:.3g} s, but {len(missing)} of {whose} "
                f"did not arrive; it got {self._account(mark)}"
            )

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
