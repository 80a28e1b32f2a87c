"""Deploys and rollbacks on a real host, under load through its proxy: nobody notices.

The suite does four acts under 200 clients. HOSTS_CLIENTS=2000 HOSTS_RATE=200 HOSTS_ROUNDS=10 does
ten deploys and ten rollbacks under 2,000.
"""

from __future__ import annotations

import os
from uuid import uuid4

import pytest
import uvloop

from tests.chaos.conftest import seed as seed
from tests.chaos.findings import Fault
from tests.chaos.plan import Plan
from tests.hosts.conftest import HostSites
from tests.hosts.site import HostSite
from tests.hosts.under_load import Deed, Judgement, act_under_load

pytestmark = pytest.mark.slow

CLIENTS = int(os.environ.get("HOSTS_CLIENTS", "200"))
RATE = float(os.environ.get("HOSTS_RATE", "100"))
NODES_CLIENTS = int(os.environ.get("HOSTS_CLIENTS", "60"))
NODES_RATE = float(os.environ.get("HOSTS_RATE", "40"))
"""Where three hosts share what this machine can do."""
ROUNDS = int(os.environ.get("HOSTS_ROUNDS", "0"))
FAILING_ROUNDS = (2, 5, 8)
"""The rounds whose deploy brings a release that fails its smoke test."""
CRASH_CALM = 32.0 if ROUNDS else 3.0
"""Seconds between two kills: a fourth in a row within half a minute each is taken for a loop."""
SHORT = (Deed.DEPLOY, Deed.FAILING, Deed.ROLLBACK, Deed.FAILING)


def deeds() -> tuple[Deed, ...]:
    """Give what is done: four acts, or as many rounds of a deploy and a rollback as asked for."""
    if not ROUNDS:
        return SHORT
    rounds = (
        (Deed.FAILING if number in FAILING_ROUNDS else Deed.DEPLOY, Deed.ROLLBACK)
        for number in range(1, ROUNDS + 1)
    )
    return tuple(deed for each in rounds for deed in each)


def plan(seed: int, clients: int = CLIENTS, rate: float = RATE, rooms: str = "w") -> Plan:
    """Twenty to a workspace; a fifth of them on the websockets library alone."""
    return Plan(
        workspaces=clients // 20,
        users=clients * 7 // 10,
        second_devices=clients // 10,
        raw=clients // 5,
        walkers=4,
        quitters=2,
        rate=rate,
        seed=seed,
        rooms=rooms,
    )


@pytest.fixture(scope="session")
def event_loop_policy() -> uvloop.EventLoopPolicy:
    """2,000 members over TLS in one process: on uvloop that takes a third of the CPU."""
    return uvloop.EventLoopPolicy()


async def test_nobody_notices_deploys_and_rollbacks(
    host_site: HostSites, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing acknowledged is lost, doubled or out of order, and no connection ends."""
    site = host_site(settings={"limits": {"connections_per_user": 100}})
    wanted = deeds()
    outcome = await act_under_load(site, plan(seed), wanted, patch=monkeypatch)
    print(outcome)
    for one in outcome.done:
        assert one.status == (1 if one.deed is Deed.FAILING else 0), f"{one.deed}:\n{one.said}"
        assert ("smoke checks: preflight" in one.said) == (one.deed is Deed.FAILING), one.said
    assert outcome.verdict.clean, str(outcome)
    assert not outcome.unsettled
    assert outcome.verdict.looked_at["messages stored"] >= 1000
    assert (outcome.noticed.closed, outcome.noticed.unfounded) == (0, 0)
    assert [way for way, _ in outcome.ways] == ["handover"] * len(wanted)
    assert all(moved >= CLIENTS - 8 for _, moved in outcome.ways)
    strangers = outcome.strangers
    assert strangers.stayed, strangers.ended
    assert strangers.sent >= 10
    every = list(range(1, strangers.sent + 1))
    assert list(strangers.seen) == [every, every]


async def test_crashes_leave_most_sockets_open_and_nothing_is_missed(
    host_site: HostSites, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kept by systemd: acknowledged is stored, and everybody is brought up to date.

    A message may come again under its old number, which clients drop.
    """
    site = host_site(settings={"limits": {"connections_per_user": 100}})
    wanted = (Deed.KILL,) * (ROUNDS or 2)
    outcome = await act_under_load(site, plan(seed), wanted, patch=monkeypatch, calm=CRASH_CALM)
    print(outcome)
    assert_little_was_noticed(outcome, len(wanted))


async def test_crashes_of_one_node_after_the_other(
    three: HostSite, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three hosts on one PostgreSQL: what is true of one is true of all, and no user is said to go.

    The others hear of the crash of a node from nobody; its successor tells them whom it has.
    """
    wanted = (Deed.KILL,) * (ROUNDS or len(three.hosts))
    load = plan(seed, NODES_CLIENTS, NODES_RATE, rooms=f"{uuid4().hex[:8]}-")
    before = three.serving
    calm = CRASH_CALM / len(three.hosts)
    outcome = await act_under_load(three, load, wanted, patch=monkeypatch, calm=calm)
    print(outcome)
    assert_little_was_noticed(outcome, len(wanted))
    assert {one.where for one in outcome.crashes} == {host.name for host in three.hosts}
    assert outcome.noticed.unfounded == 0, str(outcome)
    assert three.serving == before


def assert_little_was_noticed(outcome: Judgement, crashes: int) -> None:
    """See that nothing was lost or missed, and that most sockets stayed open."""
    assert [one.status for one in outcome.done] == [0] * crashes
    assert [one.how for one in outcome.crashes] == ["crash"] * crashes
    wrong = [
        finding
        for finding in outcome.verdict.findings
        if finding.fault is not Fault.REPEAT or finding.where.endswith("(given)")
    ]
    assert not wrong, str(outcome)
    assert not outcome.unsettled
    assert outcome.kept > 0.5, str(outcome)
