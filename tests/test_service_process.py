"""The service as a process of its own, which many other tests stand on."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.conftest import ServiceFactory
from tests.service_process import ServiceFailed, ServiceProcess, to_toml


def test_it_is_ready_and_answers_for_itself(service: ServiceProcess) -> None:
    assert service.get("/readyz")[0] == 200
    assert f'"pid":{service.pid}' in service.get("/version")[1]
    assert "chat_connections 0.0" in service.get("/metrics", admin=True)[1]
    token = service.token("u", "w")
    assert service.get("/api/chat/workspace/w/messages", token=token)[0] == 200
    assert service.get("/api/chat/workspace/v/messages", token=token)[0] == 403
    assert (
        service.get("/api/chat/workspace/w/messages", token=service.token("u", "w", ttl=-600))[0]
        == 401
    )


def test_it_restarts_on_the_same_ports_with_the_same_state(service: ServiceProcess) -> None:
    """After a stop and after a kill alike."""
    token = service.token("u", "w")
    before, url = service.get("/api/chat/workspace/w/messages", token=token)[1], service.url
    pids = [service.pid]

    service.restart()
    pids.append(service.pid)
    service.kill()
    assert service.returncode == -signal.SIGKILL
    service.start()
    pids.append(service.pid)

    assert len(set(pids)) == 3
    assert service.url == url
    assert service.get("/api/chat/workspace/w/messages", token=token)[1] == before


def test_a_stop_is_graceful(service: ServiceProcess) -> None:
    assert service.stop() == 0
    with pytest.raises(ServiceFailed, match="the service ended with 0\n--- the last"):
        _ = service.pid


def test_another_process_takes_over(service: ServiceProcess) -> None:
    """The new one serves on the same port; the old one has ended."""
    old = service.pid

    service.take_over()

    assert service.pid != old
    with pytest.raises(ProcessLookupError):
        os.kill(old, 0)
    assert service.get("/readyz")[0] == 200


def test_settings_are_what_was_asked_for(service_factory: ServiceFactory) -> None:
    service = service_factory(
        {"limits": {"text": 7}, "auth": {"origins": ["https://a.example"]}}, start=False
    )

    assert service.settings.limits.text == 7
    assert service.settings.auth.origins == ["https://a.example"]
    assert service.settings.auth.secret_file == str(service.root / "secret")


def test_who_does_not_start_shows_its_log(service_factory: ServiceFactory) -> None:
    """The message of the failure is enough to see why."""
    service = service_factory({"limits": {"text": 0}}, start=False)

    with pytest.raises(ServiceFailed, match=r"ended with 2\n(.|\n)*limits\.text"):
        service.start()


def test_control_orders_are_answered(service: ServiceProcess) -> None:
    done = service.ctl("status")

    assert done.returncode == 0, done.stderr
    assert f'"pid": {service.pid}' in done.stdout


def test_closing_ends_what_still_runs(tmp_path: Path) -> None:
    service = ServiceProcess(tmp_path / "it")
    service.start()

    service.close()
    service.close()

    assert service.returncode == 0


def test_values_are_written_as_toml() -> None:
    assert to_toml({"a": {"b": True, "c": 1.5, "d": 'x"y', "e": ["z"]}}) == (
        '[a]\nb = true\nc = 1.5\nd = "x\\"y"\ne = ["z"]\n'
    )
    with pytest.raises(TypeError, match="cannot be written as TOML"):
        to_toml({"a": {"b": None}})
