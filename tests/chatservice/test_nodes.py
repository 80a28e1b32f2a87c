"""Several real processes on one real PostgreSQL: one chat, whichever node a member is on."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from websockets.asyncio.client import ClientConnection, connect

from tests.postgres_server import PostgresServer
from tests.service_process import ServiceProcess
from tests.tcp_proxy import TcpProxy

DEADLINE = 30.0
LEASE = 4.0
GRACE = 1.0

StartNodes = Callable[..., list[ServiceProcess]]


@pytest.fixture
def start_nodes(tmp_path: Path) -> Any:
    """Start so many nodes on a database; they are ended after the test."""
    started: list[ServiceProcess] = []

    def start(count: int, dsn: str) -> list[ServiceProcess]:
        for index in range(count):
            root = tmp_path / f"node{index}"
            store = {"kind": "postgres", "dsn_file": str(root / "dsn"), "lease": LEASE}
            node = ServiceProcess(
                root, overrides={"store": store, "timing": {"presence_grace": GRACE}}
            )
            node.write_secret("dsn", dsn)
            node.secret = started[0].secret if started else node.secret
            node.write_secret("secret", node.secret)
            started.append(node)
            node.start()
        return started

    yield start
    for node in started:
        if node.process is not None and node.process.poll() is None:
            os.kill(node.pid, signal.SIGCONT)
        node.close()
        print(node.log_tail(60))


class Member:
    """A plain WebSocket client that remembers what it saw."""

    def __init__(self, socket: ClientConnection, user: str) -> None:
        self.user = user
        self.seen: list[dict[str, Any]] = []
        self._socket = socket

    async def say(self, **frame: Any) -> None:
        await self._socket.send(json.dumps(frame))

    async def until(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Receive until a frame like this comes."""
        async with asyncio.timeout(DEADLINE):
            while True:
                frame = json.loads(await self._socket.recv())
                self.seen.append(frame)
                if frame["type"] == kind and fields.items() <= frame.items():
                    return dict(frame)

    def numbers(self) -> list[int]:
        """The numbers of the messages seen, in the order in which they came."""
        return [frame["seq"] for frame in self.seen if frame["type"] == "message"]


@asynccontextmanager
async def member(node: ServiceProcess, user: str, query: str = "") -> AsyncIterator[Member]:
    url = f"ws://127.0.0.1:{node.port}/api/chat/workspace/w/connect{query}"
    headers = {"Authorization": f"Bearer {node.token(user, 'w')}"}
    async with connect(url, additional_headers=headers, compression=None) as socket:
        yield Member(socket, user)


async def test_members_of_different_nodes_are_in_one_room(
    start_nodes: StartNodes, postgres_server: PostgresServer
) -> None:
    one, two = start_nodes(2, postgres_server.database())
    async with member(one, "ann") as ann, member(two, "bob") as bob:
        assert (await ann.until("presence"))["user"] == "bob"
        welcome = await bob.until("welcome")
        assert {person["user"] for person in welcome["online"]} == {"ann", "bob"}
        await ann.say(type="send", id="1", text="hello")
        assert (await bob.until("message"))["text"] == "hello"
        await ann.until("ack", seq=1)
        await bob.say(type="typing")
        assert (await ann.until("typing"))["user"] == "bob"
        async with member(one, "bob") as other_device:
            assert (await other_device.until("welcome"))["unread"] == 1
            await bob.say(type="read", seq=1)
            assert (await other_device.until("read"))["unread"] == 0
            await bob.until("read", seq=1, unread=0)
    assert [frame for frame in ann.seen if frame["type"] == "presence"] == [
        {"type": "presence", "user": "bob", "name": "bob", "state": "online"}
    ]


async def test_a_send_repeated_to_another_node_is_stored_once(
    start_nodes: StartNodes, postgres_server: PostgresServer
) -> None:
    one, two = start_nodes(2, postgres_server.database())
    async with member(one, "ann") as first, member(two, "ann") as second:
        await first.until("welcome")
        await second.until("welcome")
        await first.say(type="send", id="x", text="once")
        assert (await first.until("ack"))["seq"] == 1
        await second.say(type="send", id="x", text="once")
        assert (await second.until("ack"))["seq"] == 1
        await second.say(type="send", id="y", text="twice")
        await first.until("message", seq=2)
        assert first.numbers() == [1, 2]


