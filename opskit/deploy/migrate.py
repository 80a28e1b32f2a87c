"""Brings the database's schema up to date while the old release still serves."""

from __future__ import annotations

from opskit.deploy.act import Part
from opskit.deploy.step import Order, Step


class Migrate(Step):
    """Runs the new release's migrations.

    There is nothing to undo: a migration only expands, so the release before still works (and one
    that would not was refused by the build step).
    """

    name = "migrate"
    order = Order.ONCE

    def describe(self, part: Part) -> str:
        """Say what the step does."""
        return "bring the database's schema up to date"

    def skip(self, part: Part) -> str:
        """The release that serves has migrated already."""
        return "the same release" if part.release is None else ""

    def apply(self, part: Part) -> str:
        """Migrate."""
        said = part.target.ask(part.number, "migrate", changes=True)
        return f"schema {said['database']['version']}"
