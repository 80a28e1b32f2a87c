"""PostgreSQL in trouble: full, slow, contended, failed over. Refused or delayed, and never lost."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from chatservice.store import Append, Appended, Store, StoreError, StoreErrorKind
from chatservice.store.postgres import PostgresStore
from tests.chatservice.store.conftest import Messages, failure_of
from tests.postgres_server import PostgresServer
from tests.service_process import REPOSITORY
from tests.tcp_proxy import TcpProxy

DEADLINE = 30.0

ServerFactory = Callable[..., PostgresServer]


@pytest.fixture
def new_server(postgres_server: PostgresServer, postgres_root: Path) -> Iterator[ServerFactory]:
    """Make servers with settings of their own; they are stopped after the test."""
    made: list[PostgresServer] = []

    def make(name: str, **settings: str) -> PostgresServer:
        root = postgres_root / f"trouble-{name}-{postgres_server.port}-{id(made)}"
        made.append(PostgresServer(root, **settings))
        return made[-1]

    yield make
    for server in made:
        server.stop()


@asynccontextmanager
async def started(dsn: str, **arguments: Any) -> AsyncIterator[PostgresStore]:
    store = PostgresStore(dsn, keep=1000, **arguments)
    await store.start()
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def session(dsn: str, **settings: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(dsn, server_settings=settings)
    try:
        yield connection
    finally:
        with suppress(OSError, asyncpg.PostgresError):
            await connection.close(timeout=5)


async def until(condition: Callable[[], Any], what: str) -> None:
    """Await a condition that is asked of a server."""
    deadline = asyncio.get_running_loop().time() + DEADLINE
    while not await condition():
        assert asyncio.get_running_loop().time() < deadline, f"not in time: {what}"
        await asyncio.sleep(0.02)


async def texts(store: Store, workspace: str = "w") -> list[str]:
    return [message.text for message in await store.since(workspace, 0, 10**6)]


# --- TLS -------------------------------------------------------------------------------------


class Authority:
    """A certificate authority, made on the spot."""

    def __init__(self, directory: Path, name: str) -> None:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        self._x509, self._hashes, self._serialization, self._ec = x509, hashes, serialization, ec
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        self.path = directory / f"{name}.pem"
        certificate = self._sign(self._name, self._key.public_key(), ca=True, names=[])
        self.path.write_bytes(certificate)

    def _sign(self, subject: Any, public_key: Any, *, ca: bool, names: list[Any]) -> bytes:
        x509, now = self._x509, datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=2))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        signed = builder.sign(self._key, self._hashes.SHA256())
        return bytes(signed.public_bytes(self._serialization.Encoding.PEM))

    def issue(self, directory: Path, *names: str) -> tuple[Path, Path]:
        """Give the certificate and the key of a server with these names."""
        x509, coding = self._x509, self._serialization
        key = self._ec.generate_private_key(self._ec.SECP256R1())
        alternatives = [
            x509.IPAddress(ip_address(name)) if name[0].isdigit() else x509.DNSName(name)
            for name in names
        ]
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, names[0])])
        certificate, private = directory / "server.pem", directory / "server.key"
        certificate.write_bytes(self._sign(subject, key.public_key(), ca=False, names=alternatives))
        private.write_bytes(
            key.private_bytes(
                coding.Encoding.PEM, coding.PrivateFormat.PKCS8, coding.NoEncryption()
            )
        )
        return certificate, private


async def test_tls_is_verified_name_and_all(new_server: ServerFactory, tmp_path: Path) -> None:
    """The certificate is for 127.0.0.1 and not for localhost, which leads to the same server."""
    trusted, other = Authority(tmp_path, "ca"), Authority(tmp_path, "other-ca")
    server = new_server("tls", ssl="on", ssl_cert_file="server.pem", ssl_key_file="server.key")
    server.create()
    for file in trusted.issue(server.data, "127.0.0.1", "db.example"):
        server.own(file)
    await asyncio.to_thread(server.start)
    plain = server.database().replace("//chat@", "//chat:hush@")
    verified = f"{plain}?sslmode=verify-full&sslrootcert={trusted.path}"
    async with started(verified) as store:
        await store.open("w")
        async with session(verified) as connection:
            query = "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)"
            assert await connection.fetchval(f"{query} WHERE application_name = 'chatservice'")
    for dsn, cause in (
        (f"{plain}?sslmode=verify-full&sslrootcert={other.path}", "unable to get local issuer"),
        (verified.replace("127.0.0.1", "localhost"), "Hostname mismatch"),
    ):
        refused = await failure_of(PostgresStore(dsn, keep=10).start())
        assert refused.kind is StoreErrorKind.IO
        assert "its certificate is not trusted: look at its name" in str(refused)
        assert cause in str(refused)
        assert "hush" not in str(refused)
    missing = f"{plain}?sslmode=verify-full&sslrootcert={tmp_path / 'none.pem'}"
    refused = await failure_of(PostgresStore(missing, keep=10).start())
    assert "names is not there: look at sslrootcert" in str(refused)
    assert "hush" not in str(refused)


async def test_a_server_without_tls_is_refused_where_tls_is_asked_for(
    postgres_server: PostgresServer,
) -> None:
    dsn = postgres_server.database().replace("//chat@", "//chat:hush@")
    refused = await failure_of(PostgresStore(f"{dsn}?sslmode=require", keep=10).start())
    assert "SSL" in str(refused)
    assert "hush" not in str(refused)


# --- connections -------------------------------------------------------------------------------


async def test_with_too_few_connections_calls_wait_for_one_another(
    new_server: ServerFactory, messages: Messages
) -> None:
    """The server takes 6, four of which are taken, and the store would like to have eight."""
    server = new_server("few", max_connections="6", superuser_reserved_connections="0")
    server.create()
    await asyncio.to_thread(server.start)
    dsn = server.database()
    async with started(dsn, connections=8) as store:
        await store.open("w")
        others = [await asyncpg.connect(dsn) for _ in range(4)]
        entered = await asyncio.gather(
            *(
                store.enter("w", f"user-{number}", "U", upto=0, after=None, newest=0)
                for number in range(20)
            ),
            store.commit([messages.one()], []),
        )
        assert len(entered) == 21
        assert len(await store.members("w")) == 20
        for other in others:
            await other.close()


async def test_without_any_connection_sends_are_refused_and_it_recovers_by_itself(
    new_server: ServerFactory, messages: Messages
) -> None:
    server = new_server("none", max_connections="6", superuser_reserved_connections="0")
    server.create()
    await asyncio.to_thread(server.start)
    dsn = server.database()
    async with started(dsn) as store:
        await store.open("w")
        first, second = messages.one(), messages.one()
        await store.commit([first], [])
        others = [await asyncpg.connect(dsn) for _ in range(5)]
        others.append(await _oust(others[0], dsn))
        refused = await failure_of(store.commit([second], []))
        assert refused.kind is StoreErrorKind.IO
        assert "raise its max_connections, or lower store.connections" in str(refused)
        for other in others:
            await other.close()
        committed = await store.commit([first, second], [])
        assert committed.appended == [
            Appended(1, first.ts, repeated=True),
            Appended(2, second.ts, repeated=False),
        ]


async def _oust(other: Any, dsn: str) -> Any:
    """Take the store's connection away, as often as it takes to be there before it comes back."""
    async with asyncio.timeout(DEADLINE):
        while True:
            await other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'chatservice'"
            )
            with suppress(asyncpg.TooManyConnectionsError):
                return await asyncpg.connect(dsn)


