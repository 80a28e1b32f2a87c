"""Proves, as several users, that the new release works; the gate of every deployment."""

from __future__ import annotations

from opskit.deploy.act import Act
from opskit.deploy.serving import log_lines, wait
from opskit.deploy.step import Step
from opskit.failure import Failure


class SmokeTest(Step):
    """Runs the multi-user smoke test, and sees that the same process still serves after it."""

    name = "smoke"

    def describe(self, act: Act) -> str:
        """Say what the step does."""
        users = act.target.environment.smoke.users
        return f"run the smoke test with {users} users against {act.target.environment.base_url}"

    def skip(self, act: Act) -> str:
        """A person may do without."""
        return "" if act.smoke_gates else "--no-smoke"

    def apply(self, act: Act) -> str:
        """Run it."""
        act.report = report = act.smoke(act)
        if not report.ok:
            names = ", ".join(one.name for one in report.failures) or "no check passed"
            force = f"opskit rollback {act.name} --env {act.target.environment.name} --no-smoke"
            raise Failure(
                f"{act.name} failed {report.failed} of {len(report.results)} smoke checks: {names}",
                hint=f"to let it serve all the same: {force}" if act.before != act.number else "",
                lines=log_lines(act, act.number, act.log_offset, least="warning"),
            )
        after = wait(act, act.number, act.pid, seconds=2.0)
        if after.state != "serving":
            raise Failure(
                f"{act.name} passed the smoke test and does not serve any more: {after.reason}"
            )
        return f"{report.passed} checks passed in {report.seconds:.1f} s"
