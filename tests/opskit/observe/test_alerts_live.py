"""Alerts, end to end: real services, Prometheus, Alertmanager, a webhook receiver."""

from __future__ import annotations

from pathlib import Path

from tests.conftest import ServiceFactory
from tests.opskit.observe.receiver import receiving
from tests.opskit.observe.watch import TOKEN, Watch, watching


def test_a_service_that_dies_is_told_of_and_its_recovery_too(
    service_factory: ServiceFactory, tmp_path: Path
) -> None:
    service = service_factory()
    with receiving() as receiver:
        watch = Watch(tmp_path, receiver, service, alerts={})
        with watching(watch):
            receiver.wait("Watchdog", "main", "firing")
            service.kill()
            told = receiver.wait("ChatDown", "main", "firing")
            assert told.authorization == f"Bearer {TOKEN}"
            service.start()
            receiver.wait("ChatDown", "main", "resolved")
