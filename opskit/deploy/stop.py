"""Stops the service, orderly where it lets itself be stopped so."""

from __future__ import annotations

from opskit import deployments
from opskit.deploy.act import Act
from opskit.deploy.serving import end
from opskit.deploy.step import Step
from opskit.deployments import Outcome
from opskit.failure import Failure
from opskit.layout import release_name


class Stop(Step):
    """Asks the service to stop, ends it when it does not, and records that."""

    name = "stop"

    def describe(self, act: Act) -> str:
        """Say what the step does."""
        return "ask the service to stop; end it when it does not"

    def apply(self, act: Act) -> str:
        """Stop everything that serves this environment."""
        facts = act.looked
        if not facts.processes:
            act.unchanged = True
            return "nothing was running"
        act.before = facts.serving.release if facts.serving else facts.processes[-1].release
        act.manifest = facts.releases.get(act.before)
        asked = ""
        try:
            act.target.ask(act.before, "ctl", "stop", changes=True)
        except Failure as failure:
            asked = f"; it could not be asked ({failure})"
        ended = end(act, [one.pid for one in facts.processes])
        left = act.target.survey().processes
        if left:
            raise Failure(
                f"pid {', '.join(str(one.pid) for one in left)} still runs",
                hint=f"kill -9 {' '.join(str(one.pid) for one in left)}",
            )
        one = act.deployment(Outcome.GOOD)
        deployments.append(act.target.executor, act.target.layout, one, python=act.target.python)
        act.recorded = True
        killed = [str(pid) for pid, outcome in ended.items() if outcome == "killed"]
        said = f"pid {', '.join(killed)} had to be killed" if killed else "stopped in order"
        return f"{release_name(act.before)} {said}{asked}"
