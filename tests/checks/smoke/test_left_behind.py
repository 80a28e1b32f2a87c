"""Whatever becomes of a run, it leaves nothing behind in the service, or says what."""

from __future__ import annotations

import asyncio
import re

import pytest

from checks.smoke import CheckResult, run_smoke
from tests.checks.smoke.target import SETTINGS, target_of
from tests.checks.smoke.traces import connections_gone, workspaces_of
from tests.conftest import ServiceFactory
from tests.service_process import ServiceProcess

BOUND = 30.0
"""Seconds for a delivery: the machine that runs the tests may be busy."""
PATIENCE = 60.0
"""Seconds for an answer."""


@pytest.fixture
def healthy(service_factory: ServiceFactory) -> ServiceProcess:
    """A service configured as the target promises."""
    return service_factory(SETTINGS)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine is that runs the tests."""
    monkeypatch.setattr("checks.smoke.runner.CLEANUP_DEADLINE", PATIENCE)


def slowly(pace: str) -> tuple[str, ...]:
    """Give the program of a service that checks tokens at some pace."""
    return ("-m", "tests.checks.smoke.broken_service", pace)


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


@pytest.mark.parametrize(
    ("pace", "after"),
    [
        ("tokens-checked-in-time", "foreign_origin"),  # by then the users have asked to be let in
        ("tokens-checked-in-time", "client"),  # as some are leaving
        ("tokens-checked-at-leisure", "answers"),
    ],
)
async def test_what_the_service_is_about_to_make_is_not_left_behind(
    pace: str, after: str, service_factory: ServiceFactory, caplog: pytest.LogCaptureFixture
) -> None:
    """Cancelled while the service looks at the tokens of requests that are under way."""
    service = service_factory(SETTINGS, program=slowly(pace))

    await _cancel(service, after)

    assert caplog.messages == []
    token = service.token("someone", "elsewhere")  # let in after all that asked before
    assert service.get("/api/chat/workspace/elsewhere/members", token=token)[0] == 200
    assert workspaces_of(service) == ["elsewhere"]
    await connections_gone(service)


async def test_what_has_no_answer_when_the_run_ends_is_said(
    service_factory: ServiceFactory,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A service that is too slow may make workspaces later; who cancelled is told which."""
    monkeypatch.setattr("checks.smoke.runner.CLEANUP_DEADLINE", 2.0)
    service = service_factory(SETTINGS, program=slowly("tokens-checked-slowly"))

    await _cancel(service, "health")

    (message,) = caplog.messages
    upgrade = r"the upgrade to ws://\S+/workspace/(smoke-[0-9a-f]{8})\S*/connect"
    assert re.fullmatch(
        rf"{upgrade}(?: and [1-9]\d* more requests)? had no answer when the run ended; what "
        rf"{re.escape(service.url)} still makes of that is left behind as \1..., and deleted by: "
        "ctl sweep 60",
        message,
    ), message


async def test_a_run_cancelled_while_it_cleans_up_leaves_nothing_behind(
    healthy: ServiceProcess, caplog: pytest.LogCaptureFixture
) -> None:
    """All is tried and over, and its workspaces are being forgotten: that is seen through, too."""
    target = target_of(healthy)
    assert target.cleanup is not None
    forget, forgotten = target.cleanup, list[str]()

    async def cancelled_at_first(workspace: str) -> None:
        forgotten.append(workspace)
        if len(forgotten) == 1:
            run.cancel()
        await asyncio.sleep(0)
        await forget(workspace)

    run = asyncio.create_task(
        run_smoke(target_of(healthy, cleanup=cancelled_at_first), delivery_bound=BOUND)
    )
    with pytest.raises(asyncio.CancelledError):
        await run

    assert len(forgotten) > 1
    assert caplog.messages == []
    assert workspaces_of(healthy) == []
    await connections_gone(healthy)


async def _cancel(service: ServiceProcess, after: str) -> None:
    """Run the smoke test, and cancel it when this check has its result."""
    reached = asyncio.Event()

    def notice(result: CheckResult) -> None:
        if result.name == after:
            reached.set()

    run = asyncio.create_task(
        run_smoke(target_of(service), on_result=notice, delivery_bound=BOUND, patience=PATIENCE)
    )
    async with asyncio.timeout(PATIENCE):
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
