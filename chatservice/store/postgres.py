"""The store of many nodes: PostgreSQL, which orders, keeps and replicates.

Any node serves any workspace. A batch is one call of the function `chat_commit`: it locks the rows
of the workspaces concerned, so that commit order is the order of numbers over all nodes. Small
writes of many callers (entering, opening) are gathered into one statement each.

A lost connection is made anew, and what was under way is done again for `RETRY_SECONDS`: a message
is stored once by its id, so a batch may safely be done twice. When the database turns out to be
another one than before (a promoted standby, a restored backup) every workspace has a new epoch,
and calls for one that was opened before fail with `STALE`.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import asyncpg

from chatservice.protocol import Message
from chatservice.store import (
    Append,
    Appended,
    Committed,
    Cursor,
    Entry,
    MemberState,
    MoveCursor,
    Page,
    StoreError,
    StoreErrorKind,
    WorkspaceState,
)
from chatservice.store import postgres_read as reading
from chatservice.store.postgres_errors import BUSY, LOST, TRY_AGAIN, describe, store_error
from chatservice.store.postgres_migrate import CONNECT_SECONDS, MIGRATIONS, migrate_at

log = logging.getLogger(__name__)

RETRY_SECONDS: Final = 3.0
"""How long a write is done again when the connection is lost, before its callers are refused."""
STATEMENT_SECONDS: Final = 5.0
LOCK_SECONDS: Final = 3.0
_MOST_SLACK: Final = 64
"""Messages that may be on disk beyond those kept, so that not every commit deletes some."""

T = TypeVar("T")

Work = Callable[[Any], Awaitable[T]]
"""Does something on a connection."""

if TYPE_CHECKING:
    Pool = asyncpg.Pool[asyncpg.Record]
    Connection = asyncpg.Connection[asyncpg.Record]

_COMMIT = "SELECT * FROM chat_commit($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)"

_OPEN = """
INSERT INTO workspaces (name, epoch, created_ts) VALUES ($1, $2, $3)
ON CONFLICT (name) DO NOTHING"""

_NOTE_MEMBERS = """
INSERT INTO members AS m (workspace_id, member, name, read)
SELECT w.id, x.member, x.name, 0
FROM (SELECT DISTINCT ON (workspace, member) workspace, member, name
      FROM unnest($1::text[], $2::text[], $3::text[]) WITH ORDINALITY
        AS y (workspace, member, name, ord)
      ORDER BY workspace, member, ord DESC) AS x
JOIN workspaces w ON w.name = x.workspace
ORDER BY w.id, x.member
ON CONFLICT (workspace_id, member) DO UPDATE SET name = excluded.name
WHERE m.name <> excluded.name"""

_FORGET = """
WITH gone AS (DELETE FROM workspaces WHERE name = $1 RETURNING id),
  messages_gone AS (DELETE FROM messages m USING gone WHERE m.workspace_id = gone.id),
  members_gone AS (DELETE FROM members m USING gone WHERE m.workspace_id = gone.id)
