"""What every test may use: real chat services in processes of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.service_process import ServiceProcess

ServiceFactory = Callable[..., ServiceProcess]


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
