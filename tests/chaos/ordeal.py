"""One run from the first connection to the verdict: load, disruptions, rest, judgement."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests.chaos.checker import Rules, Stored, Verdict, check
from tests.chaos.disruptions import Disruptions
from tests.chaos.history import Record
from tests.chaos.load import Load
from tests.chaos.plan import Plan, person_name
from tests.chaos.sources import read_api, read_as_client, read_database
from tests.chaos.summary import errors_in, summary
from tests.service_process import ServiceProcess

TOKEN_SECONDS = 600.0


@dataclass(frozen=True, repr=False)
class Outcome:
    """What came of a run.

    Attributes:
        verdict: what the checker found.
        summary: what the run was like, in one line.
        errors: the error frames that came, by code.
        timeline: what was done to the service, and when, in seconds from the beginning.
        unsettled: what was still not as it should be when the wait for it ended.
        records: every device's history.
    """

    verdict: Verdict
    summary: str
    errors: Counter[str]
    timeline: list[tuple[float, str]]
    unsettled: str
    records: list[Record]

    def __str__(self) -> str:
        done = ", ".join(f"{what} at {at:.1f} s" for at, what in self.timeline)
        lines = [self.summary, done, f"verdict: {self.verdict}"]
        return "\n".join([*lines, *([f"unsettled: {self.unsettled}"] if self.unsettled else [])])


async def endure(
    service: ServiceProcess,
    plan: Plan,
    disrupt: Callable[[Disruptions], Awaitable[None]],
    *,
    expected: frozenset[str] = frozenset({"rate_limited"}),
    settle: float = 60.0,
) -> Outcome:
    """Put a running service under load, disrupt it, let it settle, stop it, and judge.

    Args:
        service: one process; it runs, and is stopped at the end.
        plan: the load. Its seed decides the disruptions' random choices, too.
        disrupt: what goes wrong; the load lasts as long as this does.
        expected: codes of the error frames that the disruptions account for. What has piled up
            during an outage may meet the rate limit in any run.
        settle: seconds that everything may take to be as it should be, at the end.
    """
    load = Load([service.url], lambda *who: token(service, *who), plan)
    disruptions = Disruptions(service, plan.seed, load.records)
    async with load:
        await disrupt(disruptions)
        unsettled = await load.quiesce(settle)
    stored = await read_everything(service, load.records)
    rules = Rules(
        grace=service.settings.timing.presence_grace,
        keep=service.settings.history.keep,
        skew=max(0.5, 2 * load.skew),
        errors=expected,
    )
    verdict = check(load.records, stored, rules)
    errors = errors_in(load.records)
    return Outcome(
        verdict,
        summary(load.records, disruptions.done + errors),
        errors,
        disruptions.timeline,
        unsettled,
        load.records,
    )


def token(service: ServiceProcess, user: str, workspace: str, name: str) -> str:
    """Sign in a user of the load."""
    return service.token(user, workspace, name=name, ttl=TOKEN_SECONDS)


async def read_everything(service: ServiceProcess, records: list[Record]) -> list[Stored]:
    """Read every workspace in every way, and stop the service; the file comes first."""
    members = {record.workspace: record.user for record in records}
    told: list[Stored] = []
    for workspace, user in sorted(members.items()):
        signed = token(service, user, workspace, person_name(user))
        told.append(await read_as_client(service.url, workspace, signed))
        told.append(await asyncio.to_thread(read_api, service.url, workspace, signed))
    await asyncio.to_thread(service.stop)
    settings = service.settings
    kept = read_database(settings.database, sorted(members), keep=settings.history.keep)
    return [*kept, *told]
