"""Migrations of the schema: once each, in order, and never against a release that is too old."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing
from pathlib import Path

import pytest

from chatservice.store import SchemaVersion, StoreError, StoreErrorKind
from chatservice.store.migrate import (
    MIGRATIONS,
    database_schema,
    load_migrations,
    migrate,
    release_schema,
)
from chatservice.store.sqlite import SqliteStore
from tests.chatservice.store.conftest import SqliteFactory

REPOSITORY = Path(__file__).parents[3]
KINDS = ("sqlite", "postgres")


class Release:
    """The migrations of an imagined release."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.migrations = directory

    def add(self, name: str, sql: str, *, readable_from: int | str = 1) -> Release:
        """Add a migration file."""
        text = f"-- readable-from: {readable_from}\n{sql}\n"
        (self.migrations / f"{name}.sql").write_text(text)
        return self


@pytest.fixture
def release(tmp_path: Path) -> Release:
    """A release without migrations."""
    return Release(tmp_path / "migrations")


def rows(database: Path, sql: str) -> list[tuple[object, ...]]:
    """Look into the database."""
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute(sql).fetchall()


def files(directory: Path) -> dict[str, bytes]:
    """Everything in a directory."""
    return {file.name: file.read_bytes() for file in directory.iterdir() if file.is_file()}


def refusal(database: Path, release: Release) -> StoreError:
    """Migrate in vain."""
    with pytest.raises(StoreError) as caught:
        migrate(database, migrations=release.migrations)
    return caught.value


def test_this_release_brings_what_its_files_say() -> None:
    names = sorted(file.name for file in MIGRATIONS.glob("*.sql"))
    assert release_schema().version == len(names)
    assert [int(name[:3]) for name in names] == list(range(1, len(names) + 1))
    assert 1 <= release_schema().readable_from <= len(names)


def test_a_new_database_gets_every_migration_in_order(database: Path, release: Release) -> None:
    release.add("001_first", "CREATE TABLE a (x TEXT); INSERT INTO a VALUES ('one; -- two');")
    release.add("002_second", "ALTER TABLE a ADD COLUMN y;\nINSERT INTO a VALUES (3, 4)")
    assert migrate(database, migrations=release.migrations) == SchemaVersion(2, 1)
    assert rows(database, "SELECT * FROM a") == [("one; -- two", None), ("3", 4)]
    assert rows(database, "SELECT version, readable_from, name FROM schema") == [
        (1, 1, "001_first"),
        (2, 1, "002_second"),
    ]
    assert rows(database, "PRAGMA journal_mode") == [("wal",)]
    assert database.stat().st_mode & 0o777 == 0o600


def test_an_older_database_gets_only_what_it_lacks(database: Path, release: Release) -> None:
    release.add("001_first", "CREATE TABLE a (x); INSERT INTO a VALUES (1);")
    migrate(database, migrations=release.migrations)
    release.add("002_second", "UPDATE a SET x = x + 1;", readable_from=2)
    for _ in range(2):
        assert migrate(database, migrations=release.migrations) == SchemaVersion(2, 2)
        assert rows(database, "SELECT * FROM a") == [(2,)]


def test_a_trigger_is_one_statement(database: Path, release: Release) -> None:
    release.add(
        "001_first",
        "CREATE TABLE a (x);\nCREATE TRIGGER t AFTER INSERT ON a BEGIN\n"
        "  UPDATE a SET x = 2;\n  UPDATE a SET x = x + 1;\nEND;\n-- the end\n",
    )
    migrate(database, migrations=release.migrations)
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("INSERT INTO a VALUES (0)")
        assert connection.execute("SELECT x FROM a").fetchall() == [(3,)]