SELECT count(*) FROM gone"""

_BEAT = """
INSERT INTO heartbeat (one, ts) VALUES (1, $1)
ON CONFLICT (one) DO UPDATE SET ts = excluded.ts"""


class PostgresStore:
    """Implements `chatservice.store.Store`, which says what each method promises.

    Args:
        dsn: `postgresql://user:password@host:port/database?sslmode=verify-full&sslrootcert=...`;
            never logged.
        keep: how many messages are kept of each workspace.
        connections: how many connections this node holds at the most.
        migrations: the directory of the migrations.
    """

    def __init__(
        self, dsn: str, *, keep: int, connections: int = 8, migrations: Path = MIGRATIONS
    ) -> None:
        self.where = describe(dsn)
        self._dsn = dsn
        self._keep = keep
        self._slack = max(1, min(_MOST_SLACK, keep // 8))
        self._connections = connections
        self._migrations = migrations
        self._pool: Pool | None = None
        self._closed = False
        self._lineage = ""
        self._opened: set[str] | None = None
        self._notes: list[tuple[str, str, str]] = []
        self._noting: asyncio.Future[None] | None = None
        self._tasks: set[asyncio.Future[Any]] = set()
        self._turn = asyncio.Lock()

    # --- life ----------------------------------------------------------------------------

    async def start(self) -> None:
        """Connect, and migrate the database where it is older than the release."""
        if self._closed:
            raise self._unusable()
        if self._pool is not None:
            return
        # Its pool complains, with tracebacks, of what is reported here anyway.
        logging.getLogger("asyncpg").setLevel(logging.ERROR)
        pool: Pool | None = None
        try:
            await migrate_at(self._dsn, migrations=self._migrations)
            pool = await asyncpg.create_pool(
                self._dsn,
                min_size=1,
                max_size=self._connections,
                timeout=CONNECT_SECONDS,
                command_timeout=STATEMENT_SECONDS + 1,
                init=self._connected,
                server_settings=_session_settings(),
            )
        except Exception as error:
            raise store_error(error, self.where) from None
        self._pool = pool

    async def _connected(self, connection: Connection) -> None:
        """See, on each new connection, whether this is still the database that it was."""
        lineage = str(await connection.fetchval("SELECT chat_lineage()"))
        if self._lineage and lineage != self._lineage:
            log.warning(
                "the database at %s was restored or failed over: every workspace has a new "
                "epoch, and clients reload",
                self.where,
            )
            self._opened = set()
        self._lineage = lineage

    async def close(self) -> None:
        """Finish what is under way and close every connection."""
        self._closed = True
        while self._tasks:
            await asyncio.wait(self._tasks)
        pool, self._pool = self._pool, None
        if pool is not None:
            try:
                async with asyncio.timeout(STATEMENT_SECONDS):
                    await pool.close()
            except TimeoutError:
                pool.terminate()

    async def check(self) -> None:
        """Commit a heartbeat."""
        await self._read(lambda connection: connection.execute(_BEAT, _now()))

    # --- workspaces ----------------------------------------------------------------------

    async def open(self, workspace: str) -> WorkspaceState:
        """Read the state of a workspace; only a new one costs a write."""
        state = await self._read(lambda c: reading.workspace_state(c, workspace, self._keep))
        if state is None:
            values = workspace, secrets.token_hex(16), _now()
            await self._write(lambda connection: connection.execute(_OPEN, *values))
            state = await self._read(lambda c: reading.workspace_state(c, workspace, self._keep))
        if state is None:
            raise self._stale(workspace, "it was forgotten at once")
        if self._opened is not None:
            self._opened.add(workspace)
        return state

    async def forget(self, workspace: str) -> bool:
        """Delete a workspace."""
        gone: int = await self._write(lambda c: c.fetchval(_FORGET, workspace))
        return gone > 0

    async def idle_workspaces(self, prefix: str, before_ts: int) -> list[str]:
        """Read which workspaces of that prefix were last written to before then."""
        return await self._read(lambda c: reading.idle_workspaces(c, prefix, before_ts))

    async def size_bytes(self) -> int:
        """Ask the server how much the database occupies there."""
        size: int = await self._read(
            lambda connection: connection.fetchval("SELECT pg_database_size(current_database())")
        )
        return size

    # --- members -------------------------------------------------------------------------

    async def enter(
        self, workspace: str, user: str, name: str, *, upto: int, after: int | None, newest: int
    ) -> Entry:
        """Read what the user needs; only a new member or a new name costs a write."""
        found = await self._read(
            lambda c: reading.entry(
                c, workspace, user, keep=self._keep, upto=upto, after=after, newest=newest
            ),
            concerning={workspace},
        )
        if found is None:
            raise self._stale(workspace, "it was never opened, or was forgotten")
        entry, known_as = found
        if known_as != name:
            await self._note(workspace, user, name)
        return entry

    async def _note(self, workspace: str, user: str, name: str) -> None:
        """Note a member, together with whoever else waits for that."""
        self._notes.append((workspace, user, name))
        while self._noting is not None:
            await asyncio.wait([self._noting])
            if (workspace, user, name) not in self._notes:
                return  # it went along with another's
        self._noting = asyncio.get_running_loop().create_future()
        notes, self._notes = self._notes, []
        columns = [list(column) for column in zip(*notes, strict=True)]
        try:
            await self._write(lambda connection: connection.execute(_NOTE_MEMBERS, *columns))
        finally:
            self._noting.set_result(None)
            self._noting = None

    async def members(self, workspace: str) -> list[MemberState]:
        """Read everyone who has ever entered."""
        return await self._read(lambda c: reading.members(c, workspace, self._keep))

    # --- messages ------------------------------------------------------------------------

    async def commit(self, appends: Sequence[Append], reads: Sequence[MoveCursor]) -> Committed:
        """Store one batch in one statement."""
        self._require_running()
        workspaces = {o.workspace for o in appends} | {o.workspace for o in reads}
        row = await self._write(
            lambda connection: connection.fetchrow(
                _COMMIT,
                self._keep,
                self._slack,
                [append.workspace for append in appends],
                [append.user for append in appends],
                [append.name for append in appends],
                [append.id for append in appends],
                [append.text for append in appends],
                [append.ts for append in appends],
                [move.workspace for move in reads],
                [move.user for move in reads],
                [move.seq for move in reads],
            ),
            in_turn=True,
            concerning=workspaces,
        )
        seqs, tss, repeats, cursors, unreads, newest = row
        return Committed(
            [Appended(*result) for result in zip(seqs, tss, repeats, strict=True)]
            if appends
            else [],
            [Cursor(*result) for result in zip(cursors, unreads, strict=True)] if reads else [],
            dict(zip((move.workspace for move in reads), newest, strict=True)) if reads else {},
        )

    async def since(self, workspace: str, after: int, upto: int) -> list[Message]:
        """Read messages by number."""
        return await self._read(lambda c: reading.since(c, workspace, after, upto, self._keep))

    async def since_each(self, wanted: Sequence[tuple[str, int, int]]) -> list[list[Message]]:
        """Read messages of several workspaces in one statement."""
        return await self._read(lambda c: reading.since_each(c, wanted, self._keep))

    async def history(self, workspace: str, before: int, limit: int) -> Page:
        """Read a page of messages."""
        return await self._read(lambda c: reading.history(c, workspace, before, limit, self._keep))

    # --- inside --------------------------------------------------------------------------

    async def _read(self, work: Work[T], *, concerning: Set[str] = frozenset()) -> T:
        """Do something on a connection of the pool.

        Raises:
            StoreError: it failed.
        """
        self._require_running()
        return await self._again(work, concerning, BUSY)

    async def _write(
        self, work: Work[T], *, in_turn: bool = False, concerning: Set[str] = frozenset()
    ) -> T:
        """Do something that may be done twice, again when it met another or lost its connection.

        It is done even when the caller gives up waiting. `in_turn`: after all that were called
        before it, and not beside them. `concerning`: workspaces that must have been opened in the
        database that is reached in the end, which may be another one than at first.

        Raises:
            StoreError: it failed, and went on failing.
        """
        self._require_running()
        task = asyncio.ensure_future(
            self._in_turn(work, concerning)
            if in_turn
            else self._again(work, concerning, (*TRY_AGAIN, *LOST))
        )
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def _in_turn(self, work: Work[T], concerning: Set[str]) -> T:
        async with self._turn:
            return await self._again(work, concerning, (*TRY_AGAIN, *LOST))

    async def _again(
        self, work: Work[T], concerning: Set[str], after: tuple[type[BaseException], ...]
    ) -> T:
        """Do it again after such failures, for a while."""
        deadline = time.monotonic() + RETRY_SECONDS
        while True:
            try:
                return await self._on_connection(work, concerning)
            except StoreError as error:
                if not isinstance(error.__cause__, after):
                    raise
                if time.monotonic() > deadline:
                    raise
            await asyncio.sleep(random.uniform(0.01, 0.1))  # noqa: S311 - jitter, not a secret

    async def _on_connection(self, work: Work[T], concerning: Set[str] = frozenset()) -> T:
        assert self._pool is not None
        try:
            async with asyncio.timeout(STATEMENT_SECONDS + CONNECT_SECONDS):
                async with self._pool.acquire() as connection:
                    self._require_opened(concerning)  # now that it is known which database it is
                    return await work(connection)
        except StoreError:
            raise
        except Exception as error:
            raise store_error(error, self.where) from error

    def _require_running(self) -> None:
        if self._closed or self._pool is None:
            raise self._unusable()

    def _require_opened(self, workspaces: Iterable[str]) -> None:
        if self._opened is not None:
            for workspace in workspaces:
                if workspace not in self._opened:
                    raise self._stale(workspace, "the database was restored or failed over")

    def _stale(self, workspace: str, why: str) -> StoreError:
        return StoreError(StoreErrorKind.STALE, f"workspace {workspace!r}: {why}: open it again")

    def _unusable(self) -> StoreError:
        why = "was closed" if self._closed else "was not started"
        return StoreError(StoreErrorKind.CLOSED, f"PostgreSQL at {self.where}: the store {why}")


def _now() -> int:
    return time.time_ns() // 1_000_000


def _session_settings() -> dict[str, str]:
    return {
        "application_name": "chatservice",
        "statement_timeout": f"{STATEMENT_SECONDS:g}s",
        "lock_timeout": f"{LOCK_SECONDS:g}s",
        "idle_in_transaction_session_timeout": f"{STATEMENT_SECONDS:g}s",
        "synchronous_commit": "on",
        "default_transaction_isolation": "read committed",  # chat_commit reads what it waited for
        "jit": "off",
    }
