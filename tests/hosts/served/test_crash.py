"""The unit under a real systemd: a crash of the service disconnects nobody, through the proxy."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack

from chatservice.auth import sign
from chatservice.client import ChatClient
from tests.hosts.proven import trust
from tests.hosts.site import HostSite

MEMBERS = 50
ROOMS = 5
DEADLINE = 60.0


async def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, f"not within {DEADLINE:g} s: {what}"
        await asyncio.sleep(0.05)


async def test_members_stay_connected_when_the_service_is_killed(served: HostSite) -> None:
    [host], unit = served.hosts, served.environment.unit
    secret = (served.directory / "jwt_secret").read_text()
    context = await asyncio.to_thread(trust, [host])

    def main_pid() -> str:
        return host.text("systemctl", "show", unit, "--property=MainPID", "--value").strip()

    def kept() -> int:
        said = host.text("systemctl", "show", unit, "--property=NFileDescriptorStore", "--value")
        return int(said)

    def member(number: int) -> ChatClient:
        room, user = f"room-{number % ROOMS}", f"user-{number}"
        token = sign(secret, user=user, workspaces=[room], ttl=600)
        url = served.environment.base_url
        return ChatClient(url, workspace=room, token=token, ssl=context)

    async with AsyncExitStack() as stack:
        members = [await stack.enter_async_context(member(n)) for n in range(MEMBERS)]
        first = members[:ROOMS]
        await asyncio.gather(*(one.send("before") for one in first))
        await until(lambda: kept() >= MEMBERS, "systemd keeps every connection")
        before = main_pid()
        host.run("systemctl", "kill", "--signal=KILL", "--kill-whom=main", unit)
        acks = await asyncio.gather(*(one.send("after") for one in first))
        assert main_pid() not in ("0", before)
        assert [ack.seq for ack in acks] == [2] * ROOMS
        await until(lambda: all(one.seq == 2 for one in members), "all have both messages")
        assert [one.connections for one in members] == [1] * MEMBERS
        assert [one.gaps for one in members] == [0] * MEMBERS
    await until(lambda: kept() < MEMBERS, "what is closed is kept no longer")
