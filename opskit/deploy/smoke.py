"""Proves, as several users, that the new release works; the gate of every deployment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from opskit.deploy.act import Part
from opskit.deploy.serving import log_lines, wait
from opskit.deploy.step import Order, Step
from opskit.facts import Facts
from opskit.failure import Failure

if TYPE_CHECKING:
    from checks.smoke import Report


class SmokeTest(Step):
    """Runs the multi-user smoke test, and sees that the same process still serves after it."""

    name = "smoke"
    order = Order.ONCE

    def describe(self, part: Part) -> str:
        """Say what the step does."""
        environment = part.act.environment
        where = ", ".join(environment.node_urls)
        return f"run the smoke test with {environment.smoke.users} users against {where}"

    def skip(self, part: Part) -> str:
        """A person may do without; and nobody can send anything to a store without room."""
        if not part.act.smoke_gates:
            return "--no-smoke"
        full = [one for one in part.act.parts if one.after and _is_full(one, one.after)]
        if full:
            part.act.warnings.append(_unproven(full))
            return "its disk is full"
        return ""

    def apply(self, part: Part) -> str:
        """Run it."""
        part.act.report = report = part.act.smoke(part.act)
        if not report.ok and (full := [one for one in part.act.parts if _is_full(one)]):
            part.act.report = None  # it says nothing of the release
            part.act.warnings.append(_unproven(full))
            return "given up: its disk is full"
        if not report.ok:
            names = ", ".join(one.name for one in report.failures) or "no check passed"
            force = f"opskit rollback {part.name} --env {part.target.environment.name} --no-smoke"
            raise Failure(
                f"{part.name} failed {report.failed} of {len(report.results)} smoke checks: "
                f"{names}",
                hint=_way_there(part, report) or f"to let it serve all the same: {force}"
                if part.act.before != part.number and not part.act.moving  # on a copy, by now old
                else "",
                lines=[line for one in part.act.parts for line in _complaints(one)],
            )
        part.act.each(_still_serves)
        return f"{report.passed} checks passed in {report.seconds:.1f} s"


def _way_there(part: Part, report: Report) -> str:
    """Say where to look when a release that is ready on its host is not reached by clients."""
    if part.target.environment.target == "local" or "answers" not in (
        one.name for one in report.failures
    ):
        return ""
    name = part.target.environment.name
    return (
        f"opskit check {name} looks at the way there: address, proxy, certificate (a new `url` is "
        f"brought there by opskit provision {name})"
    )


def _is_full(part: Part, facts: Facts | None = None) -> bool:
    """Say whether a release that may do so serves without room to write."""
    if not part.act.takes_a_full_disk:
        return False
    serving = (facts or part.target.survey()).serving
    return serving is not None and serving.full


def _unproven(full: Sequence[Part]) -> str:
    """Say that the release was not tested, and what a person does."""
    where = ", ".join(part.target.name for part in full)
    act = full[0].act
    return (
        f"{act.name} is not proven: {where} has no room for the store: members stay connected and "
        f"read, and nobody can send. Make room; it then recovers by itself, and is tested with: "
        f"opskit smoke {act.environment.name}"
    )


def _complaints(part: Part) -> list[str]:
    lines = log_lines(part, part.number, part.log_mark, least="warning")
    return [f"{part.node}: {line}" if part.node else line for line in lines]


def _still_serves(part: Part) -> None:
    after = wait(part, part.number, part.pid, seconds=2.0)
    where = f"{part.node}: " if part.node else ""
    if after.pid not in (0, part.pid) and after.reason.startswith(f"{part.name} "):
        raise Failure(
            f"{where}{part.name} passed the smoke test, and is another process by now (pid "
            f"{after.pid}, not {part.pid}): it ended meanwhile, or the host was rebooted"
        )
    if after.state != "serving":
        raise Failure(
            f"{where}{part.name} passed the smoke test and does not serve any more: {after.reason}"
        )
