"""Stops the service, orderly where it lets itself be stopped so."""

from __future__ import annotations

from opskit import deployments
from opskit.deploy.act import Part
from opskit.deploy.serving import end
from opskit.deploy.step import Order, Step
from opskit.deployments import Outcome
from opskit.failure import Failure
from opskit.layout import release_name

DRAIN_SECONDS = 4 * 3600.0
"""How long sending everybody away may take: a million members at 100 a second, and more."""


class Stop(Step):
    """Asks the service to stop, ends it when it does not, and records that.

    Args:
        drain: first send all members away, as slowly as others can take them in.
    """

    name = "stop"
    order = Order.IN_TURN

    def __init__(self, *, drain: bool = False) -> None:
        self._drain = drain

    def describe(self, part: Part) -> str:
        """Say what the step does."""
        first = "send all members away, paced, then " if self._drain else ""
        return f"{first}ask the service to stop; end it when it does not"

    def apply(self, part: Part) -> str:
        """Stop everything that serves this environment."""
        facts = part.looked
        if not facts.processes:
            part.unchanged = True
            return "nothing was running"
        part.before = facts.serving.release if facts.serving else facts.processes[-1].release
        part.manifest = facts.releases.get(part.before)
        asked = ""
        if self._drain:
            drained = part.target.ask(
                part.before, "ctl", "drain", changes=True, timeout=DRAIN_SECONDS
            )
            asked = f"; {drained['drained']} members were sent away in {drained['seconds']:g} s"
        if not part.target.supervisor.unit:  # a unit that ends by itself is started again
            try:
                part.target.ask(part.before, "ctl", "stop", changes=True)
            except Failure as failure:
                asked += f"; it could not be asked ({failure})"
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
