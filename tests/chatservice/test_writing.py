"""What rooms have stored: in batches, of which only so much may wait."""

from __future__ import annotations

import sqlite3

from tests.chatservice.wire import Wire
from tests.conftest import ServiceFactory


def test_more_messages_than_may_wait_are_refused_one_by_one(
    service_factory: ServiceFactory,
) -> None:
    service = service_factory(
        {"store": {"busy_timeout": 20.0}, "limits": {"queued_writes": 5, "rate": 1000}}
    )
    with Wire.join(service) as ann:
        ann.send("send", id="0", text="x")
        ann.until("ack")
        lock = sqlite3.connect(service.settings.database, isolation_level=None)
        lock.execute("BEGIN IMMEDIATE")
        ann.send("send", id="under way", text="x")
        ann.send("ping")
        ann.until("pong")  # so it has been read, and the commit has begun
        for number in range(8):
            ann.send("send", id=str(number + 1), text="x")
        ann.send("read", seq=1)
        errors = [ann.next("error") for _ in range(4)]
        assert [error.get("id") for error in errors] == ["6", "7", "8", None]
        for error in errors:
            assert error["code"] == "unavailable"
            assert error["message"] == "too many messages wait to be stored; send it again later"
        assert service.get("/readyz")[0] == 200
        lock.execute("ROLLBACK")
        lock.close()
        numbers: dict[str, int] = {}
        while len(numbers) < 6:
            received = ann.next()
            if received["type"] == "ack":
                numbers[received["id"]] = received["seq"]
        assert numbers == {"under way": 2, "1": 3, "2": 4, "3": 5, "4": 6, "5": 7}
