"""Starting and stopping: what a process does first and last, and what it says when it cannot."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from chatservice.auth import sign
from tests.chatservice.bystanders import Bystanders
from tests.chatservice.newcomer import launcher
from tests.chatservice.wire import (
    DEADLINE,
    Ended,
    Wire,
    descriptors,
    eventually,
    log_lines,
    metrics,
    status,
    troubles,
)
from tests.conftest import ServiceFactory
from tests.service_process import REPOSITORY, ServiceProcess


def signalled(service: ServiceProcess, number: int = signal.SIGTERM) -> int:
    """Send a signal and wait for the end; give the exit status."""
    os.kill(service.pid, number)
    eventually(lambda: service.returncode is not None)
    assert service.returncode is not None
    return service.returncode


# --- the end ------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_gracefully(service_factory: ServiceFactory, number: int) -> None:
    service = service_factory({"timing": {"drain": 20.0, "reconnect_spread": 0.4}})
    members = [Wire.join(service, user=f"user-{number}") for number in range(10)]
    os.kill(service.pid, number)
    waits = []
    for member in members:
        waits.append(member.until("reconnect")["in_ms"])
        ended = member.end()
        assert (ended.code, ended.reason) == (1012, "the service restarts")
        member.socket.close()
    assert all(0 <= wait <= 400 for wait in waits)
    assert len(set(waits)) > 1  # jitter
    eventually(lambda: service.returncode == 0, deadline=15)  # and not only after the drain
    assert [each.name for each in (service.root / "run").iterdir()] == ["farewell"]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", service.port)).close()
    assert troubles(service) == []


def test_the_control_socket_stops_it_as_well(service_factory: ServiceFactory) -> None:
    service = service_factory()
    pid = service.pid
    stopped = service.ctl("stop")
    assert (stopped.returncode, json.loads(stopped.stdout)) == (0, {"ok": True, "pid": pid})
    eventually(lambda: service.returncode == 0)
    assert service.ctl("status").returncode == 1


def test_a_member_that_does_not_leave_is_cut_when_the_drain_is_over(
    service_factory: ServiceFactory,
) -> None:
    service = service_factory({"timing": {"drain": 0.5, "close": 20.0}})
    with Wire.join(service) as member, Wire(service) as half_open:
        half_open.write(b"GET ")
        started = time.monotonic()
        assert signalled(service) == 0
        assert 0.5 <= time.monotonic() - started < 10
        assert member.until("reconnect")
        assert half_open.hung_up()


def test_what_was_acknowledged_before_a_stop_is_there_after_it(
    service_factory: ServiceFactory,
) -> None:
    """Sends are under way all the time; each is answered, or was not stored for all we know."""
    service = service_factory({"limits": {"rate": 10_000, "burst": 10_000}})
    acknowledged: dict[str, int] = {}
    number = 0
    for _ in range(3):
        with Wire.join(service) as ann:
            for _ in range(50):
                number += 1
                ann.send("send", id=str(number), text="x")
            os.kill(service.pid, signal.SIGTERM)
            try:
                while (received := ann.next())["type"] != "reconnect":
                    if received["type"] == "ack":
                        acknowledged[received["id"]] = received["seq"]
                assert ann.end().code == 1012
            except Ended as ended:
                pytest.fail(f"ended without reconnect: {ended}")
        eventually(lambda: service.returncode == 0)
        service.start()
    with Wire.join(service) as ann:
        ann.send("history", before=10**6, limit=1000)
        stored = {m["id"]: m["seq"] for m in ann.next("history")["messages"]}
    assert acknowledged.items() <= stored.items()
    assert sorted(stored.values()) == [*range(1, len(stored) + 1)]
    assert len(acknowledged) >= 3


def test_a_stop_while_the_database_is_locked_acknowledges_nothing_and_ends(
    service_factory: ServiceFactory,
) -> None:
    service = service_factory({"store": {"busy_timeout": 1.0}})
    with Wire.join(service) as ann:
        ann.send("send", id="1", text="stored")
        ann.until("ack")
        lock = sqlite3.connect(service.settings.database, isolation_level=None)
        lock.execute("BEGIN IMMEDIATE")
        ann.send("send", id="2", text="not stored")
        ann.send("ping")
        ann.until("pong")  # so it has been read
        os.kill(service.pid, signal.SIGTERM)
        assert ann.next("error")["code"] == "unavailable"
        assert ann.until("reconnect")
        eventually(lambda: service.returncode == 0)
        lock.close()
    service.start()
    with Wire.join(service) as ann:
        assert ann.welcome["seq"] == 1


# --- the beginning ------------------------------------------------------------------------


def refused(service: ServiceProcess) -> tuple[int, str]:
    """Start it in vain; give its status and its last word."""
    argv = [*service.program, "serve", "--settings", str(service.settings_file)]
    process = subprocess.run(
        [sys.executable, *argv],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    said = [line for line in process.stderr.splitlines() if line.startswith("chatservice: ")]
    assert "Traceback" not in process.stderr
    assert len(said) == 1, process.stderr
    return process.returncode, said[0].removeprefix("chatservice: ")


def test_wrong_settings_are_one_line_that_names_file_and_key(
    service_factory: ServiceFactory, tmp_path: Path
) -> None:
    service = service_factory(start=False)
    file = service.settings_file
    empty = tmp_path / "empty"
    empty.touch()
    for section, key, value, why in (
        ("limits", "text", "many", "expected `int`, got `str`"),
        ("limits", "txt", 1, "unknown key"),
        ("service", "port", 70_000, "expected `int` <= 65535"),
        ("timing", "heartbeat", 0, "expected `float` > 0.0"),
        ("auth", "secret_file", str(empty), f"{empty} is empty"),
        (
            "auth",
            "secret_file",
            str(tmp_path / "none"),
            f"{tmp_path / 'none'} cannot be read: No such file or directory",
        ),
    ):
        good = file.read_text()
        service.configure({section: {key: value}})
        assert refused(service) == (2, f"{file}: {section}.{key}: {why}")
        file.write_text(good)
        service = service_factory(start=False)
        file = service.settings_file
    file.write_text("port = \n")
    code, said = refused(service)
    assert code == 2
    assert said.startswith(f"{file}: is not TOML: ")
    file.unlink()
    assert refused(service) == (2, f"{file}: cannot be read: No such file or directory")


@pytest.mark.parametrize("key", ["port", "admin_port"])
def test_a_port_that_is_taken_is_named_with_its_key(
    service_factory: ServiceFactory, key: str
) -> None:
    service = service_factory(start=False)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        service.configure({"service": {key: port}})
        assert refused(service) == (
            1,
            f"cannot listen on 127.0.0.1:{port}: Address already in use; stop what listens there, "
            f"or change service.{key} (now from {service.settings_file})",
        )


def test_an_address_that_is_not_this_machines_is_named(service_factory: ServiceFactory) -> None:
    service = service_factory({"service": {"host": "192.0.2.1"}}, start=False)
    code, said = refused(service)
    assert code == 1
    assert said.startswith(f"cannot listen on 192.0.2.1:{service.port}: Cannot assign requested")


def test_it_listens_on_ipv6(service_factory: ServiceFactory) -> None:
    service = service_factory({"service": {"host": "::1"}}, start=False)
    service.start(ready=False)

    def health() -> bytes:
        try:
            with socket.create_connection(("::1", service.port), timeout=5) as client:
                client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
                return client.recv(4096)
        except OSError:
            return b""

    assert eventually(health).startswith(b"HTTP/1.1 200 ")


def test_a_second_one_beside_a_running_one_is_refused(service_factory: ServiceFactory) -> None:
    """It would have taken the control socket away from the one that serves."""
    service = service_factory()
    second = service_factory(start=False)
    second.configure({"service": {"run_dir": str(service.root / "run")}})
    code, said = refused(second)
    assert code == 1
    assert said.startswith(f"somebody serves already, and answers at {service.root}/run/control")
    assert status(service)["pid"] == service.pid


def test_a_directory_that_cannot_be_made_is_named(
    service_factory: ServiceFactory, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    for key in ("state_dir", "run_dir"):
        service = service_factory(start=False)
        service.configure({"service": {key: str(tmp_path / "file" / "below")}})
        assert refused(service) == (
            1,
            f"{tmp_path / 'file' / 'below'}: cannot be made: Not a directory",
        )


def test_a_run_directory_where_no_socket_can_be_is_named(
    service_factory: ServiceFactory, tmp_path: Path
) -> None:
    service = service_factory(start=False)
    run_dir = tmp_path / ("long" * 30)
    service.configure({"service": {"run_dir": str(run_dir)}})
    code, said = refused(service)
    assert code == 1
    assert said.startswith(f"{run_dir}/control.sock: the control socket cannot be made: ")


def test_a_state_directory_that_cannot_be_written_turns_readiness_red(
    service_factory: ServiceFactory,
) -> None:
    service = service_factory({"service": {"state_dir": "/proc"}}, start=False)
    service.start(ready=False)
    eventually(lambda: "serving" in [line["msg"] for line in log_lines(service)])
    assert service.get("/healthz") == (200, "ok\n")
    code, body = service.get("/readyz")
    assert (code, json.loads(body)["ready"]) == (503, False)
    assert "/proc/chat.db" in json.loads(body)["reason"]
    with Wire(service) as wire:
        answer = wire.upgrade("w", service.token("ann", "w"))
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    assert service.get("/metrics", admin=True)[0] == 200
    assert status(service)["ready"] is False
    assert service.stop() == 0


# --- in between ---------------------------------------------------------------------------


def test_secrets_are_rotated_without_a_restart(service_factory: ServiceFactory) -> None:
    service = service_factory(start=False)
    first, second, third = service.secret, "b" * 40, "c" * 40
    service.write_secret("previous", second)
    service.configure({"auth": {"previous_secret_file": str(service.root / "previous")}})
    service.start()

    def accepted() -> list[bool]:
        verdicts = []
        for secret in (first, second, third):
            token = sign(secret, user="ann", workspaces=["w"], ttl=60)
            with Wire(service) as wire:
                verdicts.append(wire.upgrade("w", token).status == 101)
        return verdicts

    assert accepted() == [True, True, False]
    with Wire.join(service) as member:
        service.write_secret("previous", first)
        service.write_secret("secret", third)
        os.kill(service.pid, signal.SIGHUP)
        eventually(lambda: accepted() == [True, False, True])
        service.write_secret("secret", "")
        os.kill(service.pid, signal.SIGHUP)
        [line] = eventually(lambda: troubles(service))
        assert line["msg"] == "the secrets were not reloaded; the old ones stay"
        assert str(service.root / "secret") in line["reason"]
        assert accepted() == [True, False, True]
        member.send("ping")
        assert member.until("pong")
    assert not any(secret in service.log for secret in (first, second, third))


def test_few_descriptors_lower_the_limits_and_cost_nobody_anything(
    service_factory: ServiceFactory, tmp_path: Path
) -> None:
    """With 128 descriptors nobody got in any more, and the control socket was deaf."""
    few = launcher(
        tmp_path / "few.py",
        "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (100, 128))",
    )
    service = service_factory(
        {"limits": {"rate": 100, "connections_per_user": 1000}},
        program=few,
        environment={"PYTHONPATH": str(REPOSITORY)},
    )
    [warning] = [line for line in log_lines(service) if line["level"] == "warning"]
    assert (warning["allowed"], warning["connections"]) == (128, 48)
    with Bystanders(service) as bystanders:
        crowd = [socket.create_connection(("127.0.0.1", service.port)) for _ in range(300)]
        bystanders.confirm()
        assert descriptors(service) < 100
        members = [Wire.join(service, user="late") for _ in range(46)]
        with Wire(service) as wire:
            answer = wire.upgrade("w", service.token("late", "w"))
            assert (answer.status, answer.json["error"]) == (503, "the service is full")
        assert status(service)["connections"] == metrics(service)["chat_connections"] == 48
        bystanders.confirm()
        for each in crowd:
            each.close()
        for member in members:
            member.socket.close()
        eventually(lambda: status(service)["connections"] == 2)
        with Wire.join(service, user="late"):
            bystanders.confirm()
    assert troubles(service) == []
