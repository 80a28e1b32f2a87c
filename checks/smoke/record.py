"""What was said stays: for whoever comes anew, page by page, and over the GET API."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from chatservice.protocol import History, Message, Presence, ReadHistory
from checks.smoke.check import CheckFailed, Found, Group, check
from checks.smoke.conversation import (
    Conversation,
    ack,
    connect,
    delivery,
    online,
    order,
    repeated_id,
    too_long,
    typing,
)
from checks.smoke.describe import describe
from checks.smoke.stage import name_of

PAGES: Final = 3
"""Into how many pages the whole history is split, as long as one is not too large."""
LARGEST_PAGE: Final = 50


async def _kept(stage: Conversation) -> list[Message]:
    """Give the messages that must be in history now."""
    return (await stage.record())[-stage.target.history_keep :]


def _agree(who: str, got: Sequence[Message], expected: Sequence[Message]) -> None:
    """Compare messages one by one; say which is the first that differs."""
    if list(got) == list(expected):
        return
    for index, (mine, theirs) in enumerate(zip(got, expected, strict=False), 1):
        if mine != theirs:
            raise CheckFailed(
                f"{who} expected message {theirs.seq} of {theirs.user} in place {index}, but got "
                f"{describe(mine)}" + (" with another text" if mine.seq == theirs.seq else "")
            )
    raise CheckFailed(f"{who} expected {_span(expected)}, but got {_span(got)}")


def _span(messages: Sequence[Message]) -> str:
    if not messages:
        return "no messages"
    return f"{len(messages)} messages ({messages[0].seq} to {messages[-1].seq})"


@check(
    "history",
    "Who comes back with nothing gets what was said",
    needs=("delivery",),
    look_at="service.state_dir in the settings: whether it survives restarts and deploys",
)
async def history(stage: Conversation) -> Found:
    """A user's second, fresh device gets the newest messages at once, and can page for the rest."""
    expected = await _kept(stage)
    device = await stage.join(stage.devices[1].user, "second device")
    first = (await device.receive(History, "the newest messages after the welcome")).frame
    newest = expected[len(expected) - len(first.messages) :]
    _agree(f"{device.name}, come anew,", first.messages, newest)
    if first.more != (len(newest) < len(expected)):
        raise CheckFailed(
            f"{device.name} got {len(newest)} of {len(expected)} kept messages, and "
            f"was told that {'more' if first.more else 'no more'} are kept"
        )
    if device.welcome.seq != expected[-1].seq:
        raise CheckFailed(
            f"{device.name} expected {expected[-1].seq} as the newest number in its welcome, "
            f"but got {device.welcome.seq}"
        )

    async def page(before: int, limit: int) -> tuple[Sequence[Message], bool]:
        mark = len(device.seen)
        await device.put(ReadHistory(before, limit))
        frame = (await device.receive(History, "a page of history", since=mark)).frame
        return frame.messages, frame.more

    await _page_through(device.name, page, expected)
    return Found(f"{len(first.messages)} at once, all {len(expected)} in pages")


@check(
    "history_api",
    "The GET API gives the same messages",
    needs=("delivery",),
    look_at="what a proxy in front does to /api/chat/workspace/",
)
async def history_api(stage: Conversation) -> Found:
    """Same messages, epoch and newest number as on the connections; `before` pages."""
    expected = await _kept(stage)
    user, welcome = stage.devices[0].user, stage.devices[0].welcome
    first = await stage.messages(user, limit=len(expected))
    if (first.epoch, first.seq) != (welcome.epoch, expected[-1].seq):
        raise CheckFailed(
            f"the GET API expected epoch {welcome.epoch} and newest number {expected[-1].seq}, "
            f"but gave {first.epoch} and {first.seq}"
        )

    async def page(before: int, limit: int) -> tuple[Sequence[Message], bool]:
        answer = await stage.messages(user, before=before, limit=limit)
        return answer.messages, answer.more

    await _page_through("the GET API", page, expected)
    return Found(f"all {len(expected)} messages in pages")


async def _page_through(
    who: str,
    page: Callable[[int, int], Awaitable[tuple[Sequence[Message], bool]]],
    expected: Sequence[Message],
) -> None:
    """Read the whole history from its end, a page at a time.

    A page may be shorter than was asked for: `history.page` in the settings is a limit too.
    """
    limit = min(-(-len(expected) // PAGES), LARGEST_PAGE)
    rest = list(expected)
    while rest:
        asked = f"{who}, asked for {limit} before {rest[-1].seq + 1},"
        messages, more = await page(rest[-1].seq + 1, limit)
        _agree(asked, messages, rest[-max(1, min(len(messages), limit)) :])
        del rest[-len(messages) :]
        if more != bool(rest):
            raise CheckFailed(
                f"{who} expected to hear that {'more' if rest else 'no more'} messages are kept "
                f"before {messages[0].seq}, but heard the contrary"
            )


@check(
    "members_api",
    "The GET API shows who is online, and what is unread",
    needs=("delivery",),
    look_at="what a proxy in front does to /api/chat/workspace/",
)
async def members_api(stage: Conversation) -> Found:
    """Every user, online, by name, with the kept messages of others as unread."""
    expected = await _kept(stage)
    members = await stage.members(stage.devices[0].user)
    for device in stage.devices:
        unread = sum(message.user != device.user for message in expected)
        wanted = (name_of(device.user), Presence.ONLINE.value, 0, unread)
        entry = members.get(device.user)
        if entry is None:
            raise CheckFailed(f"the members expected {device.user}, but are {', '.join(members)}")
        if (got := (entry.name, entry.state, entry.read, entry.unread)) != wanted:
            raise CheckFailed(
                f"the members expected {device.user} with (name, state, read, unread) {wanted}, "
                f"but gave {got}"
            )
    return Found(f"{len(stage.devices)} users")


CONVERSATION: Final = Group(
    "",
    Conversation,
    (
        connect,
        online,
        delivery,
        order,
        ack,
        repeated_id,
        typing,
        too_long,
        members_api,
        history,
        history_api,
    ),
    needs=("answers",),
)