# --- slow, contended ---------------------------------------------------------------------------


async def test_a_row_held_by_another_session_refuses_the_batch_and_nothing_of_it_is_stored(
    postgres_server: PostgresServer, messages: Messages
) -> None:
    dsn = postgres_server.database()
    async with started(dsn) as store, session(dsn) as other:
        await store.open("w")
        await store.open("v")
        batch = [messages.one("v"), messages.one("w")]
        async with other.transaction():
            await other.execute("SELECT 1 FROM workspaces WHERE name = 'w' FOR UPDATE")
            refused = await failure_of(store.commit(batch, []))
        assert refused.kind is StoreErrorKind.LOCKED
        assert "another session holds a row for too long" in str(refused)
        assert await texts(store) == await texts(store, "v") == []
        committed = await store.commit(batch, [])
        assert [(each.seq, each.repeated) for each in committed.appended] == [(1, False)] * 2


async def test_a_batch_whose_answer_does_not_come_is_stored_once(
    postgres_server: PostgresServer, messages: Messages
) -> None:
    """The connection is frozen, not cut: only a deadline can tell."""
    async with TcpProxy(postgres_server.port) as way:
        dsn = postgres_server.database()
        through = dsn.replace(f":{postgres_server.port}/", f":{way.port}/")
        async with started(through) as store:
            await store.open("w")
            await store.commit([messages.one(text="before")], [])
            way.freeze()
            lost = messages.one(text="unknown")
            async with asyncio.timeout(DEADLINE):
                refused = await failure_of(store.commit([lost], []))
            assert refused.kind is StoreErrorKind.LOCKED
            assert "did not answer in time" in str(refused)
            way.thaw()
            async with asyncio.timeout(DEADLINE):
                committed = await store.commit([lost, messages.one(text="after")], [])
            assert [each.seq for each in committed.appended] == [2, 3]
            assert await texts(store) == ["before", "unknown", "after"]


