"""Members who are sent away come back at a pace, at a stop as in a drain."""

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
