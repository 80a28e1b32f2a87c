"""Moves the data into another store, when a release brings one."""

from __future__ import annotations

from opskit.deploy.act import Part
from opskit.deploy.serving import end, put_back
from opskit.deploy.step import Order, Step
from opskit.failure import Misuse
from opskit.layout import release_name

COPY_SECONDS = 4 * 3600.0
"""How long copying may take; 100 million messages are far from it."""


class Move(Step):
    """Stops the service, and copies what is in its SQLite store into PostgreSQL.

    The old store stays as it is: undoing starts the release before on it again.
    """

    name = "move"
    order = Order.ONCE  # with SQLite there was one node

    def describe(self, part: Part) -> str:
        """Say what the step does."""
        return "stop the service, copy its SQLite store into PostgreSQL, and compare all counts"

    def skip(self, part: Part) -> str:
        """Mostly the store stays the same."""
        return "" if part.act.move_data else "the store stays"

    def apply(self, part: Part) -> str:
        """Stop and copy."""
        target = part.target
        target.ask(part.number, "copy", "--check")  # while the service still runs
        part.act.moving = True
        ended = end(part, [one.pid for one in target.survey().processes])
        if ended:
            part.note("the service is stopped; members come back when the new store serves")
        said = target.ask(
            part.number,
            "copy",
            "--from",
            str(target.layout.state),
            changes=True,
            timeout=COPY_SECONDS,
        )
        return (
            f"{said['messages']} messages and {said['cursors']} cursors of {said['workspaces']} "
            "workspaces copied and compared"
        )

    def undo(self, part: Part) -> str:
        """Start the release before on its old store."""
        if not part.act.moving or part.before is None:
            return ""
        return put_back(part, part.before)


def check_store(part: Part) -> None:
    """Refuse to leave messages behind, unless that is what was asked for.

    Raises:
        Misuse: the release brings another store than the one that serves, and nobody said what
            becomes of the data; or there is nothing to move.
    """
    act, environment = part.act, part.act.environment
    if act.move_data and act.leave_data:
        raise Misuse("--move-data and --leave-data contradict each other: give one of them")
    if part.before is None:
        if act.move_data:
            raise Misuse("--move-data: nothing was deployed yet, so there is no data to move")
        return
    before = part.target.settings_of(part.before).store.kind
    now = environment.settings.store.kind
    where = environment.where("chat", "store", "kind")
    if act.move_data and (before, now) != ("sqlite", "postgres"):
        raise Misuse(
            f"--move-data: {release_name(part.before)} has its data in {before}, and {where} "
            f"says {now}; data moves from sqlite to postgres only",
            hint=f"opskit deploy {environment.name}",
        )
    if before != now and not act.move_data and not act.leave_data:
        moves = f"opskit deploy {environment.name} --move-data"
        leaves = f"opskit deploy {environment.name} --leave-data"
        raise Misuse(
            f"{where}: the store changes from {before} to {now}, and the messages of "
            f"{release_name(part.before)} would be left behind",
            hint=f"{moves} (copies them; the service is stopped meanwhile)"
            if (before, now) == ("sqlite", "postgres")
            else f"{leaves} (starts empty; the old data stays where it is)",
            lines=[f"to start empty: {leaves}"] if now == "postgres" else [],
        )
