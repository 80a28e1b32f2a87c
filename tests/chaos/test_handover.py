"""Ten handovers in a row under load, and nobody notices."""

from __future__ import annotations

import asyncio
import os

import pytest

from tests.chaos.continuity import continuity
from tests.chaos.disruptions import Disruptions
from tests.chaos.ordeal import endure
from tests.chaos.plan import Plan
from tests.chatservice.wire import status, troubles
from tests.conftest import ServiceFactory

pytestmark = pytest.mark.slow

HANDOVERS = 10
CLIENTS = int(os.environ.get("CHAOS_CLIENTS", "200"))
"""2,000 take two minutes, and 200 sends a second are the same load for each of them."""


def plan(seed: int) -> Plan:
    """Twenty to a workspace; a fifth of them on the websockets library alone."""
    return Plan(
        workspaces=CLIENTS // 20,
        users=CLIENTS * 7 // 10,
        second_devices=CLIENTS // 10,
        raw=CLIENTS // 5,
        walkers=4,
        quitters=2,
        rate=200.0,
        seed=seed,
    )


async def test_ten_handovers_under_200_sends_a_second(
    service_factory: ServiceFactory, seed: int
) -> None:
    """Nobody is disconnected, nothing lost, repeated or out of order, and no presence flickers."""
    service = service_factory({"limits": {"connections_per_user": 100}})
    results = []

    async def hand_over_again_and_again(disruptions: Disruptions) -> None:
        await disruptions.everybody(CLIENTS)
        for _ in range(HANDOVERS):
            await disruptions.take_over()
            results.append((await asyncio.to_thread(status, service))["last_start"])
            await disruptions.calm(0.3, 1.0)

    outcome = await endure(service, plan(seed), hand_over_again_and_again)
    noticed = continuity(outcome.records)
    print(outcome)
    print(noticed)
    print("pauses:", ", ".join(f"{each['pause_ms']:g} ms" for each in results))
    assert outcome.verdict.clean, str(outcome)
    assert not outcome.unsettled
    assert outcome.verdict.looked_at["messages stored"] >= 1000
    assert (noticed.closed, noticed.unfounded) == (0, 0)
    assert [each["started"] for each in results] == ["handover"] * HANDOVERS
    assert all(each["moved"] >= CLIENTS - 8 for each in results)
    assert [each["dropped"] + each["drained"] for each in results] == [0] * HANDOVERS
    assert troubles(service) == []