async def test_a_deadlock_is_broken_and_the_batch_done_again(
    postgres_server: PostgresServer, messages: Messages
) -> None:
    """The other session goes the wrong way round, and is more patient than the store."""
    dsn = postgres_server.database()
    lock = "SELECT 1 FROM workspaces WHERE name = $1 FOR UPDATE"
    async with (
        started(dsn) as store,
        session(dsn, deadlock_timeout="20s") as other,
        session(dsn) as watcher,
    ):
        await store.open("first")
        await store.open("second")
        async with other.transaction():
            await other.execute(lock, "second")
            batch = [messages.one("first"), messages.one("second")]
            committing = asyncio.ensure_future(store.commit(batch, []))
            query = "SELECT count(*) FROM pg_locks WHERE NOT granted"
            await until(lambda: watcher.fetchval(query), "the batch waits")
            async with asyncio.timeout(DEADLINE):
                await other.execute(lock, "first")  # granted, so the store's batch gave way
        committed = await committing
        assert [(each.seq, each.repeated) for each in committed.appended] == [(1, False)] * 2


@pytest.mark.parametrize("state", ["40001", "40P01", "53300"])
async def test_a_transaction_that_must_be_done_again_is(
    postgres_server: PostgresServer, messages: Messages, state: str
) -> None:
    dsn = postgres_server.database()
    async with started(dsn) as store, session(dsn) as other:
        await store.open("w")
        await other.execute(  # a sequence is not rolled back, so it counts the attempts
            "CREATE SEQUENCE attempts; CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql"
            " AS $$ BEGIN IF nextval('attempts') <= 2 THEN RAISE EXCEPTION 'again'"
            f" USING ERRCODE = '{state}'; END IF; RETURN NEW; END $$;"
            "CREATE TRIGGER refuse BEFORE INSERT ON messages"
            " FOR EACH ROW EXECUTE FUNCTION refuse()"
        )
        committed = await store.commit([messages.one()], [])
        assert [(each.seq, each.repeated) for each in committed.appended] == [(1, False)]
        assert await other.fetchval("SELECT last_value FROM attempts") == 3


