"""Taking over: nothing acknowledged is lost, nobody is refused, who comes back misses nothing."""

from __future__ import annotations

import asyncio
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from chatservice import takeover
from chatservice.handover_format import CONNECTIONS, Offer
from tests.chatservice.newcomer import end_of, launcher, newcomer, pid_that_serves
from tests.chatservice.wire import (
    DEADLINE,
    Ended,
    Wire,
    eventually,
    status,
    troubles,
)
from tests.conftest import ServiceFactory
from tests.service_process import REPOSITORY, free_ports


def test_a_release_that_cannot_take_connections_has_the_members_come_back_and_miss_nothing(
    service_factory: ServiceFactory, tmp_path: Path
) -> None:
    """Only the listeners move; members are told when to come back."""
    service = service_factory(
        {"timing": {"reconnect_spread": 0.5}}, environment={"PYTHONPATH": str(REPOSITORY)}
    )
    service.program = launcher(tmp_path / "former.py", "takeover.VERSIONS = (1,)")
    old = service.pid
    with (
        Wire.join(service, user="ann") as ann,
        Wire.join(service, user="bob") as bob,
    ):
        ann.send("send", id="1", text="before")
        ack = ann.until("ack")
        bob.until("message")
        service.take_over()
        assert pid_that_serves(service) == service.pid != old
        for wire in (ann, bob):
            told = wire.until("reconnect")
            assert list(told) == ["type", "in_ms"]
            assert 0 <= told["in_ms"] <= 500
            ended = wire.end()
            assert (ended.code, ended.reason) == (1012, "the service restarts")
        assert status(service)["last_start"] == {
            "started": "listeners",
            "moved": 0,
            "drained": 2,
            "dropped": 0,
            "pause_ms": None,
        }
        query = {"after": 1, "epoch": ann.welcome["epoch"]}
    with Wire.join(service, user="ann", **query) as ann:
        assert (ann.welcome["resumed"], ann.past) == (True, [])
        ann.send("send", id="1", text="before")  # as if the ack had not come
        assert ann.next() == ack
    assert troubles(service) == []


async def test_words_of_the_new_process_that_come_together_are_told_apart() -> None:
    """That it serves and that all is settled, read at once by a busy old process: it lets go."""
    old, new = socket.socketpair()
    old.setblocking(False)

    def take() -> None:
        with new, new.makefile("rb") as words:
            offer = words.readline()
            new.sendall(b'{"confirmed":true}\n')
            assert (offer.startswith(b"{"), words.readline()) == (True, b'{"ok":true}\n')
            new.sendall(b'{"serving":true}\n{"settled":true}\n')

    taker = asyncio.create_task(asyncio.to_thread(take))
    with old:
        await takeover.hand_over(old, {}, Offer(True, version=CONNECTIONS))
        await takeover.settled(old)
    await taker


def test_under_load_nobody_is_refused_and_nothing_acknowledged_is_lost(
    service_factory: ServiceFactory,
) -> None:
    """While clients connect without a pause and others send, the process is replaced twice."""
    service = service_factory({"limits": {"rate": 1000, "connections_per_user": 1000}})
    enough = threading.Event()
    acknowledged: dict[str, int] = {}
    refused: list[object] = []
    connects = 0

    def hammer(number: int) -> None:
        nonlocal connects
        while not enough.is_set():
            try:
                with Wire(service) as wire:
                    answer = wire.upgrade("h", service.token(f"hammer-{number}", "h"))
                    if answer.status != 101:
                        refused.append(answer)
                connects += 1
            except (OSError, Ended, AssertionError) as error:
                refused.append(error)

    def talk(user: str) -> None:
        sent = 0
        query: dict[str, Any] = {}
        while not enough.is_set():
            try:
                with Wire.join(service, "t", user, **query) as wire:
                    epoch = wire.welcome["epoch"]
                    assert wire.welcome["resumed"] is bool(query)
                    after: int = wire.welcome["seq"]
                    query = {"after": after, "epoch": epoch}
                    while not enough.is_set():
                        wire.send("send", id=f"{user}-{sent}", text="x")
                        while (received := wire.next())["type"] != "ack":
                            if received["type"] == "message":
                                assert received["seq"] == after + 1
                                query["after"] = after = received["seq"]
                        acknowledged[received["id"]] = received["seq"]
                        sent += 1
            except Ended as ended:
                if ended.code != 1012:
                    refused.append(ended)
            except Exception as error:
                refused.append(error)
                return

    def progress() -> None:
        connected, talked = connects, len(acknowledged)
        eventually(lambda: connects > connected + 20 and len(acknowledged) > talked + 20)

    threads = [threading.Thread(target=hammer, args=(number,)) for number in range(3)]
    threads += [threading.Thread(target=talk, args=(f"talker-{number}",)) for number in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(2):
            progress()
            service.take_over()
        progress()
    finally:
        enough.set()
        for thread in threads:
            thread.join()
    assert refused == []
    with Wire.join(service, "t", "reader") as reader:
        reader.send("history", before=10**9, limit=1000)
        stored = {m["id"]: m["seq"] for m in reader.next("history")["messages"]}
        newest = reader.welcome["seq"]
    assert sorted(acknowledged.values()) == sorted(set(acknowledged.values()))
    kept = {id: seq for id, seq in acknowledged.items() if seq > newest - 200}
    assert kept.items() <= stored.items()
    assert troubles(service) == []


def test_ports_that_changed_are_listened_on_and_the_former_ones_left(
    service_factory: ServiceFactory,
) -> None:
    service = service_factory()
    with Wire.join(service) as ann:
        former = service.port, service.admin_port
        port, admin_port = free_ports(2)
        service.configure({"service": {"port": port, "admin_port": admin_port}})
        service.take_over()
        ann.send("ping")
        assert ann.next("pong")
    with Wire.join(service) as ann:
        ann.send("ping")
        assert ann.next("pong")
    assert service.get("/metrics", admin=True)[0] == 200
    for port in former:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port)).close()


def test_with_nobody_to_relieve_it_starts_cold(service_factory: ServiceFactory) -> None:
    service = service_factory(start=False)
    service.start("--take-over")
    service.kill()  # and leaves its control socket and pid file behind
    assert service.settings.control_socket.exists()
    service.start("--take-over")
    service.kill()
    service.start()
    assert pid_that_serves(service) == service.pid
    pid_file = service.root / "run" / "chatservice.pid"
    assert int(pid_file.read_text()) == service.pid == status(service)["pid"]
    assert service.stop() == 0
    assert list((service.root / "run").iterdir()) == []


def test_of_several_at_once_one_serves_in_the_end(service_factory: ServiceFactory) -> None:
    service = service_factory()
    old = service.pid
    newcomers = [newcomer(service) for _ in range(4)]
    try:
        eventually(lambda: service.returncode is not None)
        serving = eventually(
            lambda: [each for each in newcomers if each.pid == pid_that_serves(service)]
        )
        eventually(lambda: sum(each.poll() is None for each in newcomers) == 1)
        for each in newcomers:
            if each not in serving and each.poll() is None:
                serving.append(each)
        [survivor] = [each for each in newcomers if each.poll() is None]
        assert pid_that_serves(service) == survivor.pid != old
        assert status(service)["pid"] == survivor.pid
        for each in newcomers:
            if each is survivor:
                continue
            # It was refused, or it took over and was itself relieved.
            code, said = end_of(each)
            assert code == 0 or "is being relieved or stopped already" in said, said
    finally:
        for each in newcomers:
            if each.poll() is None:
                each.terminate()
                each.wait(DEADLINE)
