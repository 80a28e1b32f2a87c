"""The control socket: orders of a line each, carried out or refused with a reason."""

from __future__ import annotations

import contextlib
import json
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from chatservice.control import ControlError, ControlSocket, ask, connect
from tests.chatservice.bystanders import Bystanders
from tests.chatservice.wire import (
    DEADLINE,
    Wire,
    eventually,
    status,
)
from tests.conftest import ServiceFactory
from tests.service_process import Overrides, ServiceProcess


@pytest.fixture(scope="module")
def module_overrides() -> Overrides:
    return {"limits": {"rate": 100}, "timing": {"presence_grace": 0.2}}


@contextmanager
def line(service: ServiceProcess, data: bytes = b"") -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(DEADLINE)
        peer.connect(str(service.settings.control_socket))
        peer.sendall(data)
        yield peer


def test_only_its_owner_can_open_it(module_service: ServiceProcess) -> None:
    mode = module_service.settings.control_socket.stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600
    assert sorted(file.name for file in (module_service.root / "run").iterdir()) == [
        "chatservice.pid",
        "control.sock",
    ]


def test_status_says_what_it_is_and_does(module_service: ServiceProcess) -> None:
    with Wire.join(module_service, "status"):
        told = status(module_service)
    assert told["ok"] is True
    assert told["pid"] == module_service.pid
    assert (told["ready"], told["reason"]) == (True, "")
    assert (told["connections"], told["rooms"]) == (1, 1)
    assert told["database_bytes"] > 0
    assert (told["host"], told["port"]) == ("127.0.0.1", module_service.port)
    assert told["admin_port"] == module_service.admin_port
    assert 0 <= told["uptime"] < 600


@pytest.mark.parametrize(
    "order",
    [
        b"\n",
        b"garbage\n",
        b"[]\n",
        b"null\n",
        b'{"order":"fly"}\n',
        b'{"order":1}\n',
        b"{}\n",
        b"\xff\xfe\n",
        b'{"order":"forget"}\n',
        b'{"order":"forget","workspace":["smoke-x"]}\n',
        b'{"order":"forget","workspace":"w"}\n',
        b'{"order":"forget","workspace":"smoke"}\n',
        b'{"order":"sweep"}\n',
        b'{"order":"sweep","seconds":-1}\n',
        b'{"order":"sweep","seconds":"1"}\n',
        b'{"order":"sweep","seconds":true}\n',
        b'{"order":"take-over"}\n',
        b"x" * 70_000,
    ],
    ids=lambda order: str(order[:40]),
)
def test_what_is_no_order_is_refused_with_a_reason_and_harms_nobody(
    module_service: ServiceProcess, bystanders: Bystanders, order: bytes
) -> None:
    with line(module_service, order) as peer:
        reply = json.loads(peer.makefile().readline())
        assert reply["ok"] is False
        assert reply["error"]
        assert "internal error" not in reply["error"]
        with contextlib.suppress(ConnectionResetError):  # it did not read all of it
            assert peer.recv(1) == b""


def test_who_says_nothing_does_not_keep_others_from_giving_orders(
    module_service: ServiceProcess, bystanders: Bystanders
) -> None:
    with line(module_service), line(module_service, b'{"order":'):
        assert status(module_service)["ok"]
    with line(module_service, b'{"order":"status"}\n'):
        pass  # and does not wait for the answer
    assert status(module_service)["ok"]


def test_sweep_forgets_the_idle_workspaces_of_the_checks_only(
    service_factory: ServiceFactory,
) -> None:
    service = service_factory()
    path = service.settings.control_socket
    for workspace in ("smoke-old", "smoke-used", "ours"):
        with Wire.join(service, workspace) as ann:
            ann.send("send", id="1", text="x")
            ann.until("ack")
    with Wire.join(service, "smoke-used"):
        eventually(lambda: status(service)["connections"] == 1)
        assert ask(path, "sweep", seconds=3600)["forgotten"] == []
        assert ask(path, "sweep", seconds=1e300)["forgotten"] == []
        assert ask(path, "sweep", seconds=0)["forgotten"] == ["smoke-old"]
    with Wire.join(service, "ours") as ann:
        assert ann.welcome["seq"] == 1


def test_ctl_prints_the_answer_or_one_line_of_why_not(module_service: ServiceProcess) -> None:
    done = module_service.ctl("status")
    assert (done.returncode, json.loads(done.stdout)["ok"], done.stderr) == (0, True, "")
    failed = module_service.ctl("forget", "w")
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr == "chatservice: only workspaces named smoke-... can be forgotten\n"


def test_asking_where_nobody_answers_says_so(service_factory: ServiceFactory) -> None:
    service = service_factory(start=False)
    path = service.settings.control_socket
    with pytest.raises(ControlError, match=f"nobody serves at {path}"):
        ask(path, "status")
    path.write_text("a file")
    assert connect(path, 1.0) is None
    path.unlink()
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(path))
        assert connect(path, 1.0) is None  # what a killed process leaves
        deaf.listen(1)
        with pytest.raises(ControlError, match=r"did not answer in 0\.2 s"):
            ask(path, "status", timeout=0.2)
    path.unlink()
    with socket.socket(socket.AF_UNIX) as other:

        def greet() -> None:
            peer, _ = other.accept()
            with peer:
                peer.recv(100)
                peer.sendall(b"220 mail.test ESMTP\r\n")

        other.bind(str(path))
        other.listen(1)
        greeter = threading.Thread(target=greet)
        greeter.start()
        with pytest.raises(ControlError, match=f"what answers at {path} is no chat service"):
            ask(path, "status")
        greeter.join()


async def test_a_path_as_long_as_one_may_be_can_be_listened_at(tmp_path: Path) -> None:
    """The socket is first made under another name, which is no longer (unix(7): 107 bytes)."""
    directory = tmp_path / ("d" * (107 - len(str(tmp_path)) - len("//control.sock")))
    directory.mkdir()
    path = directory / "control.sock"
    assert len(str(path)) == 107
    control = ControlSocket(path, {})
    control.bind()
    control.open()
    assert path.is_socket()
    control.close(replaced=False)
    assert list(directory.iterdir()) == []
