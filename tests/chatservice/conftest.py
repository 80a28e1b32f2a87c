"""Services that the tests of one module share, because each costs a process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.chatservice.bystanders import Bystanders
from tests.chatservice.wire import descriptors, eventually, metrics, status, troubles
from tests.service_process import Overrides, ServiceProcess


@contextmanager
def running_service(root: Path, overrides: Overrides | None = None) -> Iterator[ServiceProcess]:
    """Run a service until the end of the block; pytest shows the end of its log on failure."""
    service = ServiceProcess(root, overrides=overrides)
    try:
        service.start()
        yield service
    finally:
        service.close()
        print(service.log_tail())


@pytest.fixture(scope="module")
def module_overrides() -> Overrides:
    """Settings of the module's service; a module that wants its own defines its own fixture."""
    return {}


@pytest.fixture(scope="module")
def module_service(
    tmp_path_factory: pytest.TempPathFactory, module_overrides: Overrides
) -> Iterator[ServiceProcess]:
    """A service for all tests of a module: each uses a workspace of its own."""
    with running_service(tmp_path_factory.mktemp("service"), module_overrides) as service:
        yield service


@pytest.fixture(scope="module")
def chatting(module_service: ServiceProcess) -> Iterator[Bystanders]:
    """Two members of "w" who chat throughout the tests of a module."""
    with Bystanders(module_service) as bystanders:
        yield bystanders


@pytest.fixture
def bystanders(module_service: ServiceProcess, chatting: Bystanders) -> Iterator[Bystanders]:
    """Two members of "w" who chat on and notice nothing.

    Whatever the test does, afterwards no connection, descriptor or count of it is left, and no
    error is in the log.
    """
    known = len(troubles(module_service))
    before = min(_open(module_service) for _ in range(3))  # the asking itself may still be open
    yield chatting
    eventually(lambda: _open(module_service) == before, f"{before} connections and descriptors")
    chatting.confirm()
    assert metrics(module_service)["chat_connections"] == before[0]
    assert troubles(module_service)[known:] == []


def _open(service: ServiceProcess) -> tuple[int, int]:
    """Count the members' connections, and the descriptors of the process."""
    return status(service)["connections"], descriptors(service)
