"""Moving from SQLite to PostgreSQL: all of it or nothing, and proven by reading both."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from websockets.asyncio.client import connect

from chatservice.store import Append, MoveCursor, StoreError, StoreErrorKind
from chatservice.store.copying import copy_sqlite
from chatservice.store.postgres import PostgresStore
from chatservice.store.sqlite import SqliteStore
from chatservice.store.sqlite_source import CopyError
from tests.postgres_server import PostgresServer
from tests.service_process import REPOSITORY, ServiceProcess

KEEP = 40
WORKSPACES = [f"room-{number}" for number in range(300)]
MESSAGES = 12_000
USERS = ["ann", "Bob", "é-user", "z"]


async def fill(path: Path, *, keep: int = KEEP) -> None:
    """A service's whole life: some workspaces outgrew their history, some have no message."""
    store = SqliteStore(path, keep=keep, busy_timeout=5)
    await store.start()
    for workspace in [*WORKSPACES, "empty"]:
        await store.open(workspace)
    for user in USERS:
        await store.enter("room-0", user, user.title(), upto=0, after=None, newest=0)
    batch = []
    for number in range(MESSAGES):
        # The first three take a tenth of everything.
        workspace = WORKSPACES[number % (3 if number % 10 == 0 else len(WORKSPACES))]
        user = USERS[number % len(USERS)]
        batch.append(
            Append(workspace, user, user.title(), f"id-{number}", f"text {number} ✓", number)
        )
        if len(batch) == 1000:
            await store.commit(batch, [MoveCursor(workspace, user, number % 37)])
            batch = []
    await store.close()


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state directory, never written to by a test."""
    directory = tmp_path_factory.mktemp("filled")
    asyncio.run(fill(directory / "chat.db"))
    return directory


@pytest.fixture
def state_dir(filled: Path, tmp_path: Path) -> Path:
    """A copy of it, to do with as the test likes."""
    directory = tmp_path / "state"
    directory.mkdir()
    (directory / "chat.db").write_bytes((filled / "chat.db").read_bytes())
    return directory


@asynccontextmanager
async def connected(dsn: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(dsn)
    try:
        yield connection
    finally:
        await connection.close()


async def contents(dsn: str) -> tuple[int, ...]:
    """How much a database holds: workspaces, messages and members."""
    async with connected(dsn) as connection:
        return tuple(
            [
                await connection.fetchval(f"SELECT count(*) FROM {table}")
                for table in ("workspaces", "messages", "members")
            ]
        )


def change(database: Path, sql: str, *values: object) -> None:
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(sql, values)


async def everything(store: Any) -> dict[str, Any]:
    """What clients can ever see, but for the epochs."""
    seen = {}
    for workspace in [*WORKSPACES, "empty"]:
        state = await store.open(workspace)
        seen[workspace] = (
            (state.seq, state.floor),
            await store.since(workspace, 0, state.seq),
            await store.members(workspace),
        )
    return seen


async def test_everything_is_there_and_numbering_goes_on(
    state_dir: Path, postgres_server: PostgresServer
) -> None:
    dsn = postgres_server.database()
    copied = await copy_sqlite(state_dir, dsn, keep=KEEP)
    old = SqliteStore(state_dir / "chat.db", keep=KEEP, busy_timeout=5)
    new = PostgresStore(dsn, keep=KEEP)
    await old.start()
    await new.start()
    before = await everything(old)
    assert await everything(new) == before
    assert (copied.workspaces, copied.messages, copied.cursors, copied.replaced) == (
        301,
        sum(len(messages) for _, messages, _ in before.values()),
        sum(len(members) for _, _, members in before.values()),
        0,
    )
    assert await contents(dsn) == (copied.workspaces, copied.messages, copied.cursors)
    assert copied.messages > 10_000

    for workspace in WORKSPACES:
        assert (await old.open(workspace)).epoch != (await new.open(workspace)).epoch
    last = before["room-0"][1][-1]
    repeated = Append("room-0", last.user, last.name, last.id, last.text, 99)
    fresh = Append("room-0", "ann", "Ann", "new", "new", 99)
    committed = await new.commit([repeated, fresh], [])
    assert [(each.seq, each.repeated) for each in committed.appended] == [
        (last.seq, True),
        (last.seq + 1, False),
    ]
    assert (await new.open("brand-new")).seq == 0  # its id is not taken
    await old.close()
    await new.close()


async def test_messages_hidden_by_a_smaller_history_stay_behind(
    state_dir: Path, postgres_server: PostgresServer
) -> None:
    dsn = postgres_server.database()
    await copy_sqlite(state_dir / "chat.db", dsn, keep=7)
    new = PostgresStore(dsn, keep=1000)
    await new.start()
    state = await new.open("room-5")
    assert (state.seq, state.floor) == (40, 33)
    assert [m.seq for m in await new.since("room-5", 0, 40)] == list(range(34, 41))
    await new.close()


async def test_a_store_that_is_not_empty_is_refused(
    state_dir: Path, postgres_server: PostgresServer
) -> None:
    dsn = postgres_server.database()
    await copy_sqlite(state_dir, dsn, keep=KEEP)
    held = await contents(dsn)
    with pytest.raises(CopyError) as caught:
        await copy_sqlite(state_dir, dsn, keep=KEEP)
    assert f"not empty: it holds 301 workspaces (the first is 'room-0'), {held[1]} messages" in str(
        caught.value
    )
    assert await contents(dsn) == held


@pytest.mark.parametrize("state", ["idle", "frozen in a transaction"])
def test_a_database_in_use_is_refused(
    state_dir: Path, postgres_server: PostgresServer, state: str
) -> None:
    """Not only while it is written to: a service that does nothing has it open."""
    program = (
        "import sqlite3, sys\n"
        "db = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "db.execute('PRAGMA journal_mode = WAL')\n"
        "db.execute('SELECT 1 FROM workspaces').fetchone()\n"
        "if sys.argv[2] != 'idle': db.execute('BEGIN IMMEDIATE')\n"
        "print('ready', flush=True)\n"
        "sys.stdin.read()\n"
    )
    database = state_dir / "chat.db"
    with subprocess.Popen(
        [sys.executable, "-c", program, str(database), state],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"ready\n"
        dsn = postgres_server.database()
        with pytest.raises(StoreError) as caught:
            asyncio.run(copy_sqlite(state_dir, dsn, keep=KEEP))
        assert caught.value.kind is StoreErrorKind.LOCKED
        assert f"{database}: a process uses the database: stop the service first" in str(
            caught.value
        )
        other.communicate()
    assert asyncio.run(copy_sqlite(state_dir, dsn, keep=KEEP)).workspaces == 301


@pytest.mark.parametrize(
    ("version", "do"), [(0, "bring it up to date first, with `migrate`"), (99, "a newer one")]
)
async def test_another_schema_is_refused(
    state_dir: Path, postgres_server: PostgresServer, version: int, do: str
) -> None:
    change(state_dir / "chat.db", "DELETE FROM schema")
    change(state_dir / "chat.db", "INSERT INTO schema VALUES (?, 0, 'another', 0)", version)
    with pytest.raises(StoreError) as caught:
        await copy_sqlite(state_dir, postgres_server.database(), keep=KEEP)
    assert caught.value.kind is StoreErrorKind.SCHEMA
    assert do in str(caught.value)


async def test_a_missing_or_foreign_database_is_refused(
    tmp_path: Path, postgres_server: PostgresServer
) -> None:
    dsn = postgres_server.database()
    with pytest.raises(StoreError) as caught:
        await copy_sqlite(tmp_path, dsn, keep=KEEP)
    assert str(caught.value).startswith(f"{tmp_path / 'chat.db'}: there is no database")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "chat.db").write_bytes(b"no database" * 1000)
    with pytest.raises(StoreError) as caught:
        await copy_sqlite(tmp_path, dsn, keep=KEEP)
    assert caught.value.kind is StoreErrorKind.CORRUPT


async def test_messages_that_the_source_lacks_are_noticed(
    state_dir: Path, postgres_server: PostgresServer
) -> None:
    change(
        state_dir / "chat.db",
        "DELETE FROM messages WHERE seq = 33 AND workspace_id ="
        " (SELECT id FROM workspaces WHERE name = 'room-7')",
    )
    dsn = postgres_server.database()
    with pytest.raises(CopyError) as caught:
        await copy_sqlite(state_dir, dsn, keep=KEEP)
    assert "workspace 'room-7' is at number 40 and should keep 40 messages, but has 39" in str(
        caught.value
    )
    assert await contents(dsn) == (0, 0, 0)


@pytest.mark.parametrize(
    ("table", "trigger", "why"),
    [
        ("messages", "NEW.text := 'forged'; RETURN NEW;", "other text in workspace_id 1, seq 361"),
        ("members", "RETURN NULL;", "has nothing more where the source has workspace_id 1"),
        ("workspaces", "NEW.seq := NEW.seq + 1; RETURN NEW;", "other seq in id 1, name 'room-0'"),
    ],
)
async def test_what_was_written_otherwise_than_read_is_noticed(
    state_dir: Path, postgres_server: PostgresServer, table: str, trigger: str, why: str
) -> None:
    """A trigger stands for whatever may go wrong on the way."""
    dsn = postgres_server.database()
    store = PostgresStore(dsn, keep=KEEP)
    await store.start()
    await store.close()
    async with connected(dsn) as connection:
        await connection.execute(
            f"CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS"
            f" $$ BEGIN {trigger} END $$; CREATE TRIGGER meddle BEFORE INSERT ON {table}"
            " FOR EACH ROW EXECUTE FUNCTION meddle()"
        )
    with pytest.raises(CopyError) as caught:
        await copy_sqlite(state_dir, dsn, keep=1000)
    assert why in str(caught.value)
    assert "forged" not in str(caught.value)
    assert await contents(dsn) == (0, 0, 0)


async def test_a_text_with_a_zero_character_is_copied_with_a_replacement(
    state_dir: Path, postgres_server: PostgresServer
) -> None:
    change(state_dir / "chat.db", "UPDATE messages SET text = ? WHERE id = 'id-11999'", "a\0b")
    dsn = postgres_server.database()
    assert (await copy_sqlite(state_dir, dsn, keep=KEEP)).replaced == 1
    async with connected(dsn) as connection:
        text = await connection.fetchval("SELECT text FROM messages WHERE id = 'id-11999'")
    assert text == "a\N{REPLACEMENT CHARACTER}b"


class Command:
    """`python -m chatservice copy` with settings of its own."""

    def __init__(self, root: Path, dsn: str) -> None:
        store = {"kind": "postgres", "dsn_file": str(root / "dsn")}
        self.service = ServiceProcess(root, overrides={"store": store, "history": {"keep": 1000}})
        self.service.write_secret("dsn", dsn)

    def argv(self, source: Path) -> list[str]:
        settings = str(self.service.settings_file)
        rest = ["-m", "chatservice", "copy", "--settings", settings, "--from", str(source)]
        return [sys.executable, *rest]

    def __call__(self, source: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.argv(source),
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


async def test_killed_half_way_it_leaves_nothing_and_can_be_run_again(
    state_dir: Path, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    dsn = postgres_server.database()
    command = Command(tmp_path / "node", dsn)
    store = PostgresStore(dsn, keep=KEEP)
    await store.start()
    await store.close()
    async with connected(dsn) as connection:
        # Members come last: holding them up leaves the copy with all else written.
        await connection.execute(
            "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN PERFORM pg_advisory_xact_lock(7); RETURN NEW; END $$;"
            "CREATE TRIGGER wait BEFORE INSERT ON members FOR EACH ROW EXECUTE FUNCTION wait()"
        )
        await connection.execute("SELECT pg_advisory_lock(7)")
        process = subprocess.Popen(command.argv(state_dir), cwd=REPOSITORY)
        waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        deadline = time.monotonic() + 30
        while not await connection.fetchval(waiting):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
        async with connected(dsn) as node, node.transaction():  # whoever would write must wait
            with pytest.raises(asyncpg.LockNotAvailableError):
                await node.execute("LOCK TABLE workspaces IN ROW EXCLUSIVE MODE NOWAIT")
        process.kill()
        process.wait(30)
        await connection.execute("SELECT pg_advisory_unlock(7)")
        assert await contents(dsn) == (0, 0, 0)
        await connection.execute("DROP FUNCTION wait CASCADE")
    done = command(state_dir)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["workspaces"], said["messages"], said["cursors"]) == await contents(dsn)


def test_settings_for_sqlite_are_refused(state_dir: Path, tmp_path: Path) -> None:
    command = Command(tmp_path / "node", "postgresql://nowhere")
    command.service.configure({"store": {"kind": "sqlite"}})
    done = command(state_dir)
    assert (done.returncode, done.stdout) == (2, "")
    assert 'store.kind: must be "postgres"' in done.stderr


def test_a_database_that_is_away_is_named_without_its_password(
    state_dir: Path, tmp_path: Path
) -> None:
    done = Command(tmp_path / "node", "postgresql://chat:hush@127.0.0.1:1/chat")(state_dir)
    assert (done.returncode, done.stdout) == (1, "")
    assert "PostgreSQL at 127.0.0.1:1/chat: cannot be reached" in done.stderr
    assert "hush" not in done.stderr


async def test_a_client_of_the_old_service_is_told_to_reload_by_the_new_one(
    service_factory: Callable[..., ServiceProcess], postgres_server: PostgresServer, tmp_path: Path
) -> None:
    old = service_factory()
    command = Command(tmp_path / "node", postgres_server.database())
    new = command.service
    headers = {"Authorization": f"Bearer {old.token('ann', 'w')}"}
    where = "api/chat/workspace/w/connect"
    async with connect(f"ws://127.0.0.1:{old.port}/{where}", additional_headers=headers) as ann:
        welcome = json.loads(await ann.recv())
        await ann.send(json.dumps({"type": "send", "id": "1", "text": "hi"}))
        while json.loads(await ann.recv())["type"] != "ack":
            pass
        busy = await asyncio.to_thread(command, Path(old.settings.service.state_dir))
        assert busy.returncode == 1
        assert "stop the service first" in busy.stderr
    assert await asyncio.to_thread(old.stop) == 0
    done = await asyncio.to_thread(command, Path(old.settings.service.state_dir))
    assert (done.returncode, done.stderr) == (0, "")
    said = json.loads(done.stdout)
    assert (said["workspaces"], said["messages"], said["cursors"]) == (1, 1, 1)
    await asyncio.to_thread(new.start)
    try:
        headers = {"Authorization": f"Bearer {new.token('ann', 'w')}"}
        query = f"?after=1&epoch={welcome['epoch']}"
        url = f"ws://127.0.0.1:{new.port}/{where}{query}"
        async with connect(url, additional_headers=headers) as ann:
            again = json.loads(await ann.recv())
            assert (again["seq"], again["resumed"]) == (1, False)
            assert again["epoch"] != welcome["epoch"]
            await ann.send(json.dumps({"type": "send", "id": "2", "text": "on"}))
            frames = [json.loads(await ann.recv())]
            while frames[-1]["type"] != "ack":
                frames.append(json.loads(await ann.recv()))
            assert frames[-1]["seq"] == 2
    finally:
        new.close()