async def test_all_nodes_show_one_dense_order_under_concurrent_sends(
    start_nodes: StartNodes, postgres_server: PostgresServer
) -> None:
    nodes = start_nodes(3, postgres_server.database())
    each = 60
    async with (
        member(nodes[0], "ann") as ann,
        member(nodes[1], "bob") as bob,
        member(nodes[2], "cat") as cat,
    ):
        everybody = (ann, bob, cat)
        for one in everybody:
            await one.until("welcome")

        async def talk(one: Member) -> None:
            for index in range(each):
                await one.say(type="send", id=f"{one.user}{index}", text="hi")
                await asyncio.sleep(0.05)  # below the rate limit, all through the test

        talking = [asyncio.create_task(talk(one)) for one in everybody]
        for one in everybody:
            await one.until("message", seq=3 * each)
        await asyncio.gather(*talking)
        told = [
            [(f["seq"], f["user"], f["id"]) for f in one.seen if f["type"] == "message"]
            for one in everybody
        ]
        assert [seq for seq, _, _ in told[0]] == list(range(1, 3 * each + 1))
        assert told[0] == told[1] == told[2]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
async def test_the_users_of_a_dead_node_go_offline_and_leave_no_ghost(
    start_nodes: StartNodes, postgres_server: PostgresServer, how: signal.Signals
) -> None:
    one, two, three = start_nodes(3, postgres_server.database())
    async with member(one, "ann") as ann, member(two, "cat") as cat:
        await ann.until("welcome")
        url = f"ws://127.0.0.1:{three.port}/api/chat/workspace/w/connect"
        headers = {"Authorization": f"Bearer {three.token('bob', 'w')}"}
        socket = await connect(url, additional_headers=headers, compression=None)
        await ann.until("presence", user="bob", state="online")
        await cat.until("presence", user="bob", state="online")
        os.kill(three.pid, how)
        await ann.until("presence", user="bob", state="offline")
        await cat.until("presence", user="bob", state="offline")
        async with member(one, "dan") as dan:
            welcome = await dan.until("welcome")
            assert {person["user"] for person in welcome["online"]} == {"ann", "cat", "dan"}
        if how is signal.SIGSTOP:  # thawed, it still has its member, and says so
            os.kill(three.pid, signal.SIGCONT)
            await ann.until("presence", user="bob", state="online")
        socket.transport.abort()


async def test_who_changes_nodes_within_the_grace_period_never_left(
    start_nodes: StartNodes, postgres_server: PostgresServer
) -> None:
    one, two = start_nodes(2, postgres_server.database())
    async with member(one, "ann") as ann:
        await ann.until("welcome")
        async with member(one, "bob"):
            await ann.until("presence", user="bob", state="online")
        async with member(two, "bob") as bob:
            await bob.until("welcome")
            await asyncio.sleep(2 * GRACE)  # nothing must happen for as long
            await ann.say(type="ping")
            await ann.until("pong")
            presence = [frame["state"] for frame in ann.seen if frame["type"] == "presence"]
            assert presence == ["online"]
        await ann.until("presence", user="bob", state="offline")


async def test_members_stay_while_the_database_restarts_and_nothing_is_lost(
    start_nodes: StartNodes, own_postgres_server: PostgresServer
) -> None:
    server = own_postgres_server
    one, two = start_nodes(2, server.database())
    async with member(one, "ann") as ann, member(two, "bob") as bob:
        await ann.until("welcome")
        await ann.say(type="send", id="1", text="before")
        await bob.until("message", seq=1)

        await asyncio.to_thread(server.stop, signal.SIGQUIT)
        await ann.say(type="send", id="2", text="while it is away")
        refused = await ann.until("error", id="2")
        assert refused["code"] == "unavailable"
        status, body = await asyncio.to_thread(one.get, "/readyz")
        assert (status, json.loads(body)["ready"]) == (503, False)
        assert f"127.0.0.1:{server.port}" in body

        await asyncio.to_thread(server.start)
        await asyncio.to_thread(one.wait_ready)
        await asyncio.to_thread(two.wait_ready)
        await ann.say(type="send", id="2", text="while it is away")
        await ann.until("ack", id="2", seq=2)
        await bob.until("message", seq=2)
        await bob.say(type="typing")
        await ann.until("typing", user="bob")
        assert ann.numbers() == bob.numbers() == [1, 2]
        # The leases went with the crash. A node that is slow to come back is taken for gone; by
        # now it has been heard from, whichever way it went.
        async with member(one, "ann") as anew:
            welcome = await anew.until("welcome")
            assert {person["user"] for person in welcome["online"]} == {"ann", "bob"}


