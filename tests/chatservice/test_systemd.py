"""What a service manager is told."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest

from chatservice import systemd
from chatservice.systemd import Notifier
from tests.chatservice.manager import Manager


def test_without_a_manager_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notifier = Notifier()
    assert not notifier
    assert (notifier.tell("READY=1"), notifier.barrier()) == (False, False)
    notifier.ready("serving")
    notifier.stopping()


def test_it_says_who_serves_and_waits_until_that_is_known(tmp_path: Path) -> None:
    with Manager(tmp_path / "notify") as manager:
        Notifier(str(manager.path)).ready("serves")
        assert manager.told == [f"READY=1\nMAINPID={os.getpid()}\nSTATUS=serves"]


def test_an_abstract_address_begins_with_an_at(tmp_path: Path) -> None:
    name = f"chat-test-{os.getpid()}-{threading.get_ident()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("\0" + name)
        assert Notifier(f"@{name}").tell("STOPPING=1", "STATUS=stopping")
        assert listener.recv(100) == b"STOPPING=1\nSTATUS=stopping"


def test_a_manager_that_is_gone_or_does_not_listen_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(systemd, "BARRIER_SECONDS", 0.05)
    assert not Notifier(str(tmp_path / "nobody")).tell("READY=1")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as deaf:
        deaf.bind(str(tmp_path / "deaf"))
        assert not Notifier(str(tmp_path / "deaf")).barrier()
