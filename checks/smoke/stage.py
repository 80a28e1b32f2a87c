"""Where checks act: a workspace with the devices in it, and the GET API of it."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import msgspec

from chatservice.protocol import Message, ServerFrame, Welcome
from checks.smoke.check import CheckFailed
from checks.smoke.describe import describe
from checks.smoke.device import Device
from checks.smoke.run import Run, TurnedAway
from checks.smoke.target import http_url, workspace_path

TOKEN_TTL: Final = 600.0
"""Seconds; longer than any run."""

PageT = TypeVar("PageT")


class MessagesPage(msgspec.Struct, frozen=True):
    """What `GET .../messages` answers."""

    epoch: str
    seq: int
    messages: list[Message]
    more: bool


class MemberEntry(msgspec.Struct, frozen=True):
    """One of those whom `GET .../members` lists."""

    user: str
    name: str
    state: str
    read: int
    unread: int


class MembersPage(msgspec.Struct, frozen=True):
    """What `GET .../members` answers."""

    members: list[MemberEntry]


# Made here and not where they are used: threads that are the first to use a type at the same time
# crash msgspec 0.22.
_MESSAGES: Final = msgspec.json.Decoder(MessagesPage)
_MEMBERS: Final = msgspec.json.Decoder(MembersPage)


class Stage:
    """A workspace of its own, and the devices that a group of checks has connected to it."""

    def __init__(self, run: Run, name: str) -> None:
        self.run = run
        self.target = run.target
        self.workspace = f"{run.workspace}-{name}" if name else run.workspace
        self._open: list[Device] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await asyncio.gather(*(device.close() for device in self._open), return_exceptions=True)

    async def prepare(self) -> None:
        """Make the connections that the checks share; a failure is that of the first check."""

    def token(self, user: str, *workspaces: str, ttl: float = TOKEN_TTL) -> str:
        """Sign a token for a user, for this workspace unless others are named."""
        return self.target.sign(
            user=user, workspaces=list(workspaces or (self.workspace,)), name=name_of(user), ttl=ttl
        )

    async def join(
        self,
        user: str,
        device: str = "device",
        *,
        workspace: str | None = None,
        token: str | None = None,
        after: int | None = None,
        epoch: str | None = None,
        **how: Any,
    ) -> Device:
        """Connect a device of a user, and wait for its welcome.

        Raises:
            CheckFailed: it was turned away, or not welcomed in time.
        """
        where = workspace or self.workspace
        name = f"{user}'s {device}"
        try:
            websocket = await self.run.upgrade(
                self.run.next_node(),
                where,
                token=token or self.token(user, where),
                after=after,
                epoch=epoch,
                **how,
            )
        except TurnedAway as refusal:
            raise CheckFailed(f"{name} expected to be let in, but was answered {refusal}") from None
        joined = Device(websocket, name=name, user=user, patience=self.run.patience)
        self._open.append(joined)
        self.run.devices.append(joined)

        def first_frame() -> ServerFrame | None:
            return joined.seen[0].frame if joined.seen else None

        first: ServerFrame = await joined.until("a welcome", first_frame)
        if not isinstance(first, Welcome):
            raise CheckFailed(f"{name} expected a welcome first, but got {describe(first)}")
        if (first.user, first.workspace) != (user, where):
            raise CheckFailed(
                f"{name} expected a welcome as {user} to {where}, but got one as {first.user} "
                f"to {first.workspace}"
            )
        return joined

    async def leave(self, device: Device) -> None:
        """Disconnect a device."""
        self._open.remove(device)
        await device.close()

    def api_url(self, place: str, workspace: str = "", **query: int | None) -> str:
        """Give the address of `messages` or `members` of a workspace."""
        where = workspace or self.workspace
        self.run.touched[where] = None
        return http_url(self.run.next_node(), workspace_path(where, place), **query)

    async def messages(
        self, user: str, *, workspace: str | None = None, before: int | None = None, limit: int = 50
    ) -> MessagesPage:
        """Read a page of history over the GET API."""
        return await self._page(_MESSAGES, "messages", user, workspace, before=before, limit=limit)

    async def members(self, user: str, *, workspace: str | None = None) -> dict[str, MemberEntry]:
        """Read who belongs to the workspace over the GET API, by user id."""
        page = await self._page(_MEMBERS, "members", user, workspace)
        return {member.user: member for member in page.members}

    async def _page(
        self,
        decoder: msgspec.json.Decoder[PageT],
        place: str,
        user: str,
        workspace: str | None,
        **query: int | None,
    ) -> PageT:
        where = workspace or self.workspace
        url = self.api_url(place, where, **query)
        answer = await self.run.request(
            "GET", url, Authorization=f"Bearer {self.token(user, where)}"
        )
        if answer.status_code != 200:
            raise CheckFailed(
                f"GET {url} expected 200, but got {answer.status_code} {answer.text[:200].strip()}"
            )
        try:
            return decoder.decode(answer.content)
        except msgspec.DecodeError as error:
            raise CheckFailed(f"GET {url} answered something unexpected: {error}") from None


def name_of(user: str) -> str:
    """Give the name that a user is shown with."""
    return user.replace("-", " ").title()
