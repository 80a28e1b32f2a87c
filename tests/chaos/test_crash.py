"""Killed with -9 again and again under load, while a manager keeps the sockets."""

from __future__ import annotations

import asyncio
import os
from functools import partial
from pathlib import Path

import pytest

from tests.chaos.continuity import continuity
from tests.chaos.disruptions import Disruptions
from tests.chaos.findings import Fault, Finding
from tests.chaos.ordeal import endure
from tests.chaos.plan import Plan
from tests.chatservice.keeper import Keeper
from tests.chatservice.newcomer import launcher
from tests.chatservice.wire import status
from tests.conftest import ServiceFactory
from tests.service_process import REPOSITORY

pytestmark = pytest.mark.slow

CRASHES = int(os.environ.get("CHAOS_CRASHES", "6"))


async def test_crashes_that_most_members_do_not_notice(
    service_factory: ServiceFactory, tmp_path: Path, seed: int
) -> None:
    """Acknowledged is stored, nobody misses anything, and most sockets stay open throughout.

    Who was in the middle of something has to come back, and resumes. A message may come again under
    its old number, where the process died between giving it to members and noting that; a client
    drops it, so no user sees it twice.
    """
    persistent = launcher(
        tmp_path / "persistent.py",
        "import chatservice.recovery\nchatservice.recovery.CRASHES = 1000",
    )
    service = service_factory(
        {"log": {"level": "warning"}},
        start=False,
        program=persistent,
        environment={"PYTHONPATH": str(REPOSITORY)},
    )
    stayed: list[tuple[int, int]] = []
    plan = Plan(users=50, second_devices=10, raw=20, seed=seed)

    async def crash_again_and_again(disruptions: Disruptions) -> None:
        await disruptions.progress(100)
        for _ in range(CRASHES):
            await disruptions.calm(0.5, 1.5)
            await asyncio.to_thread(partial(keeper.kill, idle=False))
            last = (await asyncio.to_thread(status, service))["last_start"]
            assert last["started"] == "crash"
            stayed.append((last["moved"], last["moved"] + last["dropped"]))
        await disruptions.calm(0.5, 1.0)
        keeper.restart = False

    with Keeper(service, tmp_path) as keeper:
        outcome = await endure(service, plan, crash_again_and_again)
    noticed = continuity(outcome.records)
    share = sum(kept for kept, _ in stayed) / sum(total for _, total in stayed)
    print(outcome)
    print(noticed)
    print(f"sockets that stayed open: {share:.1%};", stayed)
    repeated: list[Finding] = []
    wrong: list[Finding] = []
    for finding in outcome.verdict.findings:
        at_the_socket = not finding.where.endswith("(given)")
        allowed = finding.fault is Fault.REPEAT and at_the_socket
        (repeated if allowed else wrong).append(finding)
    print(f"repeated under their old numbers, at sockets: {len(repeated)}")
    assert not wrong, str(outcome)
    assert not outcome.unsettled
    assert share > 0.5
