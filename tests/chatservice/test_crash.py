"""Killed with -9 under a manager that keeps descriptors: members stay connected."""

from __future__ import annotations

import fcntl
import struct
import termios
import time
from pathlib import Path

import pytest

from chatservice.survival import MEMBER, Survival
from tests.chatservice.keeper import Keeper
from tests.chatservice.wire import (
    TEXT,
    Wire,
    connect_path,
    eventually,
    frame,
    metrics,
    request,
    status,
    text,
    troubles,
    upgrade_headers,
)
from tests.conftest import ServiceFactory
from tests.service_process import REPOSITORY


def test_members_stay_connected_and_miss_nothing(
    service_factory: ServiceFactory, tmp_path: Path
) -> None:
    service = service_factory(start=False)
    with (
        Keeper(service, tmp_path) as keeper,
        Wire.join(service, user="ann") as ann,
        Wire.join(service, user="bob") as bob,
    ):
        ann.until("presence", user="bob")
        for round in range(3):
            keeper.settled(2)
            keeper.kill()
            last = status(service)["last_start"]
            assert (last["started"], last["moved"], last["dropped"]) == ("crash", 2, 0)
            ann.send("send", id=f"a{round}", text="x")
            assert bob.next("message")["id"] == f"a{round}"  # and no presence before it
            assert ann.next("message")["id"] == f"a{round}"
            assert ann.next("ack")["seq"] == round + 1
        assert metrics(service)["chat_connections"] == 2
    assert troubles(service) == []


def test_what_is_closed_is_closed_and_kept_no_more(
    service_factory: ServiceFactory, tmp_path: Path
) -> None:
    """The manager's copy of a socket keeps it open, unless it is shut down."""
    service = service_factory({"auth": {"leeway": 0.0}}, start=False)
    with Keeper(service, tmp_path) as keeper:
        with Wire.join(service, user="ann"):
            keeper.settled(1)
        keeper.settled(0)
        token = service.token("bob", "w", ttl=2.0)
        with Wire.join(service, user="bob", token=token) as bob:
            keeper.settled(1)
            assert bob.end().code == 4401
            assert bob.hung_up()
            keeper.settled(0)


def test_who_was_in_the_middle_of_something_is_closed_and_resumes(
    service_factory: ServiceFactory, tmp_path: Path
) -> None:
    """Half a frame died with the process. The others stay, and see nobody leave."""
    service = service_factory({"timing": {"presence_grace": 5.0}}, start=False)
    with Keeper(service, tmp_path) as keeper, Wire.join(service, user="ann") as ann:
        halves = {}
        for user, half in (
            ("frame", text({"type": "ping"})[:5]),
            ("fragments", frame(TEXT, b'{"type":', fin=False)),
        ):
            wire = halves[user] = Wire.join(service, user=user)
            ann.until("presence", user=user)
            wire.write(half)
        eventually(lambda: all(inbox_empty(wire) for wire in halves.values()))
        keeper.settled(3)
        epoch = ann.welcome["epoch"]
        keeper.kill()
        last = status(service)["last_start"]
        assert (last["started"], last["moved"], last["dropped"]) == ("crash", 1, 2)
        for user, wire in halves.items():
            ended = wire.end()
            assert (ended.code, ended.reason) == (1012, "the service crashed")
            wire.socket.close()
            halves[user] = Wire.join(service, user=user, after=0, epoch=epoch)
            assert halves[user].welcome["resumed"]
        ann.send("ping")
        assert ann.next("pong")  # and nothing before it
        for wire in halves.values():
            wire.socket.close()


