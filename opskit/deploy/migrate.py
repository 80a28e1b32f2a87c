"""Brings the database's schema up to date while the old release still serves."""

from __future__ import annotations

from opskit.deploy.act import Act
from opskit.deploy.step import Step


class Migrate(Step):
    """Runs the new release's migrations.

    There is nothing to undo: a migration only expands, so the release before still works (and one
    that would not was refused by the build step).
    """

    name = "migrate"

    def describe(self, act: Act) -> str:
        """Say what the step does."""
        return "bring the database's schema up to date"

    def skip(self, act: Act) -> str:
        """The release that serves has migrated already."""
        return "the same release" if act.release is None else ""

    def apply(self, act: Act) -> str:
        """Migrate."""
        said = act.target.ask(act.number, "migrate", changes=True)
        return f"schema {said['database']['version']}"
