"""The implementations of the store, for the tests that hold for each of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Protocol

import pytest

from chatservice.store import Append, Store, StoreError
from chatservice.store.postgres import PostgresStore
from chatservice.store.sqlite import SqliteStore
from tests.postgres_server import PostgresServer


class Storage(Protocol):
    """One durable place. Each call gives a store on it that was not started yet."""

    def __call__(self, *, keep: int = 1000) -> Store: ...


def _sqlite(directory: Path) -> Storage:
    def store(*, keep: int = 1000) -> Store:
        return SqliteStore(directory / "chat.db", keep=keep, busy_timeout=5)

    return store


def _postgres(dsn: str) -> Storage:
    def store(*, keep: int = 1000) -> Store:
        return PostgresStore(dsn, keep=keep)

    return store


@pytest.fixture(params=["sqlite", "postgres"])
def new_storage(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[], Storage]:
    """Make storages that are empty."""
    if request.param == "postgres":
        server: PostgresServer = request.getfixturevalue("postgres_server")
        return lambda: _postgres(server.database())
    return lambda: _sqlite(tmp_path_factory.mktemp("storage"))


@pytest.fixture
def storage(new_storage: Callable[[], Storage]) -> Storage:
    """An empty storage."""
    return new_storage()


@pytest.fixture
async def store(storage: Storage) -> AsyncIterator[Store]:
    """A started store, closed after the test."""
    store = storage()
    await store.start()
    yield store
    await store.close()


SqliteFactory = Callable[..., SqliteStore]


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """The path of a database that is not there yet."""
    return tmp_path / "chat.db"


@pytest.fixture
async def sqlite_store(database: Path) -> AsyncIterator[SqliteFactory]:
    """Make SQLite stores, by default on `database`; they are closed after the test."""
    made: list[SqliteStore] = []

    def make(path: Path = database, *, keep: int = 1000, busy_timeout: float = 5) -> SqliteStore:
        made.append(SqliteStore(path, keep=keep, busy_timeout=busy_timeout))
        return made[-1]

    yield make
    for store in made:
        await store.close()


async def failure_of(call: Awaitable[object]) -> StoreError:
    """Await a call of the store that fails."""
    with pytest.raises(StoreError) as caught:
        await call
    return caught.value


class Messages:
    """Makes messages that are all different, unless told otherwise."""

    def __init__(self) -> None:
        self._count = 0

    def one(
        self, workspace: str = "w", user: str = "ann", *, id: str | None = None, text: str = "hi"
    ) -> Append:
        """Make a message; its time grows by a second each."""
        self._count += 1
        ts = 1_700_000_000_000 + 1000 * self._count
        name = user.capitalize()
        return Append(workspace, user, name, id or f"id-{self._count}", text, ts)

    def many(self, count: int, workspace: str = "w", user: str = "ann") -> list[Append]:
        """Make several messages of one user."""
        return [self.one(workspace, user) for _ in range(count)]


@pytest.fixture
def messages() -> Messages:
    """A source of messages."""
    return Messages()