def test_a_migration_that_fails_leaves_nothing_of_itself(database: Path, release: Release) -> None:
    release.add("001_first", "CREATE TABLE a (x);")
    release.add("002_second", "CREATE TABLE b (x); INSERT INTO nowhere VALUES (1);")
    refused = refusal(database, release)
    assert "no such table: nowhere" in str(refused)
    assert str(refused).startswith(f"migration 002_second: {database}: ")
    assert database_schema(database) == SchemaVersion(1, 1)
    assert rows(database, "SELECT name FROM sqlite_schema WHERE name = 'b'") == []


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({}, "holds no migration"),
        ({"002_second": 1}, "002_second.sql: the next migration must be called 001_<name>.sql"),
        ({"001_a": 1, "001_b": 1}, "001_b.sql: the next migration must be called 002_<name>.sql"),
        ({"001_a": 1, "first": 1}, "first.sql: the next migration must be called 002_<name>.sql"),
        ({"001_a": "x"}, "001_a.sql: needs a line `-- readable-from: N`, N from 1 to 1"),
        ({"001_a": 2}, "001_a.sql: needs a line `-- readable-from: N`, N from 1 to 1"),
        ({"001_a": 0}, "001_a.sql: needs a line `-- readable-from: N`, N from 1 to 1"),
    ],
)
def test_a_release_with_wrong_migrations_says_which(
    database: Path, release: Release, files: dict[str, int | str], why: str
) -> None:
    for name, readable_from in files.items():
        release.add(name, "CREATE TABLE a (x);", readable_from=readable_from)
    with pytest.raises(StoreError) as caught:
        release_schema(release.migrations)
    for error in (caught.value, refusal(database, release)):
        assert str(error).startswith(str(release.migrations))
        assert why in str(error)
    assert not database.exists()


def test_both_stores_have_the_same_versions() -> None:
    """A number is the same step for both, so that a release has one schema."""
    sqlite, postgres = (load_migrations(MIGRATIONS.parent / store) for store in KINDS)
    assert [(m.version, m.readable_from, m.name) for m in sqlite] == [
        (m.version, m.readable_from, m.name) for m in postgres
    ]


def test_a_newer_database_that_is_readable_is_used_as_it_is(
    database: Path, release: Release, tmp_path: Path
) -> None:
    release.add("001_first", "CREATE TABLE a (x);")
    newer = Release(tmp_path / "newer").add("001_first", "CREATE TABLE a (x);")
    newer.add("002_second", "ALTER TABLE a ADD COLUMN y;", readable_from=1)
    migrate(database, migrations=newer.migrations)
    assert migrate(database, migrations=release.migrations) == SchemaVersion(2, 1)
    assert rows(database, "SELECT max(version) FROM schema") == [(2,)]


async def test_a_newer_database_that_is_not_readable_is_left_alone(
    database: Path, release: Release, tmp_path: Path
) -> None:
    release.add("001_first", "CREATE TABLE a (x);")
    newer = Release(tmp_path / "newer").add("001_first", "CREATE TABLE a (x);")
    newer.add("002_second", "CREATE TABLE b (x);", readable_from=2)
    newer.add("003_third", "CREATE TABLE c (x);", readable_from=1)  # cannot take that back
    migrate(database, migrations=newer.migrations)
    before = database.read_bytes()
    refused = refusal(database, release)
    assert refused.kind is StoreErrorKind.SCHEMA
    for part in (str(database), "has schema 3", "from schema 2 on", "this release has schema 1"):
        assert part in str(refused)
    store = SqliteStore(database, keep=10, busy_timeout=1, migrations=release.migrations)
    for _ in range(2):
        with pytest.raises(StoreError) as caught:
            await store.start()
        assert caught.value.kind is StoreErrorKind.SCHEMA
    await store.close()
    assert database.read_bytes() == before
    assert database_schema(database) == SchemaVersion(3, 2)


def test_a_database_of_the_first_release_is_brought_up_to_date(database: Path) -> None:
    """What was applied then stays recorded as it was."""
    first = Release(database.parent / "first-release")
    source = MIGRATIONS / "001_messages.sql"
    (first.migrations / source.name).write_bytes(source.read_bytes())
    assert migrate(database, migrations=first.migrations) == SchemaVersion(1, 1)
    before = rows(database, "SELECT * FROM schema")
    assert migrate(database) == release_schema()
    assert rows(database, "SELECT * FROM schema WHERE version = 1") == before


async def test_a_release_before_works_on_what_a_newer_one_expanded(
    database: Path, release: Release, sqlite_store: SqliteFactory
) -> None:
    """While a column and a table are added to its database, the store goes on."""
    store = sqlite_store()
    await store.start()
    await store.open("w")
    for file in MIGRATIONS.glob("*.sql"):
        (release.migrations / file.name).write_bytes(file.read_bytes())
    version = release_schema().version + 1
    release.add(
        f"{version:03d}_next",
        "ALTER TABLE messages ADD COLUMN pinned INTEGER; CREATE TABLE pins (x);",
    )
    migrate(database, migrations=release.migrations)
    await store.check()
    await store.enter("w", "ann", "Ann", upto=0, after=None, newest=1)
    await store.close()
    store = sqlite_store()
    await store.start()
    assert [member.user for member in await store.members("w")] == ["ann"]


