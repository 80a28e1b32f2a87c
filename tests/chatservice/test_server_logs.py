"""The log of the service: whose connection each line is about, and nothing that is private."""

from __future__ import annotations

import json

import pytest

from tests.chatservice.newcomer import launcher
from tests.chatservice.wire import (
    BINARY,
    PING,
    TEXT,
    Wire,
    connect_path,
    eventually,
    frame,
    log_lines,
    metrics,
    request,
    status,
    text,
    troubles,
    upgrade_headers,
)
from tests.conftest import ServiceFactory
from tests.service_process import REPOSITORY, ServiceProcess

CANARY = "canary-7f3a9c"


@pytest.fixture
def service(service_factory: ServiceFactory) -> ServiceProcess:
    return service_factory({"log": {"level": "debug", "format": "json"}})


def test_no_token_and_no_text_is_ever_logged(service: ServiceProcess) -> None:
    good = service.token("ann", "w")
    expired = service.token("ann", "w", ttl=-60)
    foreign = service.token("ann", "elsewhere")
    for token in (good, expired, foreign, CANARY):
        for headers, query in (
            ({"Authorization": f"Bearer {token}"}, {}),
            ({"Sec-WebSocket-Protocol": f"chat.v1, bearer.{token}"}, {}),
            ({}, {"token": token}),
        ):
            for method in ("GET", "POST"):
                for path in (
                    connect_path("w", **query),
                    connect_path("%20", **query),
                    f"/nowhere?token={token}",
                    f"//[?token={token}",
                ):
                    with Wire(service) as wire:
                        wire.write(request(path, {**upgrade_headers(), **headers}, method=method))
                        assert wire.answer().status
    for garbage in (CANARY.encode() + b"\r\n\r\n", b"GET /" + CANARY.encode() * 900):
        with Wire(service) as wire:
            wire.write(garbage)
            wire.answer()
    for sent in (
        text(CANARY),
        text({"type": CANARY}),
        text({"type": "send", "id": CANARY, "text": CANARY}),
        text({"type": "send", "id": CANARY, "text": [CANARY]}),
        text({"type": "send", "id": "1", "text": CANARY * 500}),
        text({"type": "read", "seq": CANARY}),
        text({"type": "auth", "token": CANARY}),
        text({"type": "auth", "token": expired}),
        text({"type": "auth", "token": foreign}),
        text({"type": "auth", "token": good}),
        frame(TEXT, CANARY.encode() + b"\xff"),
        frame(BINARY, CANARY.encode()),
        frame(PING, CANARY.encode() * 10),
        frame(TEXT, CANARY.encode(), rsv=1),
        frame(8, b"\x03\xe8" + CANARY.encode()),
    ):
        with Wire.join(service) as wire:
            wire.write(sent + text({"type": "ping"}))
            wire.frame()
    eventually(lambda: status(service)["connections"] == 0)
    assert service.stop() == 0
    assert len(log_lines(service)) > 50
    assert CANARY not in service.log
    for token in (good, expired, foreign, service.secret):
        for part in token.split("."):
            assert part not in service.log


def test_every_line_about_a_connection_names_it(service: ServiceProcess) -> None:
    with Wire.join(service, user="ann"), Wire.join(service, user="bob"), Wire(service) as wire:
        wire.upgrade("w", "")
    eventually(lambda: status(service)["connections"] == 0)
    lines = log_lines(service)
    joined = {line["user"]: line for line in lines if line["msg"] == "member joined"}
    left = {line["user"]: line for line in lines if line["msg"] == "member left"}
    [refused] = [line for line in lines if line["msg"] == "refused"]
    assert set(joined) == set(left) == {"ann", "bob"}
    for user in joined:
        assert joined[user]["conn"] == left[user]["conn"]
        assert joined[user]["workspace"] == left[user]["workspace"] == "w"
    ids = {joined["ann"]["conn"], joined["bob"]["conn"], refused["conn"]}
    assert len(ids) == 3
    assert all(id.startswith(f"{service.pid:x}-") for id in ids)
    assert joined["ann"]["peer"].startswith("127.0.0.1:")
    assert (joined["ann"]["result"], left["ann"]["reason"]) == ("fresh", "lost")
    assert refused["result"] == "unauthorized"


def test_a_line_is_one_json_object_whatever_is_in_it(service: ServiceProcess) -> None:
    names = 'a"b\\c', "ann\N{LINE SEPARATOR}x", "\N{RIGHT-TO-LEFT OVERRIDE}evil", "{}", "x" * 200
    for name in names:
        token = service.token(name, "w", name=name)
        with Wire.join(service, token=token) as wire:
            assert wire.welcome["user"] == name
    eventually(lambda: status(service)["connections"] == 0)
    raw = service.log.encode()
    assert raw.isascii()
    lines = [json.loads(line) for line in raw.split(b"\n") if line]
    assert {line.get("user") for line in lines} >= set(names)
    for line in lines:
        assert list(line)[:4] == ["ts", "level", "logger", "msg"]
        assert list(line)[-1] == "release"


def test_a_bug_in_a_callback_is_logged_and_counted_and_the_service_goes_on(
    service_factory: ServiceFactory,
) -> None:
    service = service_factory(start=False)
    service.program = launcher(
        service.root / "broken.py",
        "import chatservice.fanout as fanout\n"
        "flush = fanout.LiveRoom.flush\n"
        "def broken(self):\n"
        "    if self.room.workspace == 'cursed':\n"
        "        self._flushing = False\n"
        "        raise ZeroDivisionError('a bug')\n"
        "    flush(self)\n"
        "fanout.LiveRoom.flush = broken",
    )
    service.environment["PYTHONPATH"] = str(REPOSITORY)
    service.start()
    with Wire.join(service) as ann:
        with Wire(service) as cursed:
            cursed.upgrade("cursed", service.token("eve", "cursed"))
            assert cursed.hung_up()
        for number in range(3):
            ann.send("send", id=str(number), text="x")
            assert ann.until("ack")
        found = metrics(service)
    assert found['chat_room_errors_total{kind="internal"}'] >= 1
    assert all("a bug" in line["exc"] for line in troubles(service))
    assert "bug while welcoming a member" in [line["msg"] for line in troubles(service)]
    assert found['chat_connections_closed_total{reason="error"}'] == 1
    assert found["chat_connections"] == 1
