"""Records the deployment: the point of no return."""

from __future__ import annotations

from dataclasses import replace

from opskit import deployments
from opskit.deploy.act import Part
from opskit.deploy.step import Order, Step
from opskit.deployments import Outcome


class RecordIt(Step):
    """One line in the record, on disk; only now the deployment counts."""

    name = "record"
    order = Order.IN_TURN

    def describe(self, part: Part) -> str:
        """Say what the step does."""
        return "record it; from here on it counts, and is not undone"

    def skip(self, part: Part) -> str:
        """What changed nothing is no deployment."""
        return "nothing changed" if part.act.unchanged else ""

    def apply(self, part: Part) -> str:
        """Append to the record."""
        one = part.deployment(Outcome.GOOD)
        deployments.append(part.target.executor, part.target.layout, one, python=part.target.python)
        part.record = replace(part.record, deployments=(*part.record.deployments, one))
        part.act.recorded = True
        return ""
