"""A new process that fails at any point before it confirms leaves the old one serving.

Members notice nothing but a pause.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from chatservice.control import ControlError
from chatservice.takeover import Claim
from tests.chatservice.bystanders import Bystanders
from tests.chatservice.newcomer import (
    conversation,
    end_of,
    launcher,
    newcomer,
    pid_that_serves,
    receive_listeners,
)
from tests.chatservice.wire import (
    DEADLINE,
    PING,
    PONG,
    Wire,
    eventually,
    frame,
    log_lines,
    request,
    status,
)
from tests.conftest import ServiceFactory
from tests.service_process import REPOSITORY, Overrides, ServiceProcess


@pytest.fixture(scope="module")
def module_overrides() -> Overrides:
    return {
        "timing": {"heartbeat": 0.5, "presence_grace": 0.0},
        "limits": {"rate": 100, "connections_per_user": 100},
    }


@pytest.fixture
def serving(module_service: ServiceProcess, bystanders: Bystanders) -> Iterator[ServiceProcess]:
    """A service whose members must notice nothing, and which must be the one that still serves."""
    yield module_service
    assert pid_that_serves(module_service) == module_service.pid == status(module_service)["pid"]
    with Wire.join(module_service, user="late") as late:
        late.send("ping")
        assert late.until("pong")


def times_relieved(service: ServiceProcess) -> int:
    return sum(line["msg"] == "being relieved" for line in log_lines(service))


def test_a_newcomer_with_bad_settings_fails_alone(serving: ServiceProcess, tmp_path: Path) -> None:
    settings = tmp_path / "bad.toml"
    settings.write_text(serving.settings_file.read_text() + "[limits2]\n")
    before = times_relieved(serving)
    code, said = end_of(newcomer(serving, settings))
    assert code == 2
    assert said == f"chatservice: {settings}: limits2: unknown key"
    assert times_relieved(serving) == before


def test_a_newcomer_that_cannot_open_the_store_fails_alone(
    serving: ServiceProcess, tmp_path: Path
) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "chat.db").write_bytes(b"this is no database" * 1000)
    settings = tmp_path / "elsewhere.toml"
    text = serving.settings_file.read_text()
    settings.write_text(text.replace(str(serving.root / "state"), str(tmp_path / "state")))
    before = times_relieved(serving)
    code, said = end_of(newcomer(serving, settings))
    assert code == 1
    assert said.startswith(f"chatservice: {tmp_path / 'state' / 'chat.db'}: ")
    assert times_relieved(serving) == before


def test_a_newcomer_whose_port_is_taken_fails_and_the_old_one_serves_on(
    serving: ServiceProcess, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        settings = tmp_path / "taken.toml"
        text = serving.settings_file.read_text()
        settings.write_text(text.replace(f"port = {serving.port}", f"port = {port}"))
        code, said = end_of(newcomer(serving, settings))
    assert code == 1
    assert said == (
        f"chatservice: cannot listen on 127.0.0.1:{port}: Address already in use; stop what "
        f"listens there, or change service.port (now from {settings})"
    )


def test_a_newcomer_that_dies_holding_the_listeners_leaves_the_old_one_serving(
    serving: ServiceProcess, chatting: Bystanders, tmp_path: Path
) -> None:
    for patch in (
        "takeover.Claim.confirm = lambda self: os._exit(9)",
        "chatservice.process.Process._serve = lambda self, claim: os._exit(9)",
        "def fail(self): raise OSError(28, 'No space left on device')\n"
        "takeover.Claim.confirm = fail",
        "chatservice.listening.BACKLOG = 'a bug'",
    ):
        before = times_relieved(serving)
        code, _ = end_of(newcomer(serving, program=launcher(tmp_path / "dying.py", patch)))
        assert code != 0
        assert times_relieved(serving) == before + 1
        chatting.confirm()


def test_a_newcomer_serves_nobody_before_it_has_confirmed(
    serving: ServiceProcess, chatting: Bystanders, tmp_path: Path
) -> None:
    """The old one serves on if it dies, and would not know what it had stored meanwhile."""
    reached = tmp_path / "reached"
    hesitant = launcher(
        tmp_path / "hesitant.py",
        "def hesitate(self):\n"
        f"    open({str(reached)!r}, 'w').close()\n"
        "    time.sleep(60)\n"
        "takeover.Claim.confirm = hesitate",
    )
    process = newcomer(serving, program=hesitant)
    eventually(reached.exists)
    with socket.create_connection(("127.0.0.1", serving.port), DEADLINE) as waiting:
        waiting.sendall(request("/version"))
        waiting.settimeout(0.5)
        with pytest.raises(TimeoutError):
            waiting.recv(1)
        process.kill()
        end_of(process)
        waiting.settimeout(DEADLINE)
        answer = waiting.recv(65536)
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["pid"] == serving.pid
    chatting.confirm()


def test_without_a_confirmation_the_old_one_serves_on(
    serving: ServiceProcess, chatting: Bystanders
) -> None:
    for answer in (
        b"",
        b"garbage\n",
        b'{"confirmed":false}\n',
        b"[]\n",
        b"null\n",
        b"\xff\n",
        b"x" * 70_000,
    ):
        with conversation(serving) as peer:
            for descriptor in receive_listeners(peer):
                os.close(descriptor)
            peer.sendall(answer)
            peer.shutdown(socket.SHUT_WR)
            reply = json.loads(peer.makefile().readline())
            assert reply["ok"] is False
            assert reply["error"]
        chatting.confirm()


def test_members_that_could_not_be_heard_for_long_are_not_taken_for_dead(
    serving: ServiceProcess,
) -> None:
    """Nothing is read while the new process is waited for, here for three heartbeats."""
    with Wire.join(serving, user="patient") as patient, conversation(serving) as peer:
        for descriptor in receive_listeners(peer):
            os.close(descriptor)
        patient.send("ping")
        until = time.monotonic() + 1.6
        while time.monotonic() < until:
            patient.socket.settimeout(max(0.01, until - time.monotonic()))
            try:
                opcode, _ = patient.frame()
            except AssertionError:
                break
            if opcode == PING:
                patient.write(frame(PONG))
        patient.socket.settimeout(DEADLINE)
        peer.close()
        assert patient.until("pong")


def test_a_newcomer_that_confirms_too_late_gives_up(
    service_factory: ServiceFactory, tmp_path: Path
) -> None:
    impatient = launcher(tmp_path / "impatient.py", "takeover.CONFIRM_SECONDS = 0.5")
    slow = launcher(
        tmp_path / "slow.py",
        "confirm = takeover.Claim.confirm\n"
        "def later(self):\n"
        "    time.sleep(1.5)\n"
        "    confirm(self)\n"
        "takeover.Claim.confirm = later",
    )
    service = service_factory(program=impatient, environment={"PYTHONPATH": str(REPOSITORY)})
    code, said = end_of(newcomer(service, program=slow))
    assert code == 1
    assert said.startswith("chatservice: the running process ")
    assert pid_that_serves(service) == service.pid


def test_a_refusal_is_not_taken_for_an_answer_to_the_confirmation() -> None:
    """The two had crossed on the way, and then both processes served."""
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.sendall(b'{"ok":false,"error":"no confirmation came in 10 s"}\n')
        with pytest.raises(ControlError, match="serves on: no confirmation came in 10 s"):
            Claim(ours, {}).confirm()


def test_a_version_of_the_conversation_that_is_not_known_is_refused(
    serving: ServiceProcess,
) -> None:
    before = times_relieved(serving)
    for version in (b"0", b"3", b'"1"', b"null"):
        order = b'{"order":"take-over","version":' + version + b"}\n"
        with conversation(serving, order) as peer:
            reply = json.loads(peer.makefile().readline())
        assert reply["ok"] is False
        assert reply["error"].startswith("take-over version ")
    assert times_relieved(serving) == before


def test_a_second_take_over_is_refused_while_one_is_under_way(serving: ServiceProcess) -> None:
    with conversation(serving) as first:
        for descriptor in receive_listeners(first):
            os.close(descriptor)
        with conversation(serving) as second:
            reply = json.loads(second.makefile().readline())
            assert reply == {
                "ok": False,
                "error": "this process is being relieved or stopped already",
            }


def test_told_to_stop_in_the_middle_of_a_take_over_it_first_hears_how_that_ends(
    service_factory: ServiceFactory,
) -> None:
    service = service_factory()
    with conversation(service) as peer:
        for descriptor in receive_listeners(peer):
            os.close(descriptor)
        os.kill(service.pid, signal.SIGTERM)
        eventually(lambda: service.returncode is None)
        peer.sendall(b'{"confirmed":true}\n')
        assert json.loads(peer.makefile().readline()) == {"ok": True}
    eventually(lambda: service.returncode == 0)
    # It was relieved, so what is there is for the new one.
    assert service.settings.control_socket.exists()
