"""Each node hands over by itself, and members of the other nodes notice nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.chatservice.test_nodes import StartNodes, member, start_nodes
from tests.chatservice.wire import status, troubles
from tests.postgres_server import PostgresServer

__all__ = ["start_nodes"]


async def test_no_member_of_another_node_sees_anybody_leave(
    start_nodes: StartNodes, postgres_server: PostgresServer
) -> None:
    one, two = start_nodes(2, postgres_server.database())
    for node in (one, two):  # whoever is announced a moment too late would flicker
        node.configure({"timing": {"presence_grace": 0.0}})
        await asyncio.to_thread(node.restart)
    async with member(one, "ann") as ann, member(two, "bob") as bob:
        await ann.until("presence", user="bob")
        await bob.until("welcome")
        for round in range(3):
            for node in (one, two):
                await asyncio.to_thread(node.take_over)
                last = await asyncio.to_thread(status, node)
                assert (last["last_start"]["started"], last["last_start"]["moved"]) == (
                    "handover",
                    1,
                )
                await ann.say(type="send", id=f"a{round}{node.port}", text="x")
                await bob.say(type="send", id=f"b{round}{node.port}", text="x")
                await ann.until("message", user="bob", id=f"b{round}{node.port}")
                await bob.until("message", user="ann", id=f"a{round}{node.port}")
        async with member(one, "carol"):
            await bob.until("presence", user="carol", state="online")
        await bob.until("presence", user="carol", state="offline")
        await ann.until("presence", user="carol", state="offline")
        for who in (ann, bob):
            told = [seen for seen in who.seen if seen["type"] == "presence"]
            assert [each["state"] for each in told if each["user"] == "carol"] == [
                "online",
                "offline",
            ]
            others: list[dict[str, Any]] = [each for each in told if each["user"] != "carol"]
            assert len(others) == (1 if who is ann else 0)
            assert who.numbers() == list(range(1, 13))
    for node in (one, two):
        assert troubles(node) == []


@pytest.mark.parametrize("gone", ["before", "after"])
async def test_who_leaves_around_a_handover_is_offline_everywhere(
    start_nodes: StartNodes, postgres_server: PostgresServer, gone: str
) -> None:
    one, two = start_nodes(2, postgres_server.database())
    async with member(two, "bob") as bob:
        async with member(one, "ann"):
            await bob.until("presence", user="ann", state="online")
            if gone == "after":
                await asyncio.to_thread(one.take_over)
        if gone == "before":
            await asyncio.to_thread(one.take_over)
        await bob.until("presence", user="ann", state="offline")
        async with member(one, "ann"):
            await bob.until("presence", user="ann", state="online")