async def test_a_database_whose_default_is_serializable_does_not_get_in_the_way(
    postgres_server: PostgresServer, messages: Messages
) -> None:
    dsn = postgres_server.database()
    async with session(dsn) as other:
        name = dsn.rpartition("/")[2]
        await other.execute(f"ALTER DATABASE {name} SET default_transaction_isolation=serializable")
    async with started(dsn) as one, started(dsn) as two:
        used = await one._read(lambda connection: connection.fetchval("SHOW transaction_isolation"))
        assert used == "read committed"
        await one.open("w")
        batches: list[list[Append]] = [messages.many(3) for _ in range(40)]
        done = await asyncio.gather(
            *((one, two)[index % 2].commit(batch, []) for index, batch in enumerate(batches))
        )
        seqs = [appended.seq for committed in done for appended in committed.appended]
        assert sorted(seqs) == list(range(1, 121))


# --- another database --------------------------------------------------------------------------


@pytest.mark.parametrize("whole", [True, False], ids=["with everything", "without the tail"])
async def test_after_a_failover_every_workspace_has_a_new_epoch(
    new_server: ServerFactory, messages: Messages, whole: bool
) -> None:
    """A real standby is promoted; a batch under way meanwhile is not stored in its history."""
    primary, standby = new_server("primary"), new_server("standby")
    await asyncio.to_thread(primary.create)
    await asyncio.to_thread(primary.start)
    dsn = primary.database()
    async with TcpProxy(primary.port) as stream, TcpProxy(primary.port) as way:
        through = dsn.replace(f":{primary.port}/", f":{way.port}/")
        async with started(through) as store, session(dsn) as watcher:
            before = await store.open("w")
            await store.commit([messages.one(text="copied")], [])
            await asyncio.to_thread(standby.create_standby, primary, stream.port)
            await asyncio.to_thread(standby.start)
            replayed = (
                "SELECT count(*) FROM pg_stat_replication"
                " WHERE replay_lsn >= pg_current_wal_lsn() AND state = 'streaming'"
            )
            await until(lambda: watcher.fetchval(replayed), "the standby follows")
            if not whole:
                await stream.cut()
            await store.commit([messages.one(text="the tail")], [])
            if whole:
                await until(lambda: watcher.fetchval(replayed), "the standby has everything")

            await way.cut()
            under_way = asyncio.ensure_future(store.commit([messages.one(text="late")], []))
            await asyncio.to_thread(primary.stop)
            await asyncio.to_thread(standby.promote)
            way.target = standby.port
            await way.mend()
            late = (await asyncio.gather(under_way, return_exceptions=True))[0]
            assert isinstance(late, StoreError)

            refused = await failure_of(store.commit([messages.one(text="stale")], []))
            assert refused.kind is StoreErrorKind.STALE
            assert "the database was restored or failed over" in str(refused)
            after = await store.open("w")
            assert after.epoch != before.epoch
            assert await texts(store) == (["copied", "the tail"] if whole else ["copied"])
            committed = await store.commit([messages.one(text="on")], [])
            assert [each.seq for each in committed.appended] == [after.seq + 1]


async def test_two_processes_migrate_at_once_and_each_migration_is_applied_once(
    postgres_server: PostgresServer,
) -> None:
    """They wait for the same lock, and are let loose together."""
    dsn = postgres_server.database()
    program = (
        "import asyncio, sys\n"
        "from chatservice.store.postgres_migrate import migrate_at\n"
        "print(asyncio.run(migrate_at(sys.argv[1])))\n"
    )
    async with session(dsn) as other:
        await other.execute(f"BEGIN; SELECT pg_advisory_xact_lock({0x63686174})")
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", program, dsn],
                cwd=REPOSITORY,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(3)
        ]
        waiting = "SELECT count(*) = 3 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        await until(lambda: other.fetchval(waiting), "all of them wait")
        await other.execute("COMMIT")
        said = [(await asyncio.to_thread(each.communicate, timeout=60))[0] for each in processes]
        assert len(set(said)) == 1
        assert said[0].startswith("SchemaVersion(version=")
        versions = [row[0] for row in await other.fetch("SELECT version FROM schema ORDER BY 1")]
        assert versions == list(range(1, len(versions) + 1))
        assert f"version={versions[-1]}," in said[0]
