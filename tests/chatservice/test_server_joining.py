"""Members who come, go and come back while others talk: no gap, no repeat, nothing left behind."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.chatservice.wire import (
    Wire,
    connect_path,
    descriptors,
    eventually,
    metrics,
    request,
    status,
    troubles,
    upgrade_headers,
)
from tests.service_process import Overrides, ServiceProcess


@pytest.fixture(scope="module")
def module_overrides() -> Overrides:
    return {
        "history": {"keep": 1000, "newest": 10},
        "limits": {
            "rate": 5000,
            "burst": 5000,
            "unsent_bytes": 65_536,
            "frame_bytes": 1_048_576,
            "connections_per_user": 200,
        },
        "timing": {"presence_grace": 0.0},
    }


class Publisher:
    """A member who talks without a pause until the block ends."""

    def __init__(self, service: ServiceProcess, workspace: str) -> None:
        self.wire = Wire.join(service, workspace, "publisher")
        self.epoch = self.wire.welcome["epoch"]
        self.sent = 0
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._talk, name="publisher")

    def __enter__(self) -> Publisher:
        self._thread.start()
        eventually(lambda: self.sent > 20)
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        self._thread.join()
        self.wire.socket.close()

    def _talk(self) -> None:
        while not self._enough.is_set():
            self.sent += 1
            self.wire.send("send", id=str(self.sent), text="x" * 50)
            self.wire.until("ack", id=str(self.sent))


@pytest.fixture
def publisher(module_service: ServiceProcess) -> Iterator[Publisher]:
    with Publisher(module_service, f"w{random.getrandbits(32)}") as publisher:
        yield publisher


def follow(wire: Wire, count: int) -> list[int]:
    """Take the numbers of the next messages."""
    return [wire.until("message")["seq"] for _ in range(count)]


def test_who_joins_while_others_talk_misses_and_repeats_nothing(
    module_service: ServiceProcess, publisher: Publisher
) -> None:
    workspace = publisher.wire.welcome["workspace"]

    def join(number: int) -> None:
        user = f"user-{number % 10}"
        after = max(0, publisher.sent - number % 15)
        query = {"after": after, "epoch": publisher.epoch} if number % 2 else {}
        with Wire.join(module_service, workspace, user, **query) as wire:
            seq = wire.welcome["seq"]
            if query:
                # It may have seen a number that is on its way to be stored.
                assert wire.welcome["resumed"] is (after <= seq)
            if wire.welcome["resumed"]:
                assert [message["seq"] for message in wire.past] == [*range(after + 1, seq + 1)]
            else:
                messages = wire.past[0]["messages"]
                assert [m["seq"] for m in messages] == [*range(seq - 9, seq + 1)]
            assert follow(wire, 20) == [*range(seq + 1, seq + 21)]

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(join, number) for number in range(120)]:
            done.result()


def test_a_cursor_is_never_ahead_of_the_messages_that_it_counts(
    module_service: ServiceProcess, publisher: Publisher
) -> None:
    workspace = publisher.wire.welcome["workspace"]
    with Wire.join(module_service, workspace, "reader") as wire:
        seq = wire.welcome["seq"]
        for _ in range(50):
            wire.send("read", seq=seq)
            while (received := wire.next())["type"] != "read":
                assert received["seq"] == seq + 1
                seq += 1
            # What is unread was all shown before: the newest shown, less what was read.
            assert received["unread"] == seq - received["seq"]


def test_a_past_larger_than_the_unsent_limit_is_delivered_whole(
    module_service: ServiceProcess,
) -> None:
    """It was cut off as too slow, and again each time it came back."""
    with Wire.join(module_service, "long", "ann") as ann:
        for start in range(0, 600, 50):
            for number in range(start, start + 50):
                ann.send("send", id=str(number), text="\N{PARTY POPPER}" * 4000)
            ann.until("ack", id=str(start + 49))
        epoch = ann.welcome["epoch"]
    with Wire.join(module_service, "long", "bob", receive_buffer=4096, after=0, epoch=epoch) as bob:
        assert bob.welcome["resumed"] is True
        assert [message["seq"] for message in bob.past] == [*range(1, 601)]
        bob.send("ping")
        assert bob.next("pong")


def test_members_who_leave_at_any_moment_of_joining_leave_nothing_behind(
    module_service: ServiceProcess, publisher: Publisher
) -> None:
    workspace = publisher.wire.welcome["workspace"]
    before = status(module_service)["connections"], descriptors(module_service)
    path = connect_path(workspace)
    headers = upgrade_headers(module_service.token("fleeting", workspace))
    for number in range(200):
        wire = Wire(module_service)
        wire.write(request(path, headers))
        time.sleep(random.random() / 200)
        if number % 2:
            wire.reset()
        else:
            wire.socket.close()
    eventually(
        lambda: (status(module_service)["connections"], descriptors(module_service)) == before
    )
    found = metrics(module_service)
    assert found["chat_connections"] == before[0]
    opened = found["chat_connections_opened_total"]
    closed = sum(v for name, v in found.items() if name.startswith("chat_connections_closed_total"))
    assert opened - closed == before[0]
    assert troubles(module_service) == []


def test_a_member_who_is_cut_off_in_the_middle_of_a_fan_out_costs_the_others_nothing(
    module_service: ServiceProcess,
) -> None:
    """Its leaving is announced (the grace period is none) while the room is being written to."""
    with (
        Wire.join(module_service, "cut", "talker") as talker,
        Wire.join(module_service, "cut", "deaf-1", receive_buffer=4096) as deaf,
        Wire.join(module_service, "cut", "listener") as listener,
        Wire.join(module_service, "cut", "deaf-2", receive_buffer=4096),
    ):
        seq = 0
        gone: set[str] = set()
        while gone < {"deaf-1", "deaf-2"}:
            seq += 1
            talker.send("send", id=str(seq), text="\N{PARTY POPPER}" * 4000)
            talker.until("ack", id=str(seq))
            while (received := listener.next())["type"] != "message":
                if received["state"] == "offline":
                    gone.add(received["user"])
            assert received["seq"] == seq
            assert seq < 2000
        assert deaf.end().code in (4408, 0)
    assert troubles(module_service) == []
