"""A disk without a byte left, and the process is replaced: members stay, read, and are told why
they cannot send; when there is room again all is well, without anybody's doing.

Everything that the service writes is on that disk.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chatservice.keeper import Keeper
from tests.chatservice.wire import Wire, eventually, log_lines, status
from tests.conftest import ServiceFactory
from tests.service_process import ServiceProcess
from tests.small_disks import fill, mounted


@pytest.fixture(params=["tmpfs", "ext4"])
def disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A file system of 32 MB."""
    with mounted(tmp_path / "disk", 32, request.param) as disk:
        yield disk


@pytest.fixture
def service(service_factory: ServiceFactory, disk: Path) -> ServiceProcess:
    """One that keeps its state and what it tells its successor there; not started yet."""
    places = {}
    for name in ("state", "run"):
        (disk / name).mkdir(mode=0o700)
        places[f"{name}_dir"] = str(disk / name)
    return service_factory(
        {"service": places, "limits": {"rate": 1000, "connections": 100}}, start=False
    )


def readiness(service: ServiceProcess) -> tuple[int, str]:
    """Give the status of /readyz, and what kind of trouble it tells of."""
    code, body = service.get("/readyz")
    return code, json.loads(body).get("kind", "")


def converse(*wires: Wire, first: int) -> None:
    """Have the first one send three messages, which all hear."""
    for number in range(first, first + 3):
        wires[0].send("send", id=str(number), text="x" * 1000)
        assert wires[0].until("ack")["seq"] == number
        for wire in wires[1:]:
            assert wire.until("message")["seq"] == number


def refused(wire: Wire) -> None:
    """Send until nothing is taken any more: what the disk holds for the log may take some."""

    def send() -> bool:
        wire.send("send", id="large", text="y" * 4000)
        while (came := wire.next())["type"] not in ("ack", "error"):
            pass
        return bool(came["type"] == "error" and came["code"] == "unavailable")

    eventually(send)


def assert_reads_only(service: ServiceProcess) -> None:
    """See that who was there comes in again and reads, and that the reason is told."""
    assert readiness(service) == (503, "full")
    assert "there is no space left for the database" in status(service)["reason"]
    with Wire.join(service, user="cat") as cat:
        assert [message["seq"] for message in cat.past[0]["messages"]] == [1, 2, 3]
        refused(cat)
        cat.send("history", before=3, limit=10)
        assert [one["seq"] for one in cat.until("history")["messages"]] == [1, 2]
    with Wire.join(service, user="cat", after=1, epoch=cat.welcome["epoch"]) as cat:
        assert [message["seq"] for message in cat.past] == [2, 3]
    with Wire(service) as wire:
        answer = wire.upgrade("elsewhere", service.token("cat", "elsewhere"))
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")


def recovered(service: ServiceProcess, filler: Path) -> None:
    """Make room, and wait until the service has noticed."""
    filler.unlink()
    eventually(lambda: readiness(service) == (200, ""))


def first_words(service: ServiceProcess) -> None:
    """Have cat and ann in the workspace, and three messages."""
    with Wire.join(service, user="cat") as cat, Wire.join(service, user="ann") as ann:
        converse(ann, cat, first=1)


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_a_service_that_starts_again(service: ServiceProcess, disk: Path, end: str) -> None:
    """After a crash as after a stop in order."""
    service.start()
    first_words(service)
    getattr(service, end)()
    filler = fill(disk)
    service.start(ready=False)
    service.wait_answering()
    fill(disk)
    with Wire.join(service, user="ann") as ann:
        refused(ann)
        assert_reads_only(service)
        recovered(service, filler)
        converse(ann, first=4)
    said = [line["msg"] for line in log_lines(service)]
    assert "starting without the store; it is tried again" not in said


def test_a_crash_that_members_outlive(service: ServiceProcess, disk: Path, tmp_path: Path) -> None:
    """They stay connected, and read on."""
    with Keeper(service, tmp_path) as keeper:
        first_words(service)
        with Wire.join(service, user="ann") as ann, Wire.join(service, user="bob") as bob:
            keeper.settled(2)
            filler = fill(disk)
            starts = keeper.starts
            status(service)
            service.kill()
            eventually(lambda: keeper.starts > starts)
            service.wait_answering()
            last = status(service)["last_start"]
            assert (last["started"], last["moved"], last["dropped"]) == ("crash", 2, 0)
            fill(disk)
            refused(ann)
            assert_reads_only(service)
            recovered(service, filler)
            converse(bob, ann, first=4)


def test_a_take_over(service: ServiceProcess, disk: Path) -> None:
    """As a rollback is one. Nobody is disconnected, and the new process serves."""
    service.start()
    first_words(service)
    with Wire.join(service, user="ann") as ann, Wire.join(service, user="bob") as bob:
        filler = fill(disk)
        refused(ann)
        service.take_over(ready=False)
        last = status(service)["last_start"]
        assert (last["started"], last["moved"], last["dropped"]) == ("handover", 2, 0)
        fill(disk)
        refused(ann)
        assert_reads_only(service)
        recovered(service, filler)
        converse(bob, ann, first=4)
