"""The smoke test against the real service as it should be: all green, and nothing left behind."""

from __future__ import annotations

from typing import Any

import pytest

from checks.smoke import CheckResult, Report, run_smoke
from checks.smoke.runner import GROUPS
from tests.checks.smoke.target import SETTINGS, target_of
from tests.checks.smoke.traces import connections_gone, workspaces_of
from tests.conftest import ServiceFactory
from tests.service_process import ServiceProcess

NAMES = tuple(check.name for group in GROUPS for check in group.checks)
BOUND = 30.0
"""Seconds for a delivery: the machine that runs the tests may be busy."""


@pytest.fixture
def healthy(service_factory: ServiceFactory) -> ServiceProcess:
    """A service configured as the target promises."""
    return service_factory(SETTINGS)


@pytest.fixture
def stopped(service_factory: ServiceFactory) -> ServiceProcess:
    """The same, not started."""
    return service_factory(SETTINGS, start=False)


def verdicts(report: Report) -> dict[str, str]:
    """Give the verdict of each check, with the detail where it did not pass."""
    return {
        result.name: result.verdict if result.verdict == "passed" else result.detail
        for result in report.results
    }


@pytest.mark.parametrize("users", [2, 3, 8])
async def test_a_healthy_service_passes_every_check(users: int, healthy: ServiceProcess) -> None:
    """All checks pass with 2, 3 and 8 users, and the service is left as it was."""
    report = await run_smoke(target_of(healthy), users=users, delivery_bound=BOUND)

    assert verdicts(report) == dict.fromkeys(NAMES, "passed")
    assert (report.ok, report.passed, report.failed, report.skipped) == (True, len(NAMES), 0, 0)
    assert report.users == users
    assert report.warnings == ()
    assert workspaces_of(healthy) == []
    await connections_gone(healthy)


async def test_each_result_is_reported_as_soon_as_there_is_one(healthy: ServiceProcess) -> None:
    """`on_result` gets every result once, before the run is over."""
    told: list[CheckResult] = []

    report = await run_smoke(target_of(healthy), on_result=told.append, delivery_bound=BOUND)

    assert len(told) == len(NAMES)
    assert sorted(told, key=lambda one: NAMES.index(one.name)) == list(report.results)
    assert told[0].name == "answers"


async def test_deliveries_and_the_grace_period_are_measured(healthy: ServiceProcess) -> None:
    """The times are in `measured`, and the detail says them."""
    report = await run_smoke(target_of(healthy), delivery_bound=BOUND)

    results = {result.name: result for result in report.results}
    delivery = results["delivery"].measured
    assert 0 < delivery["median_ms"] <= delivery["max_ms"] < BOUND * 1000
    assert results["delivery"].detail.startswith("6 deliveries, median ")
    assert 0.99 <= results["offline"].measured["offline_s"] < BOUND


async def test_without_an_allow_list_the_foreign_origin_is_skipped(
    service_factory: ServiceFactory,
) -> None:
    """Where any origin is allowed, there is no foreign one; the rest is checked all the same."""
    service = service_factory(SETTINGS | {"auth": {}})

    report = await run_smoke(target_of(service), delivery_bound=BOUND)

    assert verdicts(report) == dict.fromkeys(NAMES, "passed") | {
        "foreign_origin": "this environment allows any origin"
    }
    assert report.ok


async def test_without_a_grace_period_a_short_absence_is_skipped(
    service_factory: ServiceFactory,
) -> None:
    """Without a grace period whoever leaves is offline at once, and a blink shows."""
    service = service_factory(SETTINGS | {"timing": {"presence_grace": 0}})

    report = await run_smoke(target_of(service), delivery_bound=BOUND)

    assert verdicts(report) == dict.fromkeys(NAMES, "passed") | {
        "short_absence": "this environment has no grace period"
    }


@pytest.mark.parametrize(("keep", "skipped"), [(7, {"resume"}), (3, {"resume", "unread"})])
async def test_a_short_history_is_what_is_expected(
    keep: int, skipped: set[str], service_factory: ServiceFactory
) -> None:
    """Where fewer messages are kept than the checks write, they expect just those."""
    history = {"keep": keep, "newest": 2, "page": 3}
    service = service_factory(SETTINGS | {"history": history})

    report = await run_smoke(target_of(service), delivery_bound=BOUND)

    assert report.failures == ()
    names = {result.name for result in report.results if result.verdict == "skipped"}
    assert skipped <= names <= {"resume", "unread", "unread_devices", "unread_offline"}


async def test_connections_are_spread_over_the_nodes(healthy: ServiceProcess) -> None:
    """With two addresses of one service, all of it works across them."""
    nodes = [healthy.url, f"http://localhost:{healthy.port}"]

    report = await run_smoke(target_of(healthy), nodes=nodes, delivery_bound=BOUND)

    assert verdicts(report) == dict.fromkeys(NAMES, "passed")


@pytest.mark.parametrize("users", [-1, 0, 1])
async def test_one_user_is_not_enough(users: int, stopped: ServiceProcess) -> None:
    """A multi-user test needs two."""
    with pytest.raises(ValueError, match=f"at least 2 users are needed.*not {users}"):
        await run_smoke(target_of(stopped), users=users)


@pytest.mark.parametrize("url", ["", "127.0.0.1:80", "ws://127.0.0.1", "http://", "ftp://a.b"])
async def test_what_is_no_base_url_is_refused(url: str, stopped: ServiceProcess) -> None:
    """The address is checked before anything is tried."""
    with pytest.raises(ValueError, match=r"is no base URL; expected http\(s\)://host"):
        target_of(stopped, base_url=url)
    with pytest.raises(ValueError, match=r"is no base URL; expected http\(s\)://host"):
        await run_smoke(target_of(stopped), nodes=[url])


async def test_a_check_that_breaks_by_itself_fails_alone(
    healthy: ServiceProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug in one check is that check's failure; all others have their own verdict."""
    from checks.smoke.conversation import typing

    async def broken(_: Any) -> Any:
        raise KeyError("no such key")

    monkeypatch.setitem(typing.__dict__, "run", broken)

    report = await run_smoke(target_of(healthy), delivery_bound=BOUND)

    failed = {result.name: result.detail for result in report.failures}
    assert failed == {
        "typing": "the check itself broke: KeyError: 'no such key'; look at the service's log"
    }
