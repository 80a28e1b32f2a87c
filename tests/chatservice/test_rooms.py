"""Rooms that are dropped, forgotten and opened anew: of each workspace there is one."""

from __future__ import annotations

import secrets
import threading
import time
from pathlib import Path

import pytest

from chatservice.control import ControlError, ask
from tests.chatservice.newcomer import launcher
from tests.chatservice.wire import Wire, eventually, troubles
from tests.conftest import ServiceFactory
from tests.service_process import REPOSITORY, Overrides, ServiceProcess


@pytest.fixture(scope="module")
def module_overrides() -> Overrides:
    return {"limits": {"rate": 100}, "timing": {"presence_grace": 0.2}}


def forgets(service: ServiceProcess, workspace: str) -> bool:
    """Order a workspace to be forgotten; whether it was there, and nobody in it."""
    try:
        reply = ask(service.settings.control_socket, "forget", workspace=workspace)
    except ControlError as error:
        if "has members" not in str(error):
            raise
        return False
    return bool(reply["forgotten"])


def test_a_workspace_of_the_checks_is_forgotten_once_nobody_is_in_it(
    module_service: ServiceProcess,
) -> None:
    workspace = f"smoke-{secrets.token_hex(4)}"
    path = module_service.settings.control_socket
    assert ask(path, "forget", workspace=workspace) == {"ok": True, "forgotten": False}
    with Wire.join(module_service, workspace) as ann:
        ann.send("send", id="1", text="x")
        ann.until("ack")
        with pytest.raises(ControlError, match=f"{workspace} has members; close their connections"):
            ask(path, "forget", workspace=workspace)
        former = ann.welcome["epoch"]
    eventually(lambda: forgets(module_service, workspace))
    assert ask(path, "forget", workspace=workspace) == {"ok": True, "forgotten": False}
    with Wire.join(module_service, workspace, after=1, epoch=former) as ann:
        assert ann.welcome["epoch"] != former
        assert (ann.welcome["seq"], ann.welcome["resumed"]) == (0, False)


def test_a_forgotten_workspace_that_is_used_again_is_one_room(
    service_factory: ServiceFactory, tmp_path: Path
) -> None:
    """When the forgotten room became idle, it took the new one out of the table."""
    service = service_factory(
        {"timing": {"presence_grace": 0.0}},
        program=launcher(tmp_path / "s.py", "import chatservice.rooms as r; r.IDLE_SECONDS = 0.5"),
        environment={"PYTHONPATH": str(REPOSITORY)},
    )
    with Wire.join(service, "smoke-x", "ann"):
        pass
    eventually(lambda: forgets(service, "smoke-x"))
    with Wire.join(service, "smoke-x", "bob") as bob:
        until = time.monotonic() + 1.5
        number = 0
        while time.monotonic() < until:
            number += 1
            with Wire.join(service, "smoke-x", "eve") as eve:
                assert [person["user"] for person in eve.welcome["online"]] == ["bob", "eve"]
                eve.send("send", id=str(number), text="x")
                assert bob.until("message")["id"] == str(number)


def test_forgetting_while_others_come_in_never_leaves_two_rooms_of_one_workspace(
    module_service: ServiceProcess,
) -> None:
    workspace = f"smoke-{secrets.token_hex(4)}"
    enough = threading.Event()
    forgotten = 0

    def forget() -> None:
        nonlocal forgotten
        while not enough.is_set():
            forgotten += forgets(module_service, workspace)

    forgetting = threading.Thread(target=forget)
    forgetting.start()
    try:
        for number in range(100):
            with (
                Wire.join(module_service, workspace, "early") as early,
                Wire.join(module_service, workspace, "late") as late,
            ):
                assert len(late.welcome["online"]) == 2
                late.send("send", id=f"{number}", text="x")
                assert early.until("message")["id"] == f"{number}"
                early.send("ping")
                assert early.until("pong")["seq"] == late.welcome["seq"] + 1
    finally:
        enough.set()
        forgetting.join()
    assert forgotten
    assert troubles(module_service) == []
