"""Connections that move to another process: what they were in the middle of goes on there."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.chatservice.midway import SETTINGS, Midway
from tests.chatservice.newcomer import launcher, newcomer, pid_that_serves
from tests.chatservice.wire import (
    PING,
    PONG,
    Wire,
    connect_path,
    eventually,
    frame,
    log_lines,
    request,
    status,
    troubles,
    upgrade_headers,
)
from tests.conftest import ServiceFactory
from tests.service_process import REPOSITORY


def test_what_was_half_received_and_half_sent_goes_on(service_factory: ServiceFactory) -> None:
    """Half frames, half messages, a half request, and bytes that wait for a slow reader."""
    service = service_factory(SETTINGS)
    with Midway(service) as midway:
        before = midway.unsent()
        assert before > 0
        for _ in range(3):
            service.take_over()
            assert 0 < midway.unsent() <= before  # the kernel may take a little more
        midway.finish()
    assert status(service)["last_start"]["started"] == "handover"
    assert troubles(service) == []


@pytest.mark.parametrize("ends", ["confirms", "dies"])
def test_a_slow_reader_that_reads_on_meanwhile_gets_every_byte_once(
    service_factory: ServiceFactory, tmp_path: Path, ends: str
) -> None:
    """While the new process hesitates, nobody may write what it was told is unsent."""
    reached, go_on = tmp_path / "reached", tmp_path / "go on"
    hesitant = launcher(
        tmp_path / "hesitant.py",
        "confirm = takeover.Claim.confirm\n"
        "def hesitate(self):\n"
        f"    open({str(reached)!r}, 'w').close()\n"
        f"    while not os.path.exists({str(go_on)!r}): time.sleep(0.01)\n"
        + ("    confirm(self)\n" if ends == "confirms" else "    os._exit(9)\n")
        + "takeover.Claim.confirm = hesitate",
    )
    service = service_factory(SETTINGS)
    with Midway(service) as midway:
        process = newcomer(service, program=hesitant)
        eventually(reached.exists)
        midway.read_some()
        go_on.touch()
        if ends == "confirms":
            eventually(lambda: service.returncode == 0)
        else:
            process.wait(30)
        midway.finish()
        if ends == "confirms":
            process.terminate()
            process.communicate(timeout=30)


def test_who_left_is_offline_when_the_grace_period_is_over_and_nobody_else(
    service_factory: ServiceFactory,
) -> None:
    """The grace period runs on in the new process; who comes back in it was never gone."""
    service = service_factory({"timing": {"presence_grace": 8.0}})
    with Wire.join(service, user="ann") as ann:
        for user in ("goes", "returns", "stays"):
            wire = Wire.join(service, user=user)
            assert ann.next("presence")["user"] == user
            if user != "stays":
                wire.socket.close()
        left = time.monotonic()
        eventually(lambda: status(service)["connections"] == 2)
        service.take_over()
        with Wire.join(service, user="returns") as back:
            assert sorted(each["user"] for each in back.welcome["online"]) == [
                "ann",
                "goes",
                "returns",
                "stays",
            ]
            gone = ann.next("presence")
            assert (gone["user"], gone["state"]) == ("goes", "offline")
            assert 7.5 < time.monotonic() - left < 40
            ann.send("ping")
            assert ann.next("pong")  # and nothing before it
        wire.socket.close()


def test_limits_go_on(service_factory: ServiceFactory) -> None:
    """A rate that was used up is used up."""
    service = service_factory({"limits": {"rate": 0.02, "burst": 4}})
    with Wire.join(service, user="ann") as ann:
        for _ in range(4):
            ann.send("ping")
            ann.next("pong")
        service.take_over()
        ann.send("ping")
        assert ann.next("error")["code"] == "rate_limited"


def test_keep_alive_goes_on(service_factory: ServiceFactory) -> None:
    """A client that only answers pings stays, in the old process and in the new one."""
    service = service_factory({"timing": {"heartbeat": 1.0, "presence_grace": 0.0}})
    with ThreadPoolExecutor(1) as pool, Wire.join(service, user="mute") as mute:

        def answer() -> None:
            opcode, payload = mute.frame()
            assert opcode == PING
            mute.write(frame(PONG, payload))

        answer()
        relief = pool.submit(service.take_over)  # which may take longer than silence is borne
        while not relief.done():
            answer()
        relief.result()
        answer()
        answer()
        assert status(service)["last_start"]["moved"] == 1


def test_a_silent_client_is_closed_as_dead_in_the_new_process(
    service_factory: ServiceFactory,
) -> None:
    service = service_factory({"timing": {"heartbeat": 0.5, "presence_grace": 0.0}})
    with Wire.join(service, user="dead"):
        service.take_over()
        eventually(lambda: status(service)["connections"] == 0)
    left = [line for line in log_lines(service) if line["msg"] == "member left"]
    assert [(line["user"], line["reason"]) for line in left] == [("dead", "heartbeat")]


def test_who_is_no_longer_allowed_is_closed_with_its_code(service_factory: ServiceFactory) -> None:
    """Another secret, or another list of origins, holds for those who are connected, too."""
    service = service_factory()
    second = service.write_secret("second", "another secret of more than 32 bytes")
    with Wire.join(service, user="former") as former:
        service.configure(
            {
                "auth": {
                    "secret_file": str(second),
                    "previous_secret_file": str(service.root / "secret"),
                }
            }
        )
        service.take_over()
        former.send("ping")
        assert former.next("pong")
        service.configure({"auth": {"previous_secret_file": ""}})
        service.take_over()
        ended = former.end()
        assert (ended.code, ended.reason) == (4401, "the token is no longer valid")
        found = status(service)["last_start"]
        assert (found["moved"], found["dropped"]) == (0, 1)


def test_an_origin_that_is_no_longer_allowed_is_closed(service_factory: ServiceFactory) -> None:
    service = service_factory({"auth": {"origins": ["https://a.test", "https://b.test"]}})
    wires = {}
    for name in ("a", "b"):
        wires[name] = Wire(service)
        token = service.token(name, "w")
        headers = upgrade_headers(token) | {"Origin": f"https://{name}.test"}
        wires[name].write(request(connect_path("w"), headers))
        assert wires[name].answer().status == 101
        wires[name].until("history")
    service.configure({"auth": {"origins": ["https://b.test"]}})
    service.take_over()
    ended = wires["a"].end()
    assert (ended.code, ended.reason) == (4503, "this origin is no longer allowed")
    wires["b"].send("ping")
    assert wires["b"].until("pong")
    for wire in wires.values():
        wire.socket.close()


def test_a_token_expires_in_the_new_process(service_factory: ServiceFactory) -> None:
    service = service_factory({"auth": {"leeway": 0.0}})
    token = service.token("ann", "w", ttl=3.0)
    with Wire.join(service, token=token) as ann:
        service.take_over()
        assert ann.end().code == 4401


def test_a_read_that_was_under_way_is_answered_by_the_new_process(
    service_factory: ServiceFactory, tmp_path: Path
) -> None:
    """Here the old process's store does not answer."""
    stuck = launcher(
        tmp_path / "stuck.py",
        "import asyncio\n"
        "from chatservice.store.sqlite import SqliteStore\n"
        "async def never(self, *a): await asyncio.sleep(3600)\n"
        "SqliteStore.history = never",
    )
    service = service_factory(program=stuck, environment={"PYTHONPATH": str(REPOSITORY)})
    with Wire.join(service, user="ann") as ann:
        ann.send("send", id="1", text="x")
        ann.until("ack")
        ann.send("history", before=10, limit=5)
        ann.send("ping")
        ann.until("pong")
        service.program = ("-m", "chatservice")
        service.take_over()
        page = ann.next("history")
        assert [message["id"] for message in page["messages"]] == ["1"]


def test_commits_that_do_not_finish_keep_everybody_where_they_are(
    service_factory: ServiceFactory, tmp_path: Path
) -> None:
    """Nobody knows what becomes of what was sent: so it is not handed over, and goes on."""
    stuck = launcher(
        tmp_path / "stuck.py",
        "import asyncio\n"
        "import chatservice.server\n"
        "chatservice.server.FLUSH_SECONDS = 0.3\n"
        "from chatservice.store.sqlite import SqliteStore\n"
        "commit = SqliteStore.commit\n"
        "async def slowly(self, appends, reads):\n"
        "    await asyncio.sleep(2 if appends else 0)\n"
        "    return await commit(self, appends, reads)\n"
        "SqliteStore.commit = slowly",
    )
    service = service_factory(program=stuck, environment={"PYTHONPATH": str(REPOSITORY)})
    with Wire.join(service, user="ann") as ann:
        ann.send("send", id="1", text="x")
        ann.send("ping")
        ann.until("pong")
        process = newcomer(service)
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 1
        assert (
            "the running process refused: commits under way do not finish; try again later"
            in errors
        )
        assert ann.until("ack")["id"] == "1"
        assert pid_that_serves(service) == service.pid