@pytest.mark.parametrize(
    ("module", "dying", "users"),
    [
        ("connection.Connection", "respond", "[self.user]"),
        ("room.Room", "entered", "[arguments[0].user]"),
        ("fanout.LiveRoom", "flush", "[each.user for each in self._welcomed]"),
    ],
    ids=["before its upgrade", "after its upgrade", "before its welcome"],
)
def test_who_was_not_welcomed_yet_comes_back_and_is(
    service_factory: ServiceFactory, tmp_path: Path, module: str, dying: str, users: str
) -> None:
    """What had been written was whole, so it was restored as a member, and never got a welcome."""
    where, _, name = module.partition(".")
    program = tmp_path / "dying.py"
    program.write_text(
        "import os, pathlib, sys\n"
        f"from chatservice.{where} import {name}\n"
        f"died = pathlib.Path({str(tmp_path / 'died')!r})\n"
        f"original = {name}.{dying}\n"
        "def die(self, *arguments):\n"
        f"    if not died.exists() and 'bob' in {users}:\n"
        "        died.touch()\n"
        "        os.kill(os.getpid(), 9)\n"
        "    return original(self, *arguments)\n"
        f"{name}.{dying} = die\n"
        "from chatservice.__main__ import main\n"
        "sys.exit(main())\n"
    )
    service = service_factory(
        start=False, program=(str(program),), environment={"PYTHONPATH": str(REPOSITORY)}
    )
    with Keeper(service, tmp_path) as keeper, Wire.join(service, user="ann") as ann:
        keeper.settled(1)
        with Wire(service) as bob:
            bob.write(request(connect_path("w"), upgrade_headers(service.token("bob", "w"))))
            eventually(lambda: keeper.starts == 2)
            service.wait_ready()
            last = status(service)["last_start"]
            assert (last["started"], last["moved"], last["dropped"]) == ("crash", 1, 1)
            assert bob.hung_up()
        with Wire.join(service, user="bob") as bob:
            assert [each["user"] for each in bob.welcome["online"]] == ["ann", "bob"]
            ann.send("ping")
            assert ann.until("pong")


def inbox_empty(wire: Wire) -> bool:
    """Whether the service has read all that was sent; here it does so at once."""
    queued = fcntl.ioctl(wire.socket.fileno(), termios.TIOCOUTQ, b"\0" * 4)
    return bool(struct.unpack("i", queued)[0] == 0)


def test_what_was_stored_and_not_published_is_published_after_the_crash(
    service_factory: ServiceFactory, tmp_path: Path
) -> None:
    """Killed between the commit and its word: the sender resends, the others have it once."""
    program = tmp_path / "dying.py"
    program.write_text(
        "import os, sys\n"
        "import chatservice.writing as writing\n"
        "publish = writing.Writing._publish\n"
        "def die(self, batch):\n"
        "    if any(append.text == 'die' for _, append, result in batch.appends\n"
        "           if not result.repeated):\n"
        "        os.kill(os.getpid(), 9)\n"
        "    return publish(self, batch)\n"
        "writing.Writing._publish = die\n"
        "from chatservice.__main__ import main\n"
        "sys.exit(main())\n"
    )
    service = service_factory(
        start=False, program=(str(program),), environment={"PYTHONPATH": str(REPOSITORY)}
    )
    with (
        Keeper(service, tmp_path) as keeper,
        Wire.join(service, user="ann") as ann,
        Wire.join(service, user="bob") as bob,
    ):
        ann.until("presence", user="bob")
        keeper.settled(2)
        ann.send("send", id="1", text="die")
        assert bob.next("message")["id"] == "1"
        assert ann.end().code == 1012
        with Wire.join(service, user="ann", after=0, epoch=bob.welcome["epoch"]) as again:
            assert [message["id"] for message in again.past] == ["1"]
            again.send("send", id="1", text="die")
            assert again.next("ack")["seq"] == 1
        assert keeper.starts == 2


def test_who_left_just_before_is_offline_after_the_grace_period(
    service_factory: ServiceFactory, tmp_path: Path
) -> None:
    service = service_factory({"timing": {"presence_grace": 2.0}}, start=False)
    with Keeper(service, tmp_path) as keeper, Wire.join(service, user="ann") as ann:
        with Wire.join(service, user="bob"):
            ann.until("presence", user="bob", state="online")
        eventually(lambda: status(service)["connections"] == 1)
        keeper.settled(1)
        keeper.kill()
        gone = ann.next("presence")
        assert (gone["user"], gone["state"]) == ("bob", "offline")


