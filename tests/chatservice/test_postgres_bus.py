"""What nodes say to each other fits into notifications, whole and in order."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress

import asyncpg
from hypothesis import event, given
from hypothesis import strategies as st

from chatservice.cluster import Committed, Here, Moved, Typed, Word
from chatservice.postgres_bus import (
    CHANNEL,
    MAX_PAYLOAD,
    PostgresBus,
    _decoder,
    _payloads,
    merged,
)
from chatservice.store.postgres import PostgresStore
from tests.postgres_server import PostgresServer
from tests.tcp_proxy import TcpProxy

LEASE = 1.0
DEADLINE = 30.0
NODE = "host.example-0a1b2c3d"
TEXTS = st.builds(
    str.__mul__, st.sampled_from(["x", "é", '"', "\N{LINE SEPARATOR}"]), st.integers(0, 700)
)
WORDS: st.SearchStrategy[list[Word]] = st.lists(
    st.one_of(
        st.builds(Committed, TEXTS, st.integers(0, 2**53)),
        st.builds(Typed, TEXTS, TEXTS),
        st.builds(Here, TEXTS, TEXTS, TEXTS, st.booleans()),
        st.builds(Moved, TEXTS, TEXTS, st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)),
    ),
    max_size=120,
)


@given(words=WORDS)
def test_any_words_are_split_into_payloads_that_postgresql_takes(words: list[Word]) -> None:
    payloads = list(_payloads(NODE, words))
    heard = [_decoder.decode(payload) for payload in payloads]
    assert [word for envelope in heard for word in envelope.words] == words
    assert {envelope.node for envelope in heard} <= {NODE}
    assert all(len(payload.encode()) <= MAX_PAYLOAD for payload in payloads)
    assert all(envelope.words for envelope in heard)
    event("payloads", len(payloads))


def test_payloads_are_as_few_as_can_be() -> None:
    words = [Committed(f"workspace-{number:04}", 1) for number in range(1000)]
    sizes = [len(payload) for payload in _payloads(NODE, words)]
    one = len(json.dumps(["c", "workspace-0000", 1], separators=(",", ":"))) + 1
    assert len(sizes) == -(-1000 * one // (MAX_PAYLOAD - 60))
    assert all(size > MAX_PAYLOAD - 100 for size in sizes[:-1])


def test_nothing_to_say_is_no_payload() -> None:
    assert list(_payloads(NODE, [])) == []


async def test_the_longest_payload_is_one_that_postgresql_takes(
    postgres_server: PostgresServer,
) -> None:
    connection = await asyncpg.connect(postgres_server.database())
    words = [Typed("w" * 64, "é" * 64) for _ in range(200)]
    longest = max(_payloads(NODE, words), key=lambda payload: len(payload.encode()))
    assert len(longest.encode()) > MAX_PAYLOAD - 300
    await connection.execute("SELECT pg_notify($1, $2)", CHANNEL, longest)
    await connection.close()


def test_of_several_wake_ups_of_a_workspace_the_last_is_told() -> None:
    typed, here = Typed("w", "ann"), Here("w", "bob", "Bob", True)
    gone = Here("w", "bob", "Bob", False)
    words: list[Word] = [Committed("w", 1), typed, Committed("v", 7), here, Committed("w", 3), gone]
    assert merged(words) == [Committed("w", 3), Committed("v", 7), typed, here, gone]


class Ear:
    """Notes what a bus says of the other nodes."""

    def __init__(self) -> None:
        self.words: list[tuple[str, Word]] = []
        self.gone: list[str] = []
        self.resyncs = 0

    def heard(self, node: str, words: Sequence[Word]) -> None:
        self.words += [(node, word) for word in words]

    def node_gone(self, node: str) -> None:
        self.gone.append(node)

    def anew(self, node: str) -> None:
        """Nothing is kept that could be wrong."""

    def resync(self) -> None:
        self.resyncs += 1


@asynccontextmanager
async def listening(dsn: str) -> AsyncIterator[tuple[PostgresBus, Ear]]:
    bus, ear = PostgresBus(dsn, lease=LEASE), Ear()
    await bus.start(ear)
    try:
        yield bus, ear
    finally:
        await bus.close()


async def until(happened: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not happened():
            await asyncio.sleep(0.01)


async def kill(bus: PostgresBus) -> None:
    """End it without a farewell, and wait until its lease has run out."""
    assert bus._task is not None
    assert bus._connection is not None
    bus._task.cancel()
    with suppress(asyncio.CancelledError):
        await bus._task
    bus._connection.terminate()
    bus._connection = None
    loop = asyncio.get_running_loop()
    end = loop.time() + LEASE
    await until(lambda: loop.time() > end)


async def migrated(server: PostgresServer) -> str:
    dsn = server.database()
    store = PostgresStore(dsn, keep=10)
    await store.start()
    await store.close()
    return dsn


async def test_a_node_that_dies_while_this_one_is_cut_off_is_gone(
    postgres_server: PostgresServer,
) -> None:
    """Its users stayed online on this node for ever: with the connection it was forgotten."""
    dsn = await migrated(postgres_server)
    async with (
        TcpProxy(postgres_server.port) as way,
        listening(dsn.replace(f":{postgres_server.port}/", f":{way.port}/")) as (here, ear),
        listening(dsn) as (other, _),
    ):
        await until(lambda: other.node in here.others)
        loop = asyncio.get_running_loop()
        trusted = here._trust_from + LEASE  # a heartbeat after that looked at the leases alone
        await until(lambda: loop.time() > trusted)
        await way.cut()
        await until(lambda: here._connection is None)
        await kill(other)
        await way.mend()
        await until(lambda: ear.gone == [other.node])
        assert ear.resyncs >= 2


async def test_a_node_that_nobody_heard_of_is_gone_when_it_is_suspected(
    postgres_server: PostgresServer,
) -> None:
    async with listening(await migrated(postgres_server)) as (here, ear):
        here.suspect({"dead"})
        await until(lambda: ear.gone == ["dead"])


async def test_a_node_that_comes_while_the_leases_are_read_is_not_taken_for_dead(
    postgres_server: PostgresServer,
) -> None:
    async with listening(await migrated(postgres_server)) as (here, ear):
        loop = asyncio.get_running_loop()
        await until(lambda: loop.time() > here._trust_from)
        connection = here._connection
        assert connection is not None
        async with here._using:
            here._noticed.clear()
            row = await connection.fetchrow("SELECT true AS held, '{}'::text[] AS others")
            said = '["late",[["t","w","ann"]],false,true]'
            here._hear(connection, 0, CHANNEL, said)  # committed after the row was made
            here._look_at(row)
        assert ear.words == [("late", Typed("w", "ann"))]
        assert (ear.gone, set(here.others)) == ([], {"late"})
        await until(lambda: ear.gone == ["late"])  # it has no lease


async def test_a_node_whose_lease_ran_out_is_not_found_by_a_reading_that_leaves_its_users_out(
    postgres_server: PostgresServer,
) -> None:
    """After an outage of the database they were shown offline for a moment, room by room."""
    dsn = await migrated(postgres_server)
    async with listening(dsn) as (here, ear):
        connection = await asyncpg.connect(dsn)
        await connection.execute(
            "INSERT INTO nodes VALUES ('late', clock_timestamp() + interval '1 hour')"
        )
        await connection.execute("INSERT INTO presence VALUES ('w', 'late', 'bob', 'Bob')")
        assert await here.present("w") == [("late", "bob", "Bob")]
        assert await here.present("elsewhere") == []
        assert set(here.others) == {"late"}  # it lives, and has nobody there
        await connection.execute("UPDATE nodes SET expires = clock_timestamp()")
        assert await here.present("w") == []
        assert set(here.others) == set()
        await connection.close()
        await until(lambda: ear.gone == ["late"])  # and its users are given their time
