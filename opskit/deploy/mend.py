"""Puts back what a deployment left whose opskit died."""

from __future__ import annotations

from opskit import deployments
from opskit.commands import files
from opskit.deploy import secrets
from opskit.deploy.act import Act, InProgress, interrupted
from opskit.deploy.serving import put_back, remove_current, stop_all
from opskit.deploy.step import Step
from opskit.deployments import Action, Outcome, Record
from opskit.layout import release_name


class Mend(Step):
    """Makes the environment as it was before an interrupted deployment, which did not count.

    A deployment that was recorded as good counts, and is only tidied up after. Everything is
    found out by looking, and done such that an opskit that dies in here can be mended after too.
    """

    name = "mend"

    def __init__(self, *, serve: bool = True) -> None:
        self._serve = serve

    def describe(self, act: Act) -> str:
        """Say what the step does."""
        return "put back what an interrupted deployment left"

    def skip(self, act: Act) -> str:
        """There is nothing to mend, mostly."""
        return "" if act.looked.in_progress else "nothing was interrupted"

    def apply(self, act: Act) -> str:
        """Put back, record, and forget."""
        one = InProgress.parse(act.looked.in_progress) or self._guess(act)
        if one is None:
            done = "removed an in-progress.json that nobody can read"
        elif finished(act.record, one.id):
            secrets.discard_backups(act)
            done = f"{release_name(one.release)} had been proven; tidied up after it"
        else:
            done = self._undo(act, one)
        self._tidy(act)
        act.look()
        return done

    def _undo(self, act: Act, one: InProgress) -> str:
        secrets.restore(act)
        name = release_name(one.release)
        if not self._serve:
            done = self._point_back(act, one)
        elif one.before:
            # With the same release on both sides only its secrets changed: it must start anew.
            pid = act.looked.serving.pid if act.looked.serving else 0
            done = put_back(act, one.before, not_pid=pid if one.before == one.release else 0)
            act.mended = one.before
        elif act.action is Action.DEPLOY:
            # Nothing served before it, so the deployment that follows relieves it, or ends it.
            done = self._point_back(act, one)
        else:
            done = stop_all(act)
            remove_current(act)
        reason = f"opskit died in the step {one.step}; {done}"
        deployments.append(
            act.target.executor,
            act.target.layout,
            interrupted(one, reason),
            python=act.target.python,
        )
        return f"{one.record.who} was interrupted in {one.record.action} {name}: {done}"

    def _point_back(self, act: Act, one: InProgress) -> str:
        if one.before:
            target = f"releases/{release_name(one.before)}"
            act.target.executor.check(files.link(target, act.target.layout.current))
            return f"{release_name(one.before)} is current again"
        remove_current(act)
        return "nothing is current, as before"

    def _guess(self, act: Act) -> InProgress | None:
        """Make do without the file's content: whatever is current counts only if it is good."""
        current, good = act.looked.current, act.record.good
        last = act.record.last
        if current is None or last is None or current in good:
            return None
        before = max((number for number in good if number in act.looked.releases), default=None)
        return InProgress(f"{act.id}-mended", current, before, "unknown", last)

    def _tidy(self, act: Act) -> None:
        layout = act.target.layout
        left = [layout.root / path for path in act.looked.incoming]
        act.target.executor.check(files.remove(*left, layout.in_progress))


def finished(record: Record, identity: str) -> bool:
    """Say whether a deployment passed its point of no return."""
    one = record.find(identity)
    return one is not None and one.result is Outcome.GOOD and not record.find(undone_id(identity))


def undone_id(identity: str) -> str:
    """Give the id under which it is recorded that a deployment was undone."""
    return f"{identity}-undone"
