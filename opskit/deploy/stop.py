"""Stops the service, orderly where it lets itself be stopped so."""

from __future__ import annotations

from opskit import deployments
from opskit.deploy.act import Part
from opskit.deploy.serving import end
from opskit.deploy.step import Order, Step
from opskit.deployments import Outcome
from opskit.failure import Failure
from opskit.layout import release_name


class Stop(Step):
    """Asks the service to stop, ends it when it does not, and records that."""

    name = "stop"
    order = Order.IN_TURN

    def describe(self, part: Part) -> str:
        """Say what the step does."""
        return "ask the service to stop; end it when it does not"

    def apply(self, part: Part) -> str:
        """Stop everything that serves this environment."""
        facts = part.looked
        if not facts.processes:
            part.unchanged = True
            return "nothing was running"
        part.before = facts.serving.release if facts.serving else facts.processes[-1].release
        part.manifest = facts.releases.get(part.before)
        asked = ""
        try:
            part.target.ask(part.before, "ctl", "stop", changes=True)
        except Failure as failure:
            asked = f"; it could not be asked ({failure})"
        ended = end(part, [one.pid for one in facts.processes])
        left = part.target.survey().processes
        if left:
            raise Failure(
                f"pid {', '.join(str(one.pid) for one in left)} still runs",
                hint=f"kill -9 {' '.join(str(one.pid) for one in left)}",
            )
        one = part.deployment(Outcome.GOOD)
        deployments.append(part.target.executor, part.target.layout, one, python=part.target.python)
        part.act.recorded = True
        killed = [str(pid) for pid, outcome in ended.items() if outcome == "killed"]
        said = f"pid {', '.join(killed)} had to be killed" if killed else "stopped in order"
        return f"{release_name(part.before)} {said}{asked}"
