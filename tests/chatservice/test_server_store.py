"""A store in trouble: sends are refused, members stay, and it recovers by itself.

Nothing acknowledged is lost, and no member sees a gap or a repeat.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chatservice.wire import Frame, Wire, eventually, log_lines, metrics, status, text
from tests.conftest import ServiceFactory
from tests.service_process import ServiceProcess
from tests.small_disks import mounted


def readiness(service: ServiceProcess) -> tuple[int, str]:
    code, body = service.get("/readyz")
    return code, json.loads(body).get("reason", "")


class Conversation:
    """Two members; whatever one has acknowledged, both must have seen, once and in order."""

    def __init__(self, service: ServiceProcess) -> None:
        self.service = service
        self.ann = Wire.join(service, user="ann")
        self.bob = Wire.join(service, user="bob")
        self.ann.next("presence")
        self.sent = 0
        self.stored: list[int] = []
        self._seen = {self.ann: 0, self.bob: 0}

    def say(self) -> Frame:
        """Send a message; give the ack or the error."""
        self.sent += 1
        return self.say_again()

    def say_again(self) -> Frame:
        """Send the last message once more."""
        self.ann.send("send", id=str(self.sent), text="x" * 1000)
        while (received := self.ann.next())["type"] not in ("ack", "error"):
            self._check(self.ann, received)
        assert received["id"] == str(self.sent)
        if received["type"] == "ack":
            self.stored.append(self.sent)
            assert self._seen[self.ann] == received["seq"]
            self.catch_up()
        return received

    def catch_up(self) -> None:
        """See that bob has heard everything that ann has."""
        while self._seen[self.bob] < self._seen[self.ann]:
            self._check(self.bob, self.bob.next())

    def alive(self) -> None:
        """See that what needs no store still works."""
        shown = False
        while not shown:  # once a second at most
            self.bob.send("typing")
            self.bob.send("ping")
            assert self.bob.until("pong")["seq"] == self._seen[self.bob]
            self.ann.send("ping")
            while (received := self.ann.next())["type"] != "pong":
                shown = shown or received == {"type": "typing", "user": "bob"}
            time.sleep(0.05)

    def recovered(self) -> None:
        """Wait until sends are taken again, and see that all is as it should be."""
        eventually(lambda: readiness(self.service)[0] == 200)
        eventually(lambda: self.say_again()["type"] == "ack")
        for _ in range(5):
            assert self.say()["type"] == "ack"
        assert self._seen[self.ann] == self._seen[self.bob] == len(self.stored)
        with Wire.join(self.service, user="reader") as reader:
            reader.send("history", before=10**6, limit=1000)
            kept = [int(message["id"]) for message in reader.next("history")["messages"]]
        assert kept == self.stored[-len(kept) :]

    def _check(self, wire: Wire, received: Frame) -> None:
        if received["type"] == "message":
            assert received["seq"] == self._seen[wire] + 1
            self._seen[wire] += 1
        else:
            assert received["type"] == "presence"

    def close(self) -> None:
        self.ann.socket.close()
        self.bob.socket.close()


def refuse(conversation: Conversation, reason: str) -> None:
    """See that sends are refused for that reason, and nothing else."""
    service = conversation.service
    error = eventually(lambda: (got := conversation.say())["type"] == "error" and got)
    assert error["code"] == "unavailable"
    eventually(lambda: readiness(service)[0] == 503)
    assert reason in readiness(service)[1]
    assert status(service)["ready"] is False
    assert reason in status(service)["reason"]
    assert metrics(service)["chat_store_up"] == 0
    assert conversation.say()["code"] == "unavailable"
    conversation.alive()
    with Wire(service) as wire:
        answer = wire.upgrade("elsewhere", service.token("ann", "elsewhere"))
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    assert service.get("/healthz")[0] == 200


@pytest.fixture
def service(service_factory: ServiceFactory) -> ServiceProcess:
    return service_factory(
        {
            "store": {"busy_timeout": 0.3},
            "limits": {"rate": 1000, "burst": 1000},
            "history": {"page": 1000},
        }
    )


@pytest.fixture
def conversation(service: ServiceProcess) -> Iterator[Conversation]:
    conversation = Conversation(service)
    for _ in range(10):
        assert conversation.say()["type"] == "ack"
    yield conversation
    conversation.close()
    lines = [line for line in log_lines(service) if "exc" in line or line["msg"].startswith("bug")]
    assert lines == []


def test_a_database_locked_by_another_process(
    service: ServiceProcess, conversation: Conversation
) -> None:
    lock = sqlite3.connect(service.settings.database, isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")
    refuse(conversation, "another process holds the database")
    with Wire.join(service, user="bob"):  # who is known and whose room is open
        conversation.alive()
    lock.execute("ROLLBACK")
    lock.close()
    conversation.recovered()


def test_a_database_that_is_damaged_and_mended(
    service: ServiceProcess, conversation: Conversation
) -> None:
    """Mended is: what was written over it is undone, while the service runs."""
    database = service.settings.database
    with sqlite3.connect(database) as outsider:
        outsider.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    good = database.read_bytes()
    with database.open("r+b") as file:
        file.write(b"\xde\xad\xbe\xef" * (len(good) // 4))
    refuse(conversation, "the database is damaged")
    with database.open("r+b") as file:
        file.write(good)
    conversation.recovered()


@pytest.mark.parametrize(
    "first", [{"type": "send", "id": "after", "text": "x"}, {"type": "read", "seq": 1}]
)
def test_a_backup_that_is_put_in_the_place_of_a_damaged_database(
    service: ServiceProcess, conversation: Conversation, tmp_path: Path, first: Frame
) -> None:
    """The history is another one then: members come back and load it anew."""
    database = service.settings.database
    source, copy = sqlite3.connect(database), sqlite3.connect(tmp_path / "backup.db")
    source.backup(copy)
    source.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    source.close()
    copy.close()
    with database.open("r+b") as file:
        file.write(b"\xde\xad\xbe\xef" * 2000)
    refuse(conversation, "the database is damaged")
    shutil.copy(tmp_path / "backup.db", database.parent / "incoming")
    (database.parent / "incoming").rename(database)
    eventually(lambda: readiness(service)[0] == 200)
    conversation.ann.write(text(first))
    for wire in (conversation.ann, conversation.bob):
        assert wire.until("reconnect")
        ended = wire.end()
        assert (ended.code, ended.reason) == (1012, "the history was replaced")
    former = conversation.ann.welcome["epoch"]
    with Wire.join(service, user="ann", after=10, epoch=former) as ann:
        assert ann.welcome["resumed"] is False
        assert ann.welcome["epoch"] != former
        assert [message["seq"] for message in ann.past[0]["messages"]] == [*range(1, 11)]
        ann.send("send", id="after", text="x")
        assert ann.until("ack")["seq"] == 11


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    with mounted(tmp_path / "small", 2) as disk:
        yield disk


def test_a_disk_that_is_full(service_factory: ServiceFactory, small_disk: Path) -> None:
    service = service_factory(
        {
            "service": {"state_dir": str(small_disk)},
            "limits": {"rate": 10_000, "burst": 10_000},
            "history": {"page": 1000},
        }
    )
    conversation = Conversation(service)
    try:
        for _ in range(10):
            assert conversation.say()["type"] == "ack"
        filler = small_disk / "filler"
        with filler.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"x" * 4096)
            except OSError:
                pass
        refuse(conversation, "there is no space left")
        with Wire.join(
            service, user="bob", after=5, epoch=conversation.bob.welcome["epoch"]
        ) as bob:
            assert bob.welcome["resumed"] is True  # what is there can be read
        filler.unlink()
        conversation.recovered()
    finally:
        conversation.close()
    assert service.stop() == 0
