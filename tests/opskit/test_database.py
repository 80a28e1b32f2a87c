"""What `opskit check` says of the database that the next release would use, on real servers."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from opskit import database as database_module
from opskit.commands import Command
from opskit.commands.inspection import try_database
from opskit.database import address_of, try_from_here, try_from_host, verdict
from opskit.deploy.preflight import Verdict
from opskit.failure import Failure
from opskit.preflight import examine
from opskit.secrets import Secret
from opskit.transport import LocalExecutor, Result
from tests.opskit.conftest import SiteFactory
from tests.opskit.facts_of import EMPTY
from tests.opskit.site import Site
from tests.postgres_server import PostgresServer

CANARY = "canary-8f3a1b"
"""The password of the user `locked`."""


@pytest.fixture(scope="module")
def server(postgres_root: Path, postgres_server: PostgresServer) -> Iterator[PostgresServer]:
    """A server that asks `locked` for a password, and lets `sealed` in only with TLS."""
    server = PostgresServer(postgres_root / "locked")
    server.create()
    (server.data / "pg_hba.conf").write_text(
        "host all chat 127.0.0.1/32 trust\n"
        "host all locked 127.0.0.1/32 scram-sha-256\n"
        "hostssl all sealed 127.0.0.1/32 trust\n"
    )
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def database(server: PostgresServer) -> str:
    """The name of a database in which `locked` may not make tables."""
    dsn = server.database()
    run(
        dsn,
        f"CREATE ROLE locked LOGIN PASSWORD '{CANARY}'",
        "CREATE ROLE sealed LOGIN",
        "REVOKE CREATE ON SCHEMA public FROM PUBLIC",
    )
    return dsn.rpartition("/")[2]


def run(dsn: str, *statements: str) -> None:
    async def each() -> None:
        connection = await asyncpg.connect(dsn)
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    asyncio.run(each())


@pytest.fixture
def fresh(site_factory: SiteFactory) -> Site:
    """Nothing is deployed; environments.yaml asks for PostgreSQL."""
    site = site_factory(
        settings={"store": {"kind": "postgres"}},
        secrets={"jwt_secret": "generate", "database_url": "file:dsn"},
    )
    name_database(site, "postgresql://chat@127.0.0.1:1/chat")
    return site


def name_database(site: Site, address: str) -> None:
    dsn = site.directory / "dsn"
    dsn.write_text(address)
    dsn.chmod(0o600)


def found(site: Site) -> Verdict:
    """Give the one verdict on the database."""
    verdicts = examine(site.fleet)
    [one] = [each for each in verdicts if each.name == "database"]
    others = [each.name for each in verdicts if not each.ok and each is not one]
    assert others == [], "one cause is one verdict"
    return one


@pytest.mark.parametrize(
    ("address", "detail", "hint"),
    [
        (
            "locked:wrong-{canary}@127.0.0.1:{port}/{database}",
            "it refuses the user or the password: look at the database_url secret (password "
            'authentication failed for user "locked")',
            "correct {named}, or set the password there (in psql: \\password locked)",
        ),
        (
            "locked:{canary}@127.0.0.1:{port}/nowhere",
            'there is no such database: create it (database "nowhere" does not exist)',
            "make it (createdb --owner=locked nowhere), or correct {named}",
        ),
        (
            "locked:{canary}@127.0.0.1:{port}/{database}?sslmode=require",
            "it offers no TLS: turn that on there, or look at sslmode in the database_url secret "
            '(PostgreSQL server at "127.0.0.1:{port}" rejected SSL upgrade)',
            "turn TLS on in the server (ssl = on), or correct sslmode in {named}",
        ),
        (
            "sealed:{canary}@127.0.0.1:{port}/{database}?sslmode=disable",
            "it refuses the user or the password: look at the database_url secret (no pg_hba.conf "
            'entry for host "127.0.0.1", user "sealed", database "{database}", no encryption)',
            "let it in by a line of the server's pg_hba.conf (a `hostssl` one wants "
            "sslmode=require or more), or correct {named}",
        ),
        (
            "locked:{canary}@127.0.0.1:{port}/{database}",
            "user locked may not make the tables there that the release needs",
            "as its owner: GRANT CREATE ON SCHEMA public TO locked; or let {named} name another",
        ),
        (
            "locked:{canary}@127.0.0.1:{port}/{database}?sslmode=verify-full&sslrootcert=/no.pem",
            "a file that the database_url secret names is not there: look at sslrootcert",
            "correct sslrootcert in {named}: the file must be where the service runs",
        ),
    ],
    ids=["password", "name", "no-tls", "not-let-in", "no-privilege", "no-authority"],
)
def test_what_is_wrong_is_one_verdict_with_its_remedy(
    fresh: Site, server: PostgresServer, database: str, address: str, detail: str, hint: str
) -> None:
    """On a fresh machine, too: the cause, what to do and where; the password nowhere."""
    named = f"database_url at {fresh.environment.where('secrets', 'database_url')}"
    fill = {"port": server.port, "database": database, "canary": CANARY, "named": named}
    name_database(fresh, "postgresql://" + address.format(**fill))
    one = found(fresh)
    assert not one.ok
    assert detail.format(**fill) in one.detail
    assert one.detail.startswith(f"PostgreSQL at 127.0.0.1:{server.port}/")
    assert one.hint == hint.format(**fill)
    done = fresh.opskit("check", "dev")
    assert done.returncode == 1
    assert "✗ database" in done.stdout
    assert CANARY not in done.stdout + done.stderr


def test_nobody_there_is_one_verdict(fresh: Site) -> None:
    """Nothing listens on port 1."""
    one = found(fresh)
    assert not one.ok
    assert one.detail.startswith("PostgreSQL at 127.0.0.1:1/chat: cannot be reached (")
    assert one.hint.startswith("see that PostgreSQL runs and listens there, or correct ")


def test_an_address_that_is_none_is_a_fault_of_the_secret(fresh: Site) -> None:
    """It is not tried, and nothing of it is shown."""
    name_database(fresh, f"postgresql://chat:{CANARY}/1@127.0.0.1/chat")
    done = fresh.opskit("check", "dev", "--json")
    checks = {one["name"]: one for one in json.loads(done.stdout)["checks"]}
    assert "database" not in checks
    assert not checks["database_url"]["ok"]
    assert "in the password, write / as %2F" in checks["database_url"]["detail"]
    assert CANARY not in done.stdout + done.stderr


def test_a_terminals_own_variables_are_of_no_help(
    fresh: Site, server: PostgresServer, database: str
) -> None:
    """A service has no PGPASSWORD, so that the try has none either."""
    dsn = server.database()
    run(dsn, "GRANT CREATE ON SCHEMA public TO locked")

    def tried(user: str) -> bool:
        name_database(fresh, dsn.replace("//chat@", f"//{user}@"))
        done = fresh.opskit("check", "dev", "--json", PGPASSWORD=CANARY)
        [one] = [one for one in json.loads(done.stdout)["checks"] if one["name"] == "database"]
        return bool(one["ok"])

    assert [tried(user) for user in (f"locked:{CANARY}", "locked")] == [True, False]


def test_another_database_than_the_one_that_serves_is_tried(
    fresh: Site, server: PostgresServer
) -> None:
    """What serves is fine, what is named now is not; and an empty one is fine again."""
    name_database(fresh, server.database())
    empty = found(fresh)
    assert empty.ok
    assert empty.detail.endswith("user chat is let in, without TLS; empty, the deploy makes its "
                                 "tables")  # fmt: skip
    fresh.deploy()
    served = found(fresh)
    assert (served.ok, served.detail.rpartition(" ")[2]) == (True, str(schema(fresh)))
    name_database(fresh, f"postgresql://chat@127.0.0.1:{server.port}/nowhere")
    verdicts = {one.name: one for one in examine(fresh.fleet)}
    assert verdicts["store"].ok, "v1 has its own address"
    assert not verdicts["database"].ok


def schema(site: Site) -> int:
    text = (site.root / "current/manifest.json").read_text()
    return int(json.loads(text)["schema"]["version"])


def test_a_schema_that_the_source_cannot_read_is_refused(
    fresh: Site, server: PostgresServer
) -> None:
    """As the deploy would refuse it, in its migrate step."""
    dsn = server.database()
    run(
        dsn,
        "CREATE TABLE schema (version integer PRIMARY KEY, readable_from integer NOT NULL)",
        "INSERT INTO schema VALUES (99, 98)",
    )
    name_database(fresh, dsn)
    one = found(fresh)
    assert not one.ok
    assert "has schema 99, which releases from schema 98 on can read; the source here has " in (
        one.detail
    )
    assert one.hint == "deploy from newer source, or restore a backup"


def test_a_host_tries_it_with_a_release_that_lies_there(
    fresh: Site, server: PostgresServer, database: str
) -> None:
    """By its code and its layer, whatever this Python has installed; it leaves no file behind."""
    name_database(fresh, server.database())
    fresh.deploy()
    node, before = fresh.target, fresh.tree()
    address = address_of(fresh.environment)
    assert address is not None
    good = try_from_host(node, fresh.facts, address)
    assert (good.ok, "from this machine" in good.detail) == (True, False)
    wrong = Secret(f"postgresql://locked:x@127.0.0.1:{server.port}/{database}".encode())
    bad = try_from_host(node, fresh.facts, wrong)
    assert not bad.ok
    assert 'password authentication failed for user "locked"' in bad.detail
    assert fresh.tree() == before


class Faulty(LocalExecutor):
    """A host on which the database cannot be tried."""

    def __init__(self, fault: Failure) -> None:
        super().__init__()
        self.fault = fault

    def run(self, command: Command) -> Result:
        if command.name == "try-database":
            raise self.fault
        return super().run(command)


def test_a_host_that_cannot_be_asked_is_not_taken_for_a_database_that_is_down(
    fresh: Site, server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What went wrong is said with its own remedy; nobody is sent to look at PostgreSQL."""
    name_database(fresh, server.database())
    fresh.deploy()
    address = address_of(fresh.environment)
    assert address is not None
    lost = Failure("chat1: the connection is lost", hint="see that the host is up")
    said = Verdict("database", False, "chat1: the connection is lost", "see that the host is up")
    node = fresh.target.through(Faulty(lost))
    assert try_from_host(node, fresh.facts, address) == said
    gone = replace(fresh.target, python="/no/python")
    one = try_from_host(gone, fresh.facts, address)
    assert (one.ok, one.hint) == (False, "")
    assert "could not try the database" in one.detail
    monkeypatch.setattr(database_module, "LocalExecutor", lambda: Faulty(lost))
    assert try_from_here(fresh.environment, address) == said
    from_here = try_from_host(fresh.target, EMPTY, address)
    assert from_here.ok, "that this machine cannot try it says nothing of the host"
    assert from_here.detail.startswith("not tried from there: no release lies there yet")


