"""A service that breaks one promise is found out: the verdict is red, and names that promise."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import pytest

from chatservice.protocol import Welcome
from tests.chaos.broken import BROKEN
from tests.chaos.checker import Fault
from tests.chaos.disruptions import Disruptions
from tests.chaos.history import Opening, Received, Record
from tests.chaos.ordeal import Outcome, endure
from tests.chaos.plan import Plan
from tests.conftest import ServiceFactory
from tests.service_process import ServiceProcess

pytestmark = pytest.mark.slow

EXPECTED: Final = {
    "acknowledges_before_the_commit": Fault.LOST,
    "stores_what_is_sent_again": Fault.DUPLICATE,
    "refuses_what_it_has_stored": Fault.REFUSED,
    "keeps_no_cursors": Fault.CURSOR,
    "leaves_out_a_message_for_all": Fault.GAP,
    "tells_a_message_twice": Fault.REPEAT,
    "leaves_out_a_message_when_resuming": Fault.GAP,
    "mixes_up_workspaces": Fault.FOREIGN,
    "acknowledges_to_everybody": Fault.MISADDRESSED,
    "says_nothing_of_who_left": Fault.GHOST,
    "counts_unread_wrongly": Fault.UNREAD,
    "forgets_which_history_it_is": Fault.EPOCH,
}
SMALL: Final = Plan(
    workspaces=2,
    users=8,
    second_devices=1,
    raw=4,
    walkers=1,
    quitters=1,
    rate=60.0,
    stay=(0.2, 0.6),
    away=(0.2, 0.6),
)
SETTLE_SECONDS: Final = 3.0
"""What is broken may never settle."""


async def crash_once(disruptions: Disruptions) -> None:
    """Some of what is broken shows only after a crash, or when somebody resumes."""
    await disruptions.progress(80)
    await disruptions.kill()
    await disruptions.progress(120)
    await disruptions.until(somebody_resumed)


def somebody_resumed(records: Sequence[Record]) -> bool:
    """Whether a device asked for more than one message that it had missed."""
    for record in records:
        after: int | None = None
        for event in record.events:
            match event:
                case Opening():
                    after = event.after
                case Received(frame=Welcome(seq=seq)) if after is not None and seq > after + 1:
                    return True
                case _:
                    pass
    return False


def test_everything_that_can_be_broken_is_tried() -> None:
    assert BROKEN.keys() == EXPECTED.keys() | {"nothing", "hesitates_to_confirm"}


async def test_what_is_broken_is_found(service_factory: ServiceFactory, seed: int) -> None:
    """All of them run at once, and beside them one of which nothing is broken."""

    async def run(name: str, service: ServiceProcess) -> Outcome:
        await asyncio.to_thread(service.start)
        plan = replace(SMALL, seed=seed)
        settle = SETTLE_SECONDS if name in EXPECTED else 60.0
        expected = frozenset({"unavailable", "rate_limited"})
        return await endure(service, plan, crash_once, expected=expected, settle=settle)

    services = {
        name: service_factory(
            {"log": {"level": "warning"}},
            start=False,
            program=("-m", "tests.chaos.broken", name),
        )
        for name in (*EXPECTED, "nothing")
    }
    outcomes = await asyncio.gather(*(run(*each) for each in services.items()))
    found = dict(zip(services, outcomes, strict=True))
    for name, outcome in found.items():
        print(f"{name}: {outcome}")
    assert found["nothing"].verdict.clean, str(found["nothing"])
    missed = {
        name: str(found[name])
        for name, fault in EXPECTED.items()
        if fault not in found[name].verdict.faults
    }
    assert not missed
