"""Records the deployment: the point of no return."""

from __future__ import annotations

from opskit import deployments
from opskit.deploy.act import Act
from opskit.deploy.step import Step
from opskit.deployments import Outcome


class RecordIt(Step):
    """One line in the record, on disk; only now the deployment counts."""

    name = "record"

    def describe(self, act: Act) -> str:
        """Say what the step does."""
        return "record it; from here on it counts, and is not undone"

    def skip(self, act: Act) -> str:
        """What changed nothing is no deployment."""
        return "nothing changed" if act.unchanged else ""

    def apply(self, act: Act) -> str:
        """Append to the record."""
        one = act.deployment(Outcome.GOOD)
        deployments.append(act.target.executor, act.target.layout, one, python=act.target.python)
        act.recorded = True
        return ""