def test_a_host_without_a_release_says_what_was_not_tried(
    fresh: Site, server: PostgresServer, database: str
) -> None:
    """What PostgreSQL says of the address counts from anywhere; what it says of us does not."""

    def tried(address: str) -> Verdict:
        return try_from_host(fresh.target, EMPTY, Secret(f"postgresql://{address}".encode()))

    place = f"127.0.0.1:{server.port}/{database}"
    good = tried(f"chat@{place}")
    assert good.ok
    assert good.detail.endswith(
        "; from this machine: no release lies there yet, so from there only its port was tried"
    )
    assert [tried(one).ok for one in (f"locked:x@{place}", f"chat@{place}-none")] == [False, False]
    for unsaid in (f"sealed@{place}", "chat@127.0.0.1:1/chat", f"chat@{place}?sslmode=require"):
        one = tried(unsaid)
        assert (one.ok, one.detail) == (
            True,
            "not tried from there: no release lies there yet; only its port was. The first deploy "
            "tries it (step migrate) before it switches anything",
        )


FOUND: dict[str, Any] = {
    "where": "db:5432/chat",
    "user": "chat",
    "standby": False,
    "may_create": True,
    "tls": True,
    "schema": {"version": 1, "readable_from": 1},
}


@pytest.mark.parametrize(
    ("tried", "ok", "detail"),
    [
        (FOUND, True, "PostgreSQL at db:5432/chat: user chat is let in, with TLS; schema 1"),
        (
            FOUND | {"standby": True},
            False,
            "PostgreSQL at db:5432/chat is a standby, which takes no writes",
        ),
        ({"cannot": "No module named 'asyncpg'"}, True, "not tried: No module named 'asyncpg'"),
        (
            {"error": "quoted: postgresql://chat:s3cr%65t@db s3cret", "kind": ""},
            False,
            "quoted: postgresql://chat:***@db ***",
        ),
    ],
)
def test_what_was_found_is_said(fresh: Site, tried: dict[str, Any], ok: bool, detail: str) -> None:
    """A password is taken out in either way of writing it."""
    one = verdict(fresh.environment, tried, Secret(b"postgresql://chat:s3cr%65t@db/chat"))
    assert (one.ok, one.detail) == (ok, detail)
    assert one.ok == (not one.hint)


SHOWN = ("cmdline", "environ")


def test_the_address_is_on_no_command_line_and_in_no_environment(fresh: Site) -> None:
    """Seen in /proc while the server keeps the connection waiting; so is the command as data."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)
        address = f"postgresql://chat:{CANARY}@127.0.0.1:{listener.getsockname()[1]}/chat"
        secret = Secret(address.encode())
        command = try_database("python3", (), secret)
        assert (command.stdin, command.secret) == (secret, True)
        trying = threading.Thread(target=try_from_here, args=(fresh.environment, secret))
        trying.start()
        with closing(listener.accept()[0]):
            places = [path for name in SHOWN for path in Path("/proc").glob(f"[0-9]*/{name}")]
            seen = [content(path) for path in places]
            assert any(b"database_schema" in one for one in seen), "the program that tries it"
            assert not [one for one in seen if CANARY.encode() in one]
    trying.join(30)
    assert not trying.is_alive()


def content(path: Path) -> bytes:
    """Give what a file holds; nothing where its process has ended, or is another user's."""
    try:
        return path.read_bytes()
    except OSError:
        return b""
