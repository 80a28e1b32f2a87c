"""Writes down what is about to be done, so that a killed opskit can be mended after."""

from __future__ import annotations

from opskit import deployments
from opskit.commands import files
from opskit.deploy.act import Part
from opskit.deploy.mend import undone_id
from opskit.deploy.step import Step
from opskit.deployments import Outcome
from opskit.layout import release_name


class Begin(Step):
    """From here on a later opskit knows what to put back."""

    name = "begin"

    def describe(self, part: Part) -> str:
        """Say what the step does."""
        return "write down what is under way, so that a killed opskit can be mended after"

    def skip(self, part: Part) -> str:
        """Where nothing will change there is nothing to write down."""
        return "nothing changes" if part.unchanged else ""

    def apply(self, part: Part) -> str:
        """Make the directories and write the note."""
        part.target.executor.check(files.make_directories(*part.target.layout.directories))
        part.mark(self.name)
        part.begun = True
        return f"{part.name} in place of {release_name(part.before)}" if part.before else part.name

    def undo(self, part: Part) -> str:
        """Record that it failed, and take the note away; it stays when undoing failed.

        This runs after every later step was undone, so it knows how that went.
        """
        if not part.begun:
            return ""
        switched = any(other.switched for other in part.act.parts)
        outcome = Outcome.UNDONE if switched else Outcome.FAILED
        if part.act.broken:
            outcome = Outcome.BROKEN
        one = part.deployment(outcome, _reason(part))
        target = part.target
        if target.record().find(part.act.id):  # recording it as good was what failed
            one = one.under(undone_id(part.act.id))
        deployments.append(target.executor, target.layout, one, python=target.python)
        if not part.broken:
            target.executor.check(files.remove(target.layout.in_progress))
        return f"recorded as {outcome}"


def _reason(part: Part) -> str:
    """Give what failed, and in which step, in one line."""
    act = part.act
    why = act.failure.partition("\n")[0]
    return f"{act.failed_step}: {why}" if act.failed_step else why
