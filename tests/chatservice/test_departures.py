"""Where connections cannot move: members come back at a pace, and are not seen to leave."""

from __future__ import annotations

import json
import time

from tests.chatservice.wire import Wire, eventually, status, troubles
from tests.conftest import ServiceFactory


def test_at_a_stop_members_are_spread_over_the_time_that_the_pace_needs(
    service_factory: ServiceFactory,
) -> None:
    """Twenty at ten a second: two seconds, and one tenth of a second for each."""
    service = service_factory({"timing": {"returns_per_second": 10, "reconnect_spread": 0.0}})
    members = [Wire.join(service, user=f"user-{number}") for number in range(20)]
    service.stop()
    waits = sorted(member.until("reconnect")["in_ms"] for member in members)
    for index, wait in enumerate(waits):
        assert index * 100 - 1 <= wait <= (index + 1) * 100
    for member in members:
        assert member.end().code == 1012
        member.socket.close()


def test_who_comes_back_in_time_is_not_seen_to_leave(service_factory: ServiceFactory) -> None:
    """And who does not is offline when the time to come back and the grace period are over."""
    service = service_factory({"timing": {"presence_grace": 4.0, "reconnect_spread": 4.0}})
    names = ["ann", "bob", "carol"]
    members = {name: Wire.join(service, user=name) for name in names}
    epoch = members["ann"].welcome["epoch"]
    stopped = time.monotonic()
    service.stop()
    for member in members.values():
        assert member.end().code == 1012
        member.socket.close()
    service.start()
    with Wire.join(service, user="ann", after=0, epoch=epoch) as ann:
        assert [each["user"] for each in ann.welcome["online"]] == names
        with Wire.join(service, user="bob", after=0, epoch=epoch):
            gone = ann.next("presence")  # nothing of bob before it
            assert (gone["user"], gone["state"]) == ("carol", "offline")
            assert 7.9 < time.monotonic() - stopped < 40
    service.restart()
    with Wire.join(service, user="dora", after=0, epoch=epoch) as dora:
        assert "carol" not in [each["user"] for each in dora.welcome["online"]]
    assert troubles(service) == []


def test_a_word_that_is_too_old_or_garbage_is_of_no_consequence(
    service_factory: ServiceFactory,
) -> None:
    service = service_factory({"timing": {"presence_grace": 0.1, "reconnect_spread": 0.1}})
    farewell = service.root / "run" / "farewell"
    with Wire.join(service, user="ann"):
        service.stop()
    assert farewell.stat().st_mode & 0o777 == 0o600
    time.sleep(0.3)
    service.start()
    with Wire.join(service, user="bob") as bob:
        assert [each["user"] for each in bob.welcome["online"]] == ["bob"]
    service.stop()
    farewell.write_bytes(b"garbage")
    service.start()
    assert not farewell.exists()
    with Wire.join(service, user="carol") as carol:
        assert [each["user"] for each in carol.welcome["online"]] == ["carol"]


def test_a_drain_sends_members_away_at_the_pace_and_serves_them_until_then(
    service_factory: ServiceFactory,
) -> None:
    """Sixty at forty a second: it takes a second at least, and nobody comes in any more."""
    service = service_factory(
        {"timing": {"returns_per_second": 40}, "limits": {"connections_per_user": 100}}
    )
    members = [Wire.join(service, user=f"user-{number}") for number in range(60)]
    started = time.monotonic()
    done = service.ctl("drain")
    assert time.monotonic() - started > 1.0
    assert json.loads(done.stdout)["drained"] == 60
    for member in members:
        told = member.until("reconnect")
        assert 0 <= told["in_ms"] <= 100
        ended = member.end()
        assert (ended.code, ended.reason) == (1012, "this host is drained")
        member.socket.close()
    eventually(lambda: status(service)["connections"] == 0)
    assert status(service)["reason"] == "draining"
    with Wire(service) as wire:
        assert wire.upgrade("w", service.token("late", "w")).status == 503
    assert troubles(service) == []
