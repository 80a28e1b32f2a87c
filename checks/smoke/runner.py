"""Runs the checks: groups at the same time, each with its own workspace, all within one deadline.

Whatever a check does, the others run, every connection is closed, and every workspace of the run
is forgotten; also when the run is cancelled. That comes last, and only what the service has
answered is over: so nothing is made anew behind it.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any, Final

from checks.smoke.admission import ADMISSION
from checks.smoke.check import Check, CheckFailed, CheckSkipped, Found, Group
from checks.smoke.client import CLIENT
from checks.smoke.isolation import ISOLATION
from checks.smoke.presence import PRESENCE
from checks.smoke.record import CONVERSATION
from checks.smoke.report import CheckResult, Report, Verdict
from checks.smoke.resume import RESUME
from checks.smoke.run import Run
from checks.smoke.service import SERVICE
from checks.smoke.stage import Stage
from checks.smoke.target import WORKSPACE_PREFIX, SmokeTarget, check_base_url
from checks.smoke.unread import UNREAD

GROUPS: Final[tuple[Group[Any], ...]] = (
    SERVICE,
    CONVERSATION,
    UNREAD,
    RESUME,
    PRESENCE,
    ISOLATION,
    CLIENT,
    ADMISSION,
)
DEADLINE: Final = 60.0
PATIENCE: Final = 10.0
CLEANUP_DEADLINE: Final = 10.0
"""Seconds for the answers to come that are under way, and again for forgetting the workspaces."""
CLEANUP_RETRY: Final = 0.1
"""Seconds between two tries: the service may not have noticed yet that everybody left."""
MIN_USERS: Final = 2
PREPARING: Final = "the service's log: its users could not even connect and say a few words"
"""Where the cause is when what comes before a check fails."""

log = logging.getLogger("checks.smoke")


async def run_smoke(
    target: SmokeTarget,
    *,
    users: int = 3,
    delivery_bound: float = 1.0,
    on_result: Callable[[CheckResult], None] | None = None,
    nodes: Sequence[str] = (),
    deadline: float = DEADLINE,
    patience: float = PATIENCE,
) -> Report:
    """Prove with several simulated users that a chat service keeps its promises.

    Cancelled, it cleans up before it ends, and logs what it has to leave. Cancelled once more, it
    ends at once.

    Args:
        target: the service.
        users: how many users talk to each other; at least 2.
        delivery_bound: seconds within which a message must reach everybody.
        on_result: called with each result as soon as there is one.
        nodes: base URLs over which the connections are spread; the target's own unless given.
        deadline: seconds after which whatever still runs has failed; the target's grace period,
            which has to pass in any case, comes on top.
        patience: seconds to wait for an answer that has no bound of its own.

    Raises:
        ValueError: fewer than 2 users, or a node that is no base URL.
    """
    if users < MIN_USERS:
        raise ValueError(f"at least {MIN_USERS} users are needed to talk, not {users}")
    for node in nodes:
        check_base_url(node)
    begun = time.monotonic()
    run = Run(
        target,
        users=users,
        delivery_bound=delivery_bound,
        nodes=tuple(nodes) or (target.base_url,),
        patience=patience,
        workspace=WORKSPACE_PREFIX + secrets.token_hex(4),
    )
    ends = asyncio.get_running_loop().time() + deadline + target.presence_grace
    outcome = _Outcome(run, ends, f"{deadline + target.presence_grace:g} s", on_result)
    try:
        await outcome.of_all(GROUPS)
        warnings = await _clean_up(run)
    except BaseException:
        for warning in await _clean_up(run):
            log.warning("%s", warning)
        raise
    return Report(
        url=target.base_url,
        workspace=run.workspace,
        users=users,
        results=outcome.in_order(GROUPS),
        seconds=time.monotonic() - begun,
        warnings=tuple(warnings),
    )


class _Outcome:
    """The results of a run as they come in, and who waits for which."""

    def __init__(
        self,
        run: Run,
        ends: float,
        limit: str,
        on_result: Callable[[CheckResult], None] | None,
    ) -> None:
        self._run = run
        self._ends = ends
        self._limit = limit
        self._on_result = on_result
        self._results: dict[str, asyncio.Future[CheckResult]] = {}
        self._prepared: dict[str, asyncio.Event] = {}

    async def of_all(self, groups: Sequence[Group[Any]]) -> None:
        """Run all groups at the same time."""
        loop = asyncio.get_running_loop()
        for group in groups:
            self._prepared[group.name] = asyncio.Event()
            for check in group.checks:
                self._results[check.name] = loop.create_future()
        async with asyncio.TaskGroup() as tasks:
            for group in groups:
                tasks.create_task(self._of_group(group))

    def in_order(self, groups: Sequence[Group[Any]]) -> tuple[CheckResult, ...]:
        """Give all results in the order in which the checks are listed."""
        return tuple(
            self._results[check.name].result() for group in groups for check in group.checks
        )

    async def _of_group(self, group: Group[Any]) -> None:
        try:
            if group.after:
                await self._prepared[group.after].wait()
            await self._of_group_now(group)
        finally:
            self._prepared[group.name].set()

    async def _of_group_now(self, group: Group[Any]) -> None:
        if reason := await self._unmet(group.needs):
            for check in group.checks:
                self._settle(check, "skipped", 0.0, Found(reason))
            return
        async with AsyncExitStack() as stack:
            stage: Stage = await stack.enter_async_context(group.stage(self._run, group.name))
            first, *others = group.checks
            begun = time.perf_counter()
            verdict, found = await self._verdict(stage.prepare(), look_at=PREPARING)
            self._prepared[group.name].set()
            if verdict != "passed":
                self._settle(first, verdict, time.perf_counter() - begun, found)
                for check in others:
                    reason = f"it needs the connections that `{first.name}` could not make"
                    self._settle(check, "skipped", 0.0, Found(reason))
                return
            if group.at_once:
                async with asyncio.TaskGroup() as tasks:
                    for check in group.checks:
                        tasks.create_task(self._of_check(check, stage))
            else:
                for check in group.checks:
                    await self._of_check(check, stage)

    async def _of_check(self, check: Check[Any], stage: Stage) -> None:
        if reason := await self._unmet(check.needs):
            self._settle(check, "skipped", 0.0, Found(reason))
            return
        begun = time.perf_counter()
        verdict, found = await self._verdict(check.run(stage), look_at=check.look_at)
        self._settle(check, verdict, time.perf_counter() - begun, found)

    async def _unmet(self, needs: Sequence[str]) -> str:
        """Wait for the checks that are needed; say which of them did not pass."""
        for name in needs:
            result = await asyncio.shield(self._results[name])
            if result.verdict == "failed":
                return f"it needs `{name}`, which failed"
            if result.verdict == "skipped":
                return result.detail  # the cause, not the chain that led here
        return ""

    async def _verdict(self, work: Awaitable[Any], *, look_at: str) -> tuple[Verdict, Found]:
        """Await what a check does, and make a verdict of how it ends."""
        try:
            async with asyncio.timeout_at(self._ends) as limit:
                found = await work
        except CheckSkipped as reason:
            return "skipped", Found(str(reason))
        except CheckFailed as failure:
            return "failed", Found(f"{failure}; look at {look_at}")
        except Exception as error:
            if not limit.expired():
                return "failed", Found(
                    f"the check itself broke: {type(error).__name__}: {error}; look at {look_at}"
                )
            waiting = "; ".join(
                device.waiting_for for device in self._run.devices if device.waiting_for
            )
            return "failed", Found(
                f"not done when the time for all checks, {self._limit}, was over"
                + (f"; waiting: {waiting}" if waiting else "")
                + f"; look at {look_at}"
            )
        return "passed", found or Found("")

    def _settle(self, check: Check[Any], verdict: Verdict, seconds: float, found: Found) -> None:
        result = CheckResult(
            check.name, check.title, verdict, round(seconds, 4), found.detail, dict(found.measured)
        )
        self._results[check.name].set_result(result)
        if self._on_result is not None:
            self._on_result(result)


async def _clean_up(run: Run) -> list[str]:
    """Close all connections, and have the workspaces of the run deleted.

    Returns:
        A warning for each workspace that is left, and one where more may appear.
    """
    target = run.target
    unanswered = await run.close(CLEANUP_DEADLINE if target.cleanup else 0.0)
    if target.cleanup is None:
        return []
    outcomes = await asyncio.gather(*(_forget_one(target, name) for name in run.touched))
    warnings = [warning for warning in outcomes if warning]
    if unanswered:
        warnings.append(
            f"{unanswered[0]}"
            + (f" and {len(unanswered) - 1} more requests" if unanswered[1:] else "")
            + f" had no answer when the run ended; what {target.base_url} still makes of that is "
            f"left behind as {run.workspace}..., and deleted by: ctl sweep 60"
        )
    return warnings


async def _forget_one(target: SmokeTarget, workspace: str) -> str:
    """Try until it works or the time is over; say why it did not."""
    assert target.cleanup is not None
    why = "no answer"
    try:
        async with asyncio.timeout(CLEANUP_DEADLINE):
            while True:
                try:
                    await target.cleanup(workspace)
                except Exception as error:
                    why = str(error) or type(error).__name__
                else:
                    return ""
                await asyncio.sleep(CLEANUP_RETRY)
    except TimeoutError:
        return f"workspace {workspace} is left behind in {target.base_url}: {why}"
