"""The smoke test against the real service as it should be: all green, and nothing left behind."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from typing import Any

import pytest

from checks.smoke import CheckResult, Report, run_smoke
from checks.smoke.runner import GROUPS
from tests.checks.smoke.target import SETTINGS, target_of
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


def workspaces_of(service: ServiceProcess) -> list[str]:
    """Read from the database itself which workspaces there are."""
    with closing(sqlite3.connect(service.settings.database)) as database:
        rows = database.execute("SELECT DISTINCT name FROM workspaces").fetchall()
    return [name for (name,) in rows]


async def connections_gone(service: ServiceProcess) -> None:
    """Wait until the service counts no connection."""
    async with asyncio.timeout(20):
        while "\nchat_connections 0.0\n" not in service.get("/metrics", admin=True)[1]:
            await asyncio.sleep(0.02)


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


# --- what is left behind ------------------------------------------------------------------


async def test_a_failed_cleanup_is_a_warning_and_no_failure(
    healthy: ServiceProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service works; that its workspaces stay is said, with the reason, and no more."""
    monkeypatch.setattr("checks.smoke.runner.CLEANUP_DEADLINE", 0.3)

    async def refuse(workspace: str) -> None:
        raise PermissionError(f"not allowed to forget {workspace}")

    report = await run_smoke(target_of(healthy, cleanup=refuse), delivery_bound=BOUND)

    assert report.ok
    left = workspaces_of(healthy)
    assert sorted(report.warnings) == sorted(
        f"workspace {name} is left behind in {healthy.url}: not allowed to forget {name}"
        for name in left
    )
    assert all(name.startswith(report.workspace) for name in left)


async def test_a_cleanup_that_fails_at_first_is_tried_again(healthy: ServiceProcess) -> None:
    """The service may need a moment to notice that everybody left."""
    target = target_of(healthy)
    assert target.cleanup is not None
    forget, refused = target.cleanup, set[str]()

    async def second_time(workspace: str) -> None:
        if workspace not in refused:
            refused.add(workspace)
            raise RuntimeError("it has members")
        await forget(workspace)

    report = await run_smoke(target_of(healthy, cleanup=second_time), delivery_bound=BOUND)

    assert report.warnings == ()
    assert workspaces_of(healthy) == []


async def test_without_a_cleanup_the_workspaces_stay(healthy: ServiceProcess) -> None:
    """A caller without access to the host leaves them to the service's own sweep."""
    report = await run_smoke(target_of(healthy, cleanup=None), delivery_bound=BOUND)

    assert report.ok
    assert report.warnings == ()
    assert report.workspace in workspaces_of(healthy)


@pytest.mark.parametrize("after", ["answers", "connect", "delivery", "resume"])
async def test_a_cancelled_run_leaves_nothing_behind(after: str, healthy: ServiceProcess) -> None:
    """Wherever it is interrupted, the connections are closed and the workspaces forgotten."""
    await _cancel(healthy, after)

    assert workspaces_of(healthy) == []
    await connections_gone(healthy)


async def test_what_the_service_is_about_to_make_is_not_left_behind(
    service_factory: ServiceFactory,
) -> None:
    """Cancelled while the service looks at the tokens of requests that are under way."""
    program = ("-m", "tests.checks.smoke.broken_service", "tokens-checked-in-time")
    service = service_factory(SETTINGS, program=program)

    await _cancel(service, "foreign_origin")  # by then the users have asked to be let in

    token = service.token("someone", "elsewhere")  # let in after all that asked before
    assert service.get("/api/chat/workspace/elsewhere/members", token=token)[0] == 200
    assert workspaces_of(service) == ["elsewhere"]
    await connections_gone(service)


async def _cancel(service: ServiceProcess, after: str) -> None:
    """Run the smoke test, and cancel it when this check has its result."""
    reached = asyncio.Event()

    def notice(result: CheckResult) -> None:
        if result.name == after:
            reached.set()

    run = asyncio.create_task(run_smoke(target_of(service), on_result=notice))
    async with asyncio.timeout(30):
        await reached.wait()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run


async def test_an_error_of_the_caller_leaves_nothing_behind(healthy: ServiceProcess) -> None:
    """An `on_result` that raises ends the run; what it made is removed all the same."""

    def fail(result: CheckResult) -> None:
        if result.name == "delivery":
            raise KeyError(result.name)

    with pytest.raises(ExceptionGroup) as caught:
        await run_smoke(target_of(healthy), on_result=fail)

    assert caught.value.subgroup(KeyError) is not None
    assert workspaces_of(healthy) == []
    await connections_gone(healthy)


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
