"""Nodes tell each other through the database that they share.

Words go out as NOTIFY on one channel, many to a notification, in transactions of their own: what
notifies commits one at a time in all of PostgreSQL, so the commits of messages never do, and these
wait for no disk. Who is present is also in a table, for nodes that come later; a row counts for as
long as its node's lease. A node that is killed or frozen stops its heartbeats, and its users go
offline when the lease has run out.

https://www.postgresql.org/docs/current/sql-notify.html
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import socket
from collections.abc import Iterable, Iterator, Sequence, Set
from typing import TYPE_CHECKING, Any, Final

import asyncpg
import msgspec

from chatservice.cluster import Committed, Here, Listener, Word
from chatservice.logs import get_logger
from chatservice.store.postgres import STATEMENT_SECONDS
from chatservice.store.postgres_errors import LOST, describe, store_error
from chatservice.store.postgres_migrate import CONNECT_SECONDS

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

log = get_logger("bus")

CHANNEL: Final = "chat"
MAX_PAYLOAD: Final = 7900
"""Bytes of one notification; PostgreSQL takes less than 8,000."""
GATHER_SECONDS: Final = 0.002
"""How long words are gathered before they are sent."""

_BEAT = """
WITH before AS (SELECT expires FROM nodes WHERE node = $1),
  mine AS (
    INSERT INTO nodes (node, expires) VALUES ($1, clock_timestamp() + $2 * interval '1 second')
    ON CONFLICT (node) DO UPDATE SET expires = excluded.expires),
  dead AS (
    DELETE FROM nodes WHERE expires < clock_timestamp() - interval '1 minute' RETURNING node),
  ghosts AS (DELETE FROM presence USING dead WHERE presence.node = dead.node)
