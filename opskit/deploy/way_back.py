"""What a rollback into another store means, said before anything is changed.

A release belongs to the store that it was deployed with. SQLite is a file of one process, so such
a release cannot serve several nodes; and what was written since into the other store is not seen.
"""

from __future__ import annotations

from typing import Final

from opskit.deploy.act import Act, Part
from opskit.deployments import Action, Outcome, Record
from opskit.failure import Misuse
from opskit.layout import release_name

STORES: Final = {"sqlite": "SQLite", "postgres": "PostgreSQL"}


def refuse_several_nodes(act: Act, holder: Part) -> None:
    """Refuse a release with SQLite as long as the environment asks for several nodes.

    Args:
        act: the rollback; its number is the release.
        holder: a node on which the release lies.

    Raises:
        Misuse: it is one; says where the number of nodes stands, and what becomes of the messages.
    """
    if len(act.parts) == 1 or holder.target.settings_of(act.number).store.kind != "sqlite":
        return
    environment = act.environment
    local = environment.target == "local"
    where = environment.where("nodes" if local else "hosts")
    back = f"opskit rollback {act.name} --env {environment.name} --leave-data"
    others = [part.node for part in act.parts if part is not holder]
    if local:
        hint = f"write `nodes: 1` at {where} and leave the rest as it is, then: {back} "
        hint += f"(ends {', '.join(others)}, too)"
    else:
        drains = "; ".join(f"opskit drain {environment.name} {name}" for name in others)
        hint = f"{drains}; then leave only {holder.node} in `hosts` at {where}, then: {back}"
    what = "nodes" if local else "hosts"
    raise Misuse(
        f"{act.name} cannot serve {len(act.parts)} {what}, which {where} asks for: its messages "
        "are in SQLite, a file of one process",
        hint=hint,
        lines=[_what_becomes(act, holder)],
    )


def refuse_to_leave_messages(part: Part, serves: int | None) -> bool:
    """Refuse to go to another store, unless it was said that messages may be left behind.

    Gives whether that is the way that the rollback goes.

    Raises:
        Misuse: nobody said so; says which messages they are, and the command.
    """
    act = part.act
    if serves is None:
        return False
    now, then = (part.target.settings_of(one).store.kind for one in (serves, act.number))
    if now == then:
        return False
    becomes = _what_becomes(act, part)
    serving = part.looked.serving
    how = "serves" if serving and serving.release == serves else "is current"
    if act.leave_data:
        part.note(becomes)
        return True
    name = act.environment.name
    raise Misuse(
        f"{act.name} has its messages in {STORES[then]}, and {release_name(serves)}, which {how}, "
        f"in {STORES[now]}",
        hint=f"opskit rollback {act.name} --env {name} --leave-data (without them); or stay on "
        f"{STORES[now]} and mend what is wrong: opskit deploy {name}",
        lines=[becomes],
    )


def _what_becomes(act: Act, holder: Part) -> str:
    """Say what becomes of the messages that were written since the release served."""
    since = replaced_at(act.record, act.number)
    then = STORES[holder.target.settings_of(act.number).store.kind]
    others = [kind for kind in STORES.values() if kind != then]
    moment = f"since {since}" if since else "since it served last"
    return (
        f"{act.name} serves the messages in {then} as they were when it served last; those "
        f"written {moment} stay in {others[0]}, are not lost, and are not seen"
    )


def replaced_at(record: Record, number: int) -> str:
    """Give when another release took over from the one that is asked for; empty when none did."""
    took_over = ""
    for one in record.deployments:
        if one.result is not Outcome.GOOD or one.action is Action.STOP:
            continue
        took_over = "" if one.release == number else took_over or one.started
    return took_over
