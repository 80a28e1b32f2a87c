"""Puts back what a deployment left whose opskit died."""

from __future__ import annotations

from dataclasses import replace

from opskit import deployments
from opskit.commands import files
from opskit.deploy import secrets
from opskit.deploy.act import InProgress, Part, interrupted
from opskit.deploy.serving import put_back, remove_current, stop_all
from opskit.deploy.step import Order, Step
from opskit.deployments import Action, Outcome, Record
from opskit.layout import release_name


class Mend(Step):
    """Makes the environment as it was before an interrupted deployment, which did not count.

    A deployment that was recorded as good counts, and is only tidied up after. Everything is
    found out by looking, and done such that an opskit that dies in here can be mended after too.
    """

    name = "mend"
    order = Order.IN_TURN

    def __init__(self, *, serve: bool = True) -> None:
        self._serve = serve

    def describe(self, part: Part) -> str:
        """Say what the step does."""
        return "put back what an interrupted deployment left"

    def skip(self, part: Part) -> str:
        """There is nothing to mend, mostly."""
        return "" if part.looked.in_progress else "nothing was interrupted"

    def apply(self, part: Part) -> str:
        """Put back, record, and forget."""
        one = InProgress.parse(part.looked.in_progress) or self._guess(part)
        if one is None:
            done = "removed an in-progress.json that nobody can read"
        elif finished(part.act.record, one.id):
            self._complete(part, one)
            secrets.discard_backups(part)
            done = f"{release_name(one.release)} had been proven; tidied up after it"
        else:
            done = self._undo(part, one)
        self._tidy(part)
        part.look()
        return done

    def _complete(self, part: Part, one: InProgress) -> None:
        """Record what was proven, where another node had recorded it and this one not yet."""
        known = part.act.record.find(one.id)
        if known is None or part.record.find(one.id) is not None:
            return
        proven = replace(
            one.record, result=known.result, smoke=known.smoke, duration_s=known.duration_s
        )
        target = part.target
        deployments.append(target.executor, target.layout, proven, python=target.python)

    def _undo(self, part: Part, one: InProgress) -> str:
        secrets.restore(part)
        name = release_name(one.release)
        if not self._serve:
            done = self._point_back(part, one)
        elif one.before:
            # With the same release on both sides only its secrets changed: it must start anew.
            pid = part.looked.serving.pid if part.looked.serving else 0
            done = put_back(part, one.before, not_pid=pid if one.before == one.release else 0)
            part.mended = one.before
        elif part.act.action is Action.DEPLOY:
            # Nothing served before it, so the deployment that follows relieves it, or ends it.
            done = self._point_back(part, one)
        else:
            done = stop_all(part)
            remove_current(part)
        reason = f"opskit died in the step {one.step}; {done}"
        deployments.append(
            part.target.executor,
            part.target.layout,
            interrupted(one, reason),
            python=part.target.python,
        )
        return f"{one.record.who} was interrupted in {one.record.action} {name}: {done}"

    def _point_back(self, part: Part, one: InProgress) -> str:
        if one.before:
            target = f"releases/{release_name(one.before)}"
            part.target.executor.check(files.link(target, part.target.layout.current))
            return f"{release_name(one.before)} is current again"
        remove_current(part)
        return "nothing is current, as before"

    def _guess(self, part: Part) -> InProgress | None:
        """Make do without the file's content: whatever is current counts only if it is good."""
        current, good = part.looked.current, part.act.record.good
        last = part.record.last
        if current is None or last is None or current in good:
            return None
        before = max((number for number in good if number in part.looked.releases), default=None)
        return InProgress(f"{part.act.id}-mended", current, before, "unknown", last)

    def _tidy(self, part: Part) -> None:
        layout = part.target.layout
        left = [layout.root / path for path in part.looked.incoming]
        part.target.executor.check(files.remove(*left, layout.in_progress))


def finished(record: Record, identity: str) -> bool:
    """Say whether a deployment passed its point of no return."""
    one = record.find(identity)
    return one is not None and one.result is Outcome.GOOD and not record.find(undone_id(identity))


def undone_id(identity: str) -> str:
    """Give the id under which it is recorded that a deployment was undone."""
    return f"{identity}-undone"
