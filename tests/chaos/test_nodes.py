"""Three nodes on one PostgreSQL under load keep their word, whatever befalls a node or the base."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from time import monotonic

import pytest

from tests.chaos.checker import Fault, Rules, check
from tests.chaos.load import Load
from tests.chaos.plan import Plan, person_name
from tests.chaos.sources import read_api, read_as_client, read_postgres
from tests.chaos.summary import errors_in, summary
from tests.postgres_server import PostgresServer
from tests.service_process import ServiceProcess
from tests.tcp_proxy import TcpProxy

pytestmark = pytest.mark.slow

NODES = 3
LEASE = 6.0
GRACE = 5.0
AWAY = 2.0
"""Seconds for which a node is frozen or cut off: less than the lease, so its users stay online.
Less than the grace period, too: who has just come to that node cannot be announced until then."""


class Cluster:
    """The nodes, each with a way of its own to the database."""

    def __init__(
        self, nodes: list[ServiceProcess], ways: list[TcpProxy], server: PostgresServer, seed: int
    ) -> None:
        self.nodes = nodes
        self.timeline: list[str] = []
        self._ways = ways
        self._server = server
        self._chance = random.Random(seed)
        self._begin = monotonic()

    def _note(self, what: str) -> None:
        self.timeline.append(f"{what} at {monotonic() - self._begin:.1f} s")

    async def calm(self) -> None:
        await asyncio.sleep(self._chance.uniform(0.5, 2.0))

    async def kill(self) -> None:
        node = self._chance.randrange(NODES)
        self._note(f"kill -9 of node {node}")
        await asyncio.to_thread(self.nodes[node].kill)
        await self.calm()
        await asyncio.to_thread(self.nodes[node].start)

    async def freeze(self) -> None:
        node = self._chance.randrange(NODES)
        self._note(f"SIGSTOP of node {node}")
        os.kill(self.nodes[node].pid, signal.SIGSTOP)
        await asyncio.sleep(AWAY)
        os.kill(self.nodes[node].pid, signal.SIGCONT)

    async def cut_off(self) -> None:
        node = self._chance.randrange(NODES)
        self._note(f"node {node} cut from the database")
        await self._ways[node].cut()
        await asyncio.sleep(AWAY)
        await self._ways[node].mend()
        await asyncio.to_thread(self.nodes[node].wait_ready)

    async def restart_database(self) -> None:
        how = self._chance.choice([signal.SIGINT, signal.SIGQUIT])
        self._note(f"the database restarted ({how.name})")
        await asyncio.to_thread(self._server.stop, how)
        await asyncio.to_thread(self._server.start)
        for node in self.nodes:
            await asyncio.to_thread(node.wait_ready)


@asynccontextmanager
async def cluster(
    root: Path, server: PostgresServer, dsn: str, seed: int
) -> AsyncIterator[Cluster]:
    async with AsyncExitStack() as stack:
        nodes: list[ServiceProcess] = []
        ways: list[TcpProxy] = []
        for index in range(NODES):
            way = await stack.enter_async_context(TcpProxy(server.port))
            place = root / f"node{index}"
            node = ServiceProcess(
                place,
                overrides={
                    "store": {"kind": "postgres", "dsn_file": str(place / "dsn"), "lease": LEASE},
                    "timing": {"presence_grace": GRACE},
                    "log": {"level": "warning"},
                },
            )
            node.write_secret("dsn", dsn.replace(f":{server.port}/", f":{way.port}/"))
            node.secret = nodes[0].secret if nodes else node.secret
            node.write_secret("secret", node.secret)
            nodes.append(node)
            ways.append(way)
            stack.push_async_callback(asyncio.to_thread, node.close)
            await asyncio.to_thread(node.start)
        yield Cluster(nodes, ways, server, seed)


async def test_three_nodes_under_200_sends_a_second(
    tmp_path: Path, own_postgres_server: PostgresServer, seed: int
) -> None:
    """Nodes killed, frozen and cut off, and the database restarted: nothing is lost or doubled."""
    dsn = own_postgres_server.database()
    plan = Plan(seed=seed)
    async with cluster(tmp_path, own_postgres_server, dsn, seed) as nodes:

        def token(user: str, workspace: str, name: str) -> str:
            return nodes.nodes[0].token(user, workspace, name=name, ttl=600)

        load = Load([node.url for node in nodes.nodes], token, plan)
        async with load:
            ways = [nodes.kill, nodes.freeze, nodes.cut_off, nodes.restart_database, nodes.kill]
            random.Random(seed).shuffle(ways)
            await nodes.calm()
            for way in ways:
                await way()
                await nodes.calm()
            unsettled = await load.quiesce(90)
        members = {record.workspace: record.user for record in load.records}
        stored = await read_postgres(dsn, sorted(members), 1000)
        for index, (workspace, user) in enumerate(sorted(members.items())):
            url = nodes.nodes[index % NODES].url
            signed = token(user, workspace, person_name(user))
            stored.append(await read_as_client(url, workspace, signed))
            stored.append(await asyncio.to_thread(read_api, url, workspace, signed))
    rules = Rules(
        grace=GRACE + 1.5 * LEASE,
        keep=1000,
        skew=max(0.5, 2 * load.skew),
        lag=LEASE,  # a node that hears nothing for longer counts as dead
        errors=frozenset({"rate_limited", "unavailable"}),
    )
    verdict = check(load.records, stored, rules)
    # A send refused because the connection to the database was lost may have been stored all the
    # same: nobody can know. Its sender was told to send it again, with the same id.
    findings = [finding for finding in verdict.findings if finding.fault is not Fault.REFUSED]
    told = "\n".join(
        [summary(load.records, errors_in(load.records)), *nodes.timeline, str(verdict)]
    )
    print(told)
    assert not findings, told
    assert not unsettled
    assert verdict.looked_at["messages stored"] >= 1000