SELECT coalesce((SELECT expires > clock_timestamp() FROM before), false) AS held,
  array(SELECT node FROM nodes WHERE node <> $1 AND expires > clock_timestamp()) AS others"""

_ARRIVE = """
INSERT INTO presence (workspace, node, member, name)
SELECT w, $1, m, n FROM unnest($2::text[], $3::text[], $4::text[]) AS x (w, m, n)
ON CONFLICT (workspace, node, member) DO UPDATE SET name = excluded.name"""

_DEPART = """
DELETE FROM presence p USING unnest($2::text[], $3::text[]) AS x (w, m)
WHERE p.workspace = x.w AND p.node = $1 AND p.member = x.m"""

_PRESENT = """
SELECT n.node, p.member, p.name
FROM nodes n LEFT JOIN presence p ON p.node = n.node AND p.workspace = $1
WHERE n.node <> $2 AND n.expires > clock_timestamp()"""
"""A node that lives and has nobody there is one row without a member."""

_PRESENCE_OF = "SELECT workspace, member FROM presence WHERE node = $1"

_CLEAR = "DELETE FROM presence WHERE node = $1"

_NEWEST = """
SELECT name, md5(epoch || chat_lineage()), seq FROM workspaces WHERE name = ANY ($1)"""

_FAREWELL = """
WITH gone AS (DELETE FROM nodes WHERE node = $1)
DELETE FROM presence WHERE node = $1"""


class _Envelope(msgspec.Struct, array_like=True):
    node: str
    words: list[Word]
    farewell: bool = False
    anew: bool = False


_encode = msgspec.json.Encoder().encode
_decoder = msgspec.json.Decoder(_Envelope)
_FAILURES: Final = (TimeoutError, asyncpg.PostgresError, *LOST)


class PostgresBus:
    """Implements `cluster.Bus`.

    Args:
        dsn: the database that all nodes share; never logged.
        lease: seconds after its last heartbeat for which a node counts as living.
    """

    def __init__(self, dsn: str, *, lease: float) -> None:
        self.node = f"{socket.gethostname()}-{secrets.token_hex(4)}"
        self._dsn = dsn
        self._where = describe(dsn)
        self._lease = lease
        self._listener: Listener | None = None
        self._task: asyncio.Task[None] | None = None
        self._connection: Connection | None = None
        self._using = asyncio.Lock()
        self._lost = asyncio.Event()
        self._waiting: list[Word] = []
        self._wake = asyncio.Event()
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._others: set[str] = set()
        """Nodes that are taken to live: what they have is kept until they are gone."""
        self._found: set[str] = set()
        self._noticed: set[str] = set()
        """Nodes that were heard or read of since the last heartbeat was begun."""
        self._connected = asyncio.Event()
        self._trust_from = 0.0
        self._anew = False

    async def start(self, listener: Listener) -> None:
        """Begin to listen, and go on in the background."""
        self._listener = listener
        self._task = asyncio.get_running_loop().create_task(self._live(), name="bus")
        # Members who come in before the others can be told of them may seem to be away.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CONNECT_SECONDS):
                await self._connected.wait()

    async def close(self) -> None:
        """Tell what waits, say goodbye, and give up the lease."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        connection, self._connection = self._connection, None
        if connection is not None and not connection.is_closed():
            with contextlib.suppress(*_FAILURES):
                async with asyncio.timeout(STATEMENT_SECONDS):
                    await connection.execute(_FAREWELL, self.node)
                    farewell = _encode(_Envelope(self.node, [], True)).decode()
                    await connection.execute("SELECT pg_notify($1, $2)", CHANNEL, farewell)
                    await connection.close()

    def tell(self, word: Word) -> None:
        """Tell all other nodes within a few milliseconds."""
        self._waiting.append(word)
        self._quiet.clear()
        self._wake.set()

    async def told(self) -> None:
        """Wait until everything told so far is committed."""
        await self._quiet.wait()

    @property
    def others(self) -> Set[str]:
        """The nodes whose lease was found to hold when that was looked at last.

        After a crash of the database the leases are gone, and with them who is present. A node
        that has not come back yet counts as living for a while, but is not found: what its users
        do is not known, and they are not taken for gone.
        """
        return self._found

    async def newest(self, workspaces: Sequence[str]) -> dict[str, tuple[str, int]]:
        """Read how far workspaces are, in one statement."""
        rows = await self._read(_NEWEST, list(workspaces))
        return {row[0]: (row[1], row[2]) for row in rows}

    async def present(self, workspace: str) -> list[tuple[str, str, str]]:
        """Read who is present on other nodes whose lease holds."""
        rows = await self._read(_PRESENT, workspace, self.node)
        # Of a node whose lease has run out since the last heartbeat nobody was read, though it
        # may be about to come back: that it has nobody does not follow.
        self._found.clear()
        for row in rows:
            self._notice(row[0])
        return [(row[0], row[1], row[2]) for row in rows if row[1] is not None]

    async def presence_of(self, node: str) -> set[tuple[str, str]]:
        """Read whom another node has, everywhere."""
        return {(row[0], row[1]) for row in await self._read(_PRESENCE_OF, node)}

    def suspect(self, nodes: Iterable[str]) -> None:
        """Say of these nodes that they are gone, too, when their lease is not found to hold."""
        self._others.update(nodes)

    async def _read(self, query: str, *values: object) -> list[asyncpg.Record]:
        connection = self._connection
        try:
            if connection is None:
                raise OSError("not connected")
            async with self._using, asyncio.timeout(STATEMENT_SECONDS):
                return await connection.fetch(query, *values)
        except _FAILURES as error:
            raise store_error(error, self._where) from error

    # --- inside --------------------------------------------------------------------------

    async def _live(self) -> None:
        """Connect, and again whenever the connection is lost."""
        complained = False
        while True:
            try:
                await self._connect()
                complained = False
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._beat())
                    group.create_task(self._send())
                    group.create_task(self._watch())
            except* Exception as failures:
                if not complained:
                    complained = True
                    reason = str(store_error(failures.exceptions[0], self._where))
                    log.error("the other nodes cannot be reached; trying again", reason=reason)
            if self._connection is not None:
                self._connection.terminate()
                self._connection = None
            await asyncio.sleep(random.uniform(0.1, 0.5))  # noqa: S311 - jitter, not a secret

    async def _connect(self) -> None:
        async with asyncio.timeout(CONNECT_SECONDS):
            connection = await asyncpg.connect(
                self._dsn,
                command_timeout=STATEMENT_SECONDS,
                server_settings={
                    "application_name": f"chatservice {self.node}"[:63],
                    "synchronous_commit": "off",
                    "jit": "off",
                },
            )
        self._lost.clear()
        connection.add_termination_listener(lambda _: self._lost.set())
        await connection.add_listener(CHANNEL, self._hear)
        self._connection = connection
        # The leases did not survive if the database crashed: the others are about to renew them.
        self._trust_from = asyncio.get_running_loop().time() + self._lease
        self._found.clear()
        # Whatever was said while nobody listened is lost: all is told anew, in one transaction with
        # the heartbeat, so that whoever finds this node's lease finds its users beside it.
        self._waiting.clear()
        self._anew = True
        assert self._listener is not None
        self._listener.resync()  # it reads when this is done
        async with self._using, connection.transaction():
            self._noticed.clear()
            row = await connection.fetchrow(_BEAT, self.node, self._lease)
            await self._tell_waiting(connection)
        self._look_at(row)
        log.info("listening to the other nodes", node=self.node, others=len(self._others))
        self._wake.set()
        self._connected.set()

    async def _watch(self) -> None:
        await self._lost.wait()
        raise OSError("the connection was lost")

    async def _beat(self) -> None:
        connection = self._connection
        assert connection is not None
        while True:
            await asyncio.sleep(self._lease / 3)
            if not await self._beat_once(connection):
                # This node was frozen for longer than its lease: the others let its users go.
                self._anew = True
                assert self._listener is not None
                self._listener.resync()
                self._wake.set()  # also where there is nothing but that to tell

    async def _beat_once(self, connection: Connection) -> bool:
        """Renew the lease; gives whether it was still held. Notices which other nodes died."""
        async with self._using:
            self._noticed.clear()
            row = await connection.fetchrow(_BEAT, self.node, self._lease)
        self._look_at(row)
        assert row is not None
        return bool(row["held"])

    def _look_at(self, row: asyncpg.Record | None) -> None:
        """See whose leases hold; a node may have come after the row was made."""
        assert row is not None
        found = {*row["others"], *self._noticed}
        if asyncio.get_running_loop().time() >= self._trust_from:
            for node in self._others - found:
                self._gone(node)
        self._found = found
        self._others |= found

    def _gone(self, node: str) -> None:
        log.warning("a node is gone", node=node)
        for nodes in (self._others, self._found, self._noticed):
            nodes.discard(node)
        assert self._listener is not None
        self._listener.node_gone(node)

    def _hear(self, _: Any, __: int, ___: str, payload: object) -> None:
        try:
            envelope = _decoder.decode(str(payload))
        except msgspec.DecodeError:
            log.error("another node said something that is not understood")
            return
        if envelope.node == self.node or self._listener is None:
            return
        if envelope.farewell:
            self._gone(envelope.node)
            return
        self._notice(envelope.node)
        self._listener.heard(envelope.node, envelope.words)
        if envelope.anew:
            self._listener.anew(envelope.node)

    def _notice(self, node: str) -> None:
        for nodes in (self._others, self._found, self._noticed):
            nodes.add(node)

    async def _send(self) -> None:
        connection = self._connection
        assert connection is not None
        while True:
            await self._wake.wait()
            await asyncio.sleep(GATHER_SECONDS)
            self._wake.clear()
            async with self._using, connection.transaction():
                await self._tell_waiting(connection)
            if not self._wake.is_set():
                self._quiet.set()

    async def _tell_waiting(self, connection: Connection) -> None:
        """Say what waits, within the caller's transaction."""
        words, self._waiting = self._waiting, []
        anew, self._anew = self._anew, False
        if anew:
            await connection.execute(_CLEAR, self.node)
        await self._note_presence(connection, [w for w in words if isinstance(w, Here)])
        payloads = list(_payloads(self.node, merged(words)))
        if anew:
            payloads.append(_encode(_Envelope(self.node, [], anew=True)).decode())
        await connection.executemany(
            "SELECT pg_notify($1, $2)", [(CHANNEL, payload) for payload in payloads]
        )

    async def _note_presence(self, connection: Connection, words: Sequence[Here]) -> None:
        latest = {(word.workspace, word.user): word for word in words}
        arrived = [word for word in latest.values() if word.present]
        departed = [word for word in latest.values() if not word.present]
        if arrived:
            await connection.execute(
                _ARRIVE,
                self.node,
                [word.workspace for word in arrived],
                [word.user for word in arrived],
                [word.name for word in arrived],
            )
        if departed:
            await connection.execute(
                _DEPART,
                self.node,
                [word.workspace for word in departed],
                [word.user for word in departed],
            )


def merged(words: Iterable[Word]) -> list[Word]:
    """Keep of several wake-ups of a workspace only the last; the rest stays in order."""
    newest: dict[str, Committed] = {}
    others: list[Word] = []
    for word in words:
        if isinstance(word, Committed):
            newest[word.workspace] = word
        else:
            others.append(word)
    return [*newest.values(), *others]


def _payloads(node: str, words: Sequence[Word]) -> Iterator[str]:
    """Put as many words into each notification as it holds."""
    start = size = 0
    pieces = [len(_encode(word)) + 1 for word in words]
    budget = MAX_PAYLOAD - len(_encode(_Envelope(node, []))) - 8
    for index, length in enumerate(pieces):
        if size and size + length > budget:
            yield _encode(_Envelope(node, list(words[start:index]))).decode()
            start, size = index, 0
        size += length
    if start < len(words):
        yield _encode(_Envelope(node, list(words[start:]))).decode()
