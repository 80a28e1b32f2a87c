"""`ctl reload`: the running process starts its successor, and says how that went."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from chatservice.control import ControlError
from tests.chatservice.manager import Manager
from tests.chatservice.newcomer import pid_that_serves
from tests.chatservice.wire import Wire, eventually, status, troubles
from tests.conftest import ServiceFactory
from tests.service_process import REPOSITORY, ServiceProcess


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    """A service manager."""
    with Manager(tmp_path / "notify") as manager:
        yield manager


@pytest.fixture
def managed(service_factory: ServiceFactory, manager: Manager) -> Iterator[ServiceProcess]:
    """A service that a manager started; whoever serves in the end is ended, too."""
    service = service_factory(environment={"NOTIFY_SOCKET": str(manager.path)})
    yield service
    if service.returncode is not None:
        with contextlib.suppress(ControlError):
            os.kill(status(service)["pid"], signal.SIGTERM)
        eventually(lambda: not service.settings.control_socket.exists())


def program(path: Path, *lines: str) -> str:
    """Write a program that is the service but for these lines."""
    path.write_text(
        "\n".join(
            [
                "import os, sys, time",
                f"sys.path.insert(0, {str(REPOSITORY)!r})",
                *lines,
                "from chatservice.__main__ import main",
                "sys.exit(main())",
            ]
        )
    )
    return str(path)


def test_the_successor_serves_everybody_and_the_manager_follows_it(
    managed: ServiceProcess, manager: Manager, tmp_path: Path
) -> None:
    old = managed.pid
    eventually(lambda: manager.told)
    assert manager.told == [
        f"READY=1\nMAINPID={old}\nSTATUS=release unreleased serves, with 0 members from the start"
    ]
    with Wire.join(managed, user="ann") as ann:
        done = managed.ctl("reload", "--program", program(tmp_path / "next.py"))
        assert (done.returncode, done.stderr) == (0, "")
        said = json.loads(done.stdout)
        new = said["pid"]
        pause = said["last_start"].pop("pause_ms")
        assert pause > 0
        assert said["last_start"] == {
            "started": "handover",
            "moved": 1,
            "drained": 0,
            "dropped": 0,
        }
        eventually(lambda: managed.returncode == 0)
        assert pid_that_serves(managed) == new != old
        ann.send("ping")
        assert ann.next("pong")
        assert status(managed)["last_start"] == said["last_start"] | {"pause_ms": pause}
    assert f"MAINPID={new}" in manager.told
    assert all(not told.startswith("STOPPING") for told in manager.told)
    assert manager.told[1].startswith(f"READY=1\nMAINPID={new}\n")
    assert troubles(managed) == []
    assert os.getsid(new) == new  # what is sent to the old one's terminal or group misses it
    os.kill(new, signal.SIGTERM)
    eventually(lambda: "STOPPING=1\nSTATUS=stopping" in manager.told)


def test_a_successor_that_fails_leaves_the_old_one_serving_and_reload_says_why(
    managed: ServiceProcess, manager: Manager, tmp_path: Path
) -> None:
    refuses = "the successor does not serve, this process does: "
    with Wire.join(managed, user="ann") as ann:
        for lines, why in (
            (["sys.exit(7)"], f"{refuses}it ended with status 7 and no last words; see the log"),
            (
                ["os.kill(os.getpid(), 9)"],
                f"{refuses}it ended with signal SIGKILL and no last words; see the log",
            ),
            (
                [
                    "from chatservice.process import Process, StartError",
                    "async def no(*a, **k): raise StartError('nothing works')",
                    "Process._begin = no",
                ],
                f"{refuses}nothing works",
            ),
        ):
            done = managed.ctl("reload", "--program", program(tmp_path / "bad.py", *lines))
            assert (done.returncode, done.stderr) == (1, f"chatservice: {why}\n")
            assert pid_that_serves(managed) == managed.pid
        done = managed.ctl("reload", "--program", str(tmp_path / "missing.py"))
        assert done.returncode == 1
        ann.send("ping")
        assert ann.next("pong")
    assert len(manager.told) == 1
    assert status(managed)["last_start"]["started"] == "cold"


def test_a_second_reload_while_one_is_under_way_is_refused(
    managed: ServiceProcess, tmp_path: Path
) -> None:
    reached = tmp_path / "reached"
    slow = program(tmp_path / "slow.py", f"open({str(reached)!r}, 'w').close()", "time.sleep(60)")
    argv = ["-m", "chatservice", "ctl", "--settings", str(managed.settings_file), "reload"]
    first = subprocess.Popen(
        [sys.executable, *argv, "--program", slow],
        cwd=REPOSITORY,
        stderr=subprocess.PIPE,
        text=True,
    )
    eventually(reached.exists)
    second = managed.ctl("reload", "--program", slow)
    assert second.returncode == 1
    assert "is being relieved or stopped already" in second.stderr
    [child] = children(managed.pid)
    os.kill(child, signal.SIGKILL)
    _, errors = first.communicate(timeout=30)
    assert "signal SIGKILL" in errors
    assert pid_that_serves(managed) == managed.pid


def children(pid: int) -> list[int]:
    """Give the children of a process."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(each) for each in text.split()]