@pytest.fixture
def standby(own_postgres_server: PostgresServer) -> Iterator[PostgresServer]:
    """Another server, not created yet; its place is beside the test's own."""
    server = PostgresServer(own_postgres_server.root.with_name("standby"))
    yield server
    server.stop()


async def test_after_a_failover_without_the_tail_members_reload_and_numbering_goes_on(
    start_nodes: StartNodes, own_postgres_server: PostgresServer, standby: PostgresServer
) -> None:
    """A real standby that was cut off before the last message is promoted."""
    primary = own_postgres_server
    dsn = primary.database()
    async with TcpProxy(primary.port) as stream, TcpProxy(primary.port) as way:
        through = dsn.replace(f":{primary.port}/", f":{way.port}/")
        one, two = await asyncio.to_thread(start_nodes, 2, through)
        async with member(one, "ann") as ann, member(two, "bob") as bob:
            epoch = (await ann.until("welcome"))["epoch"]
            await ann.say(type="send", id="1", text="copied")
            await bob.until("message", seq=1)
            await asyncio.to_thread(standby.create_standby, primary, stream.port)
            await asyncio.to_thread(standby.start)
            await stream.cut()
            await ann.say(type="send", id="2", text="the tail")
            await bob.until("message", seq=2)

            await way.cut()
            await asyncio.to_thread(primary.stop)
            await asyncio.to_thread(standby.promote)
            way.target = standby.port
            await way.mend()
            await ann.until("reconnect")
            await bob.until("reconnect")
        await asyncio.to_thread(one.wait_ready)
        await asyncio.to_thread(two.wait_ready)
        async with (
            member(one, "ann", f"?after=2&epoch={epoch}") as ann,
            member(two, "bob", f"?after=2&epoch={epoch}") as bob,
        ):
            for who in (ann, bob):
                welcome = await who.until("welcome")
                assert (welcome["seq"], welcome["resumed"]) == (1, False)
                assert welcome["epoch"] != epoch
                history = await who.until("history")
                assert [message["text"] for message in history["messages"]] == ["copied"]
            await ann.say(type="send", id="2", text="the tail")  # its sender still has it
            await ann.until("ack", id="2", seq=2)
            await bob.until("message", seq=2)


async def test_without_database_connections_members_stay_and_sends_are_refused(
    start_nodes: StartNodes, own_postgres_server: PostgresServer
) -> None:
    server = own_postgres_server
    server.stop()
    server.configure(max_connections="6", superuser_reserved_connections="0")
    server.start()
    dsn = server.database()
    [node] = await asyncio.to_thread(start_nodes, 1, dsn)
    async with member(node, "ann") as ann:
        await ann.until("welcome")
        await ann.say(type="send", id="1", text="before")
        await ann.until("ack", id="1", seq=1)
        others = await every_connection(dsn, 6)
        await ann.say(type="send", id="2", text="without a connection")
        refused = await ann.until("error", id="2")
        assert refused["code"] == "unavailable"
        status, body = await asyncio.to_thread(node.get, "/readyz")
        assert (status, json.loads(body)["ready"]) == (503, False)
        assert "raise its max_connections, or lower store.connections" in body
        for other in others:
            await other.close()
        await asyncio.to_thread(node.wait_ready)
        await ann.say(type="send", id="2", text="without a connection")
        await ann.until("ack", id="2", seq=2)
        assert ann.numbers() == [1, 2]


async def every_connection(dsn: str, count: int) -> list[Any]:
    """Take all connections of a server, the node's among them, until none is left to it."""
    taken: list[Any] = [await asyncpg.connect(dsn)]
    async with asyncio.timeout(DEADLINE):
        while len(taken) < count:
            await taken[0].execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name LIKE 'chatservice%'"
            )
            with suppress(asyncpg.TooManyConnectionsError):
                taken.append(await asyncpg.connect(dsn))
    return taken


async def test_a_client_that_moves_to_another_node_at_once_resumes_there(
    start_nodes: StartNodes, postgres_server: PostgresServer
) -> None:
    """It saw a number that has not arrived there yet; that is no reason to reload."""
    here, there = start_nodes(2, postgres_server.database())
    async with member(here, "ada") as ada, member(there, "bob") as bob:
        epoch = (await ada.until("welcome"))["epoch"]
        await bob.until("welcome")
        for number in range(1, 31):
            await ada.say(type="send", id=f"m{number}", text="x")
            await ada.until("ack", seq=number)
            async with member(there, "cat", f"?after={number}&epoch={epoch}") as cat:
                welcome = await cat.until("welcome")
                assert (welcome["resumed"], welcome["seq"]) == (True, number)
