"""The project's own client, as programs use it, against this service."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Final

from chatservice.client import (
    ChatClient,
    ClosedForGood,
    NotConnected,
    Refused,
    RequestRefused,
    SendRefused,
)
from chatservice.protocol import Message, ServerFrame
from checks.smoke.check import CheckFailed, Found, Group, check
from checks.smoke.stage import Stage
from checks.smoke.target import is_loopback

SENT: Final = 3


@check(
    "client",
    "The Python client talks to the service",
    look_at="whether the client and the service are of releases that know the same wire",
)
async def client(stage: Stage) -> Found:
    """Two clients: what one sends the other gets once; both page, ping and renew."""
    try:
        async with AsyncExitStack() as stack:
            speaker, listener = _client(stage, "speaker"), _client(stage, "listener")
            for each in (speaker, listener):
                await stage.run.enter(stage.workspace, each)
                stack.push_async_callback(each.close)
            await _talk(stage, speaker, listener)
    except (ClosedForGood, NotConnected, Refused, RequestRefused, SendRefused) as error:
        raise CheckFailed(f"the client expected to be served, but: {error}") from None
    except TimeoutError as error:
        if not str(error):  # the time for all checks is over
            raise
        raise CheckFailed(f"the client waited in vain: {error}") from None
    return Found(f"{SENT} messages, a page of history, a ping, a renewal")


async def _talk(stage: Stage, speaker: ChatClient, listener: ChatClient) -> None:
    patience = stage.run.patience
    for number in range(1, SENT + 1):
        answer = await speaker.send(f"word {number}", timeout=patience)
        if answer.seq != number:
            raise CheckFailed(f"the client expected number {number}, but got {answer.seq}")

    def is_last(frame: ServerFrame) -> bool:
        return isinstance(frame, Message) and frame.seq == SENT

    for each in (speaker, listener):
        await each.wait_for(is_last, patience)
        if (each.seq, each.repeats, each.gaps, each.connections) != (SENT, 0, 0, 1):
            raise CheckFailed(
                f"the client expected {SENT} messages over one connection, but has seen up to "
                f"{each.seq}, {each.repeats} repeated, {each.gaps} gaps, {each.connections} "
                "connections"
            )
    page = await listener.history(limit=SENT, timeout=patience)
    if [message.seq for message in page.messages] != list(range(1, SENT + 1)):
        raise CheckFailed(
            f"the client expected a page with {SENT} messages, but got {len(page.messages)}"
        )
    await listener.ping(timeout=patience)
    await listener.renew(stage.token("listener"), timeout=patience)


def _client(stage: Stage, user: str) -> ChatClient:
    node = stage.run.next_node()
    return ChatClient(
        node,
        workspace=stage.workspace,
        token=stage.token(user),
        ssl=stage.run.tls if node.startswith("https") else None,
        proxy=None if is_loopback(node) else True,
        connect_timeout=stage.run.patience,
        reconnect=False,
    )


CLIENT: Final = Group("client", Stage, (client,), needs=("delivery",))
