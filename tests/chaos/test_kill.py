"""A real service under real load keeps its word, however often it is killed and relieved."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from tests.chaos.disruptions import Disruptions
from tests.chaos.ordeal import endure
from tests.chaos.plan import Plan
from tests.conftest import ServiceFactory

pytestmark = pytest.mark.slow

KILLS = 6
QUIET = {"log": {"level": "warning"}}
SHORT = QUIET | {"history": {"keep": 100}}
"""A history of about five seconds."""


async def test_kill_9_under_200_sends_a_second(service_factory: ServiceFactory, seed: int) -> None:
    """Killed six times in 15 s: nothing acknowledged is lost, nothing comes twice or is missed."""

    async def kill_again_and_again(disruptions: Disruptions) -> None:
        await disruptions.calm(1.0, 2.0)
        for _ in range(KILLS):
            await disruptions.kill()
            await disruptions.calm(0.5, 3.5)

    outcome = await endure(service_factory(QUIET), Plan(seed=seed), kill_again_and_again)
    print(outcome)
    assert outcome.verdict.clean, str(outcome)
    assert not outcome.unsettled
    assert outcome.verdict.looked_at["messages stored"] >= 1000


async def test_every_way_to_stop_and_start(service_factory: ServiceFactory, seed: int) -> None:
    """SIGTERM, take-over, a take-over that dies half-way, SIGSTOP and kill -9, in any order.

    History is short, too: what is no longer kept cannot be resumed, and nothing else goes wrong.
    """

    async def all_of_it(disruptions: Disruptions) -> None:
        ways: list[Callable[[], Awaitable[None]]] = [
            disruptions.restart,
            disruptions.take_over,
            disruptions.cut_take_over_short,
            lambda: disruptions.freeze(2.0),
            disruptions.kill,
            disruptions.take_over,
            lambda: disruptions.cut_take_over_short(hesitant=True),
        ]
        disruptions.chance.shuffle(ways)
        await disruptions.calm(1.0, 2.0)
        for way in ways:
            await way()
            await disruptions.calm(0.3, 2.0)

    outcome = await endure(service_factory(SHORT), Plan(seed=seed), all_of_it)
    print(outcome)
    assert outcome.verdict.clean, str(outcome)
    assert not outcome.unsettled
    assert outcome.verdict.looked_at["acknowledgements"] >= 1000