def test_a_foreign_database_is_left_alone(database: Path, release: Release) -> None:
    release.add("001_first", "CREATE TABLE a (x);")
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("CREATE TABLE accounts (x)")
    before = database.read_bytes()
    assert refusal(database, release).kind is StoreErrorKind.SCHEMA
    with pytest.raises(StoreError) as caught:
        database_schema(database)
    assert caught.value.kind is StoreErrorKind.SCHEMA
    assert "not one of this service" in str(caught.value)
    assert database.read_bytes() == before


def test_asking_for_the_schema_changes_nothing(database: Path, release: Release) -> None:
    assert database_schema(database) is None
    assert files(database.parent) == {}
    database.touch()
    assert database_schema(database) is None
    release.add("001_first", "CREATE TABLE a (x);")
    migrate(database, migrations=release.migrations)
    before = files(database.parent)
    assert database_schema(database) == SchemaVersion(1, 1)
    assert files(database.parent) == before == {"chat.db": database.read_bytes()}


async def test_asking_for_the_schema_beside_a_running_service(
    database: Path, sqlite_store: SqliteFactory
) -> None:
    """What is still only in the log counts."""
    store = sqlite_store()
    await store.start()
    assert database.with_name("chat.db-wal").exists()
    assert database_schema(database) == release_schema()
    await store.open("w")
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("INSERT INTO schema VALUES (99, 77, 'future', 0)")
    assert database_schema(database) == SchemaVersion(99, 77)


def test_asking_for_the_schema_after_a_crash(database: Path, tmp_path: Path) -> None:
    """A log without its index, as a crash of the machine leaves it."""
    migrate(database)
    with closing(sqlite3.connect(database)) as connection:
        with connection:
            connection.execute("INSERT INTO schema VALUES (99, 77, 'future', 0)")
        crashed = tmp_path / "crashed"
        crashed.mkdir()
        for name in ("chat.db", "chat.db-wal"):
            (crashed / name).write_bytes(database.with_name(name).read_bytes())
    before = files(crashed)
    assert database_schema(crashed / "chat.db") == SchemaVersion(99, 77)
    assert {name: files(crashed)[name] for name in before} == before


def test_a_database_that_is_damaged_says_so(database: Path, release: Release) -> None:
    release.add("001_first", "CREATE TABLE a (x);")
    database.write_bytes(b"no database" * 1000)
    with pytest.raises(StoreError) as caught:
        database_schema(database)
    assert caught.value.kind is StoreErrorKind.CORRUPT
    assert refusal(database, release).kind is StoreErrorKind.CORRUPT


def test_several_processes_migrate_at_once(database: Path, release: Release) -> None:
    """Each migration, which would fail the second time, is applied by exactly one of them."""
    for version in range(1, 9):
        release.add(f"{version:03d}_step", f"CREATE TABLE t{version} (x);")
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from chatservice.store.migrate import migrate\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        "print(migrate(Path(sys.argv[1]), migrations=Path(sys.argv[2]), busy_timeout=30))\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(database), str(release.migrations)],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        output, _ = process.communicate(timeout=60)
        assert output == "SchemaVersion(version=8, readable_from=1)\n"
        assert process.returncode == 0
    assert rows(database, "SELECT version FROM schema") == [(version,) for version in range(1, 9)]


def test_a_new_database_that_somebody_writes_to_is_waited_for(
    database: Path, release: Release
) -> None:
    """Switching it to a write-ahead log is what SQLite would not wait for."""
    release.add("001_first", "CREATE TABLE a (x);")
    with (
        closing(sqlite3.connect(database, isolation_level=None)) as other,
        ThreadPoolExecutor() as executor,
    ):
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError) as caught:
            migrate(database, migrations=release.migrations, busy_timeout=0.1)
        assert caught.value.kind is StoreErrorKind.LOCKED
        migrating = executor.submit(
            migrate, database, migrations=release.migrations, busy_timeout=30
        )
        assert not wait([migrating], timeout=0.3).done
        other.execute("COMMIT")
        assert migrating.result(30) == SchemaVersion(1, 1)