def test_an_expired_token_and_another_origin_are_honoured_after_a_crash(
    service_factory: ServiceFactory, tmp_path: Path
) -> None:
    service = service_factory({"auth": {"leeway": 0.0}}, start=False)
    with Keeper(service, tmp_path, restart=False) as keeper:
        token = service.token("ann", "w", ttl=2.0)
        with Wire.join(service, token=token) as ann, Wire.join(service, user="bob") as bob:
            keeper.settled(2)
            second = service.write_secret("second", "another secret of more than 32 bytes")
            service.configure({"auth": {"secret_file": str(second)}})
            keeper.restart = True
            keeper.kill()
            assert ann.end().code == 4401
            ended = bob.end()
            assert (ended.code, ended.reason) == (4401, "the token is no longer valid")


def test_a_service_that_crashes_again_and_again_starts_without_them(
    service_factory: ServiceFactory, tmp_path: Path
) -> None:
    service = service_factory(start=False)
    with Keeper(service, tmp_path) as keeper, Wire.join(service, user="ann") as ann:
        for _ in range(3):
            keeper.settled(1)
            keeper.kill()
            assert status(service)["last_start"]["started"] == "crash"
        keeper.kill()
        assert status(service)["last_start"]["started"] == "cold"
        assert ann.end().code == 0
        keeper.settled(0)


def test_handovers_and_crashes_in_turns(service_factory: ServiceFactory, tmp_path: Path) -> None:
    """What was kept stays kept, under the same name, whichever process serves."""
    service = service_factory(start=False)
    with Keeper(service, tmp_path, restart=False) as keeper, Wire.join(service, user="ann") as ann:
        for round in range(2):
            keeper.settled(1)
            service.environment["NOTIFY_SOCKET"] = str(tmp_path / "notify")
            service.take_over()
            assert status(service)["last_start"]["started"] == "handover"
            keeper.settled(1)
            ann.send("send", id=f"{round}", text="x")
            ann.until("ack")
            keeper.restart = True
            keeper.kill()
            keeper.restart = False
            assert status(service)["last_start"]["started"] == "crash"
            ann.send("ping")
            assert ann.until("pong")["seq"] == round + 1


def test_where_it_is_not_wanted_nothing_is_kept(
    service_factory: ServiceFactory, tmp_path: Path
) -> None:
    service = service_factory({"service": {"survive_crashes": False}}, start=False)
    with Keeper(service, tmp_path) as keeper, Wire.join(service, user="ann") as ann:
        ann.send("ping")
        ann.until("pong")
        assert keeper.kept == {}
        keeper.kill()
        assert ann.end().code == 0


def test_who_is_kept_anew_after_a_handover_is_kept_until_their_token_expires(
    service_factory: ServiceFactory, tmp_path: Path
) -> None:
    """Kept with the expiry that a connection begins with, none, they were closed after a crash."""
    service = service_factory({"service": {"survive_crashes": False}}, start=False)
    with Keeper(service, tmp_path, restart=False) as keeper:
        token = service.token("ann", "w", ttl=1000.0)
        with Wire.join(service, token=token):
            service.environment["NOTIFY_SOCKET"] = str(tmp_path / "notify")
            service.configure({"service": {"survive_crashes": True}})
            service.take_over()
            keeper.settled(1)
            kept = Survival(service.root / "run/lifeline", 0)
            [(_, who, state)] = kept.members()
            kept.close(remove=False)
            assert (who.user, state) == ("ann", MEMBER)
            assert who.exp == pytest.approx(time.time() + 1000, abs=60)


def test_a_release_that_keeps_nothing_has_nothing_kept_any_more(
    service_factory: ServiceFactory, tmp_path: Path
) -> None:
    """Otherwise what it closes would stay open."""
    service = service_factory(start=False)
    with Keeper(service, tmp_path, restart=False) as keeper, Wire.join(service) as ann:
        keeper.settled(1)
        service.environment["NOTIFY_SOCKET"] = str(tmp_path / "notify")
        service.configure({"service": {"survive_crashes": False}, "auth": {"leeway": 0.0}})
        service.take_over()
        keeper.settled(0)
        assert not (service.root / "run/lifeline").exists()
        ann.send("ping")
        assert ann.until("pong")
        service.configure({"service": {"survive_crashes": True}})
        service.take_over()
        keeper.settled(1)
        keeper.restart = True
        keeper.kill()
        keeper.restart = False
        ann.send("ping")
        assert ann.until("pong")
        assert status(service)["last_start"]["started"] == "crash"
