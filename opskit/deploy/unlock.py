"""Tidies up and gives the lock back."""

from __future__ import annotations

from opskit.commands import files
from opskit.deploy import secrets
from opskit.deploy.act import Act
from opskit.deploy.step import Step


class Unlock(Step):
    """The end of a deployment that went well."""

    name = "unlock"

    def describe(self, act: Act) -> str:
        """Say what the step does."""
        return "forget the replaced secrets and the note of what was under way; give the lock back"

    def apply(self, act: Act) -> str:
        """Tidy up; the lease is given back whatever happens."""
        try:
            if act.begun:
                secrets.discard_backups(act)
                act.target.executor.check(files.remove(act.target.layout.in_progress))
        finally:
            if act.lease is not None:
                act.lease.release()
        return ""
