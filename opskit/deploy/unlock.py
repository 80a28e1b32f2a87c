"""Tidies up and gives the lock back."""

from __future__ import annotations

from opskit.commands import files
from opskit.deploy import secrets
from opskit.deploy.act import Part
from opskit.deploy.step import Step


class Unlock(Step):
    """The end of a deployment that went well."""

    name = "unlock"

    def describe(self, part: Part) -> str:
        """Say what the step does."""
        return "forget the replaced secrets and the note of what was under way; give the lock back"

    def apply(self, part: Part) -> str:
        """Tidy up; the lease is given back whatever happens."""
        try:
            if part.begun:
                if part.changed_secrets:
                    secrets.discard_backups(part)
                part.target.executor.check(files.remove(part.target.layout.in_progress))
        finally:
            if part.lease is not None:
                part.lease.release()
        return ""
