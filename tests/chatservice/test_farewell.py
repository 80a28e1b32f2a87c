"""Where connections cannot move, who comes back in time is not seen to leave."""

from __future__ import annotations

import time

from tests.chatservice.wire import Wire, troubles
from tests.conftest import ServiceFactory


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
