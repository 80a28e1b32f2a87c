"""What every test may use: real chat services and PostgreSQL servers, in processes of their own."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.postgres_server import PostgresServer, postgres_programs
from tests.service_process import ServiceProcess
from tests.workers import WholeFiles, longest_first

ServiceFactory = Callable[..., ServiceProcess]


@pytest.hookimpl(optionalhook=True)  # with `-p no:xdist` nobody knows of it
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> WholeFiles:
    """Divide the tests between workers, where there are some."""
    return WholeFiles(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with what takes longest, where there are workers."""
    if hasattr(config, "workerinput"):
        longest_first(items)


@pytest.fixture
def service_factory(tmp_path: Path) -> Iterator[ServiceFactory]:
    """Make services that are running and ready; all of them are ended after the test.

    `service_factory(overrides, start=True, program=..., environment=...)`; with `start=False` the
    test starts it itself. pytest shows the end of each service's log when the test fails.
    """
    services: list[ServiceProcess] = []

    def make(
        overrides: Mapping[str, Mapping[str, Any]] | None = None,
        *,
        start: bool = True,
        program: Sequence[str] = ("-m", "chatservice"),
        environment: Mapping[str, str] | None = None,
    ) -> ServiceProcess:
        root = tmp_path / f"service-{len(services)}"
        service = ServiceProcess(
            root, overrides=overrides, program=program, environment=environment
        )
        services.append(service)
        if start:
            service.start()
        return service

    yield make
    for service in services:
        service.close()
        print(service.log_tail())


@pytest.fixture
def service(service_factory: ServiceFactory) -> ServiceProcess:
    """A running service with the settings that tests usually want (a grace period of 1 s)."""
    return service_factory()


@pytest.fixture(scope="session")
def postgres_root() -> Iterator[Path]:
    """A directory for servers, which PostgreSQL's own user can reach."""
    root = Path(tempfile.mkdtemp(prefix="chat-postgres-"))
    root.chmod(0o755)
    yield root
    shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_server(postgres_root: Path) -> Iterator[PostgresServer]:
    """A server for all tests that do it no harm; each makes a database of its own.

    Where PostgreSQL is not installed these tests do not run; in CI that is a failure.
    """
    if postgres_programs() is None:
        if os.environ.get("CI") == "true":
            pytest.fail("PostgreSQL is not installed: tests/install installs it")
        pytest.skip("NOT TESTED: PostgreSQL is not installed (apt-get install postgresql)")
    server = PostgresServer(postgres_root / "shared")
    server.create()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def own_postgres_server(
    postgres_server: PostgresServer, postgres_root: Path
) -> Iterator[PostgresServer]:
    """A server of the test's own, to be stopped, frozen and restarted."""
    root = Path(tempfile.mkdtemp(prefix="own-", dir=postgres_root))
    root.chmod(0o755)
    server = PostgresServer(root / "server")
    server.create()
    server.start()
    yield server
    server.stop()
