"""Writes down what is about to be done, so that a killed opskit can be mended after."""

from __future__ import annotations

from opskit import deployments
from opskit.commands import files
from opskit.deploy.act import Act
from opskit.deploy.mend import undone_id
from opskit.deploy.step import Step
from opskit.deployments import Outcome
from opskit.layout import release_name


class Begin(Step):
    """From here on a later opskit knows what to put back."""

    name = "begin"

    def describe(self, act: Act) -> str:
        """Say what the step does."""
        return "write down what is under way, so that a killed opskit can be mended after"

    def skip(self, act: Act) -> str:
        """Where nothing will change there is nothing to write down."""
        return "nothing changes" if act.unchanged else ""

    def apply(self, act: Act) -> str:
        """Make the directories and write the note."""
        act.target.executor.check(files.make_directories(*act.target.layout.directories))
        act.mark(self.name)
        act.begun = True
        return f"{act.name} in place of {release_name(act.before)}" if act.before else act.name

    def undo(self, act: Act) -> str:
        """Record that it failed, and take the note away; it stays when undoing failed.

        This runs after every later step was undone, so it knows how that went.
        """
        if not act.begun:
            return ""
        if act.broken:
            outcome = Outcome.BROKEN
        else:
            outcome = Outcome.UNDONE if act.switched else Outcome.FAILED
        one = act.deployment(outcome, act.failure.splitlines()[0] if act.failure else "")
        target = act.target
        if target.record().find(act.id):  # recording it as good was what failed
            one = one.under(undone_id(act.id))
        deployments.append(target.executor, target.layout, one, python=target.python)
        if not act.broken:
            target.executor.check(files.remove(target.layout.in_progress))
        return f"recorded as {outcome}"
