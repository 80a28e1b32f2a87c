"""Chooses what to roll back to, and refuses what could not serve."""

from __future__ import annotations

from itertools import takewhile

from opskit.deploy import secrets
from opskit.deploy.act import Act, Part
from opskit.deploy.build import serves_now
from opskit.deploy.install import MARKER, verify_installed
from opskit.deploy.step import Order, Step
from opskit.deploy.way_back import refuse_several_nodes, refuse_to_leave_messages
from opskit.failure import Failure
from opskit.layout import release_name


class Select(Step):
    """The release asked for, or the last good one before the current; whole, and able to run."""

    name = "select"
    order = Order.ONCE

    def describe(self, part: Part) -> str:
        """Say what the step does."""
        wanted = (
            release_name(part.act.wanted)
            if part.act.wanted
            else "the last good release before this one"
        )
        return f"choose {wanted}; verify its checksums, and that it can read the database"

    def apply(self, part: Part) -> str:
        """Choose and verify."""
        act = part.act
        for one in act.parts:
            one.before = serves_now(one)
        current = part.looked.current or act.before
        mended = max((one.mended for one in act.parts if one.mended), default=None)
        if mended is not None and act.wanted in (None, mended):
            # To put back what an interrupted deployment replaced is all that was asked for.
            self._take(act, mended)
            for one in act.parts:
                one.unchanged = True
            return f"{act.name}, which served before the interrupted deployment"
        self._take(act, act.wanted or self._last_good(act, current))
        for one in act.parts:
            serving, now = one.looked.serving, one.looked.current
            one.unchanged = bool(serving and serving.release == act.number == now)
        if act.unchanged:
            return f"{act.name}, which serves already"
        for one in act.parts:
            if one.manifest is None:
                raise Failure(
                    f"{one.target.name}: {act.name} has no readable manifest.json",
                    hint=_choices(act),
                )
        refuse_several_nodes(act, part)
        elsewhere = refuse_to_leave_messages(part, part.before or current)
        _refuse_newer_schema(part, None if elsewhere else current)
        act.each(_verify)
        manifest = part.manifest
        assert manifest is not None
        differ = ", ".join(act.changed_secrets)
        since = f"; secrets changed since it was deployed: {differ}" if differ else ""
        return f"{act.name}, built {manifest.built_at} from {manifest.commit[:10]}{since}"

    def _take(self, act: Act, number: int) -> None:
        """Choose a release that lies on every node.

        Raises:
            Failure: on one it does not.
        """
        act.number = number
        without = [one for one in act.parts if number not in one.looked.releases]
        if without:
            there = [one for one in act.parts if one not in without]
            if there:
                refuse_several_nodes(act, there[0])
            where = ", ".join(one.node for one in without)
            raise Failure(
                f"there is no release {act.name}" + (f" on {where}" if where else ""),
                hint=_fewer(act, number) if act.lead in there else _choices(act),
            )
        for one in act.parts:
            one.manifest = one.looked.releases[number]

    def _last_good(self, act: Act, current: int | None) -> int:
        if current is None:
            raise Failure("nothing was deployed yet", hint=_deploy(act))
        target = act.record.rollback_target(current, act.installed)
        if target is None:  # a node may have come later than a release that the first one has
            target = act.record.rollback_target(current, act.lead.looked.releases)
        if target is None:
            raise Failure(
                f"there is no good release before {release_name(current)} to roll back to",
                hint=_choices(act),
            )
        return target


def _verify(part: Part) -> None:
    """Compare every byte with its checksum, and the secrets with those of then."""
    assert part.manifest is not None
    layout = part.target.layout
    release, layer = layout.release(part.number), layout.layer(part.manifest.layer)
    verify_installed(part, release / "manifest.json", layer / MARKER)
    secrets.fingerprint_those_there(part)
    part.changed_secrets = tuple(changed_since(part))


def changed_since(part: Part) -> list[str]:
    """Name the secrets that differ from those that the release was deployed with."""
    then = part.record.last_good(part.number)
    if then is None:
        return []
    names = {*then.secrets, *part.fingerprints}
    return sorted(name for name in names if then.secrets.get(name) != part.fingerprints.get(name))


def _refuse_newer_schema(part: Part, current: int | None) -> None:
    """Refuse a release that the database has left behind.

    The database is asked through the release that serves, which knows it; where that cannot
    answer, through the one that is to serve. Without `current`, which has another database, only
    that one is asked.

    Raises:
        Failure: the release could not work with the database.
    """
    assert part.manifest is not None
    for number in dict.fromkeys((current, part.number)):
        if number is None:
            continue
        try:
            database = part.target.ask(number, "schema").get("database")
            needs = database["readable_from"] if database else 0
        except (Failure, KeyError, TypeError):
            continue
        if part.manifest.schema_version < needs:
            raise Failure(
                f"{part.name} cannot read the database: it has schema "
                f"{part.manifest.schema_version}, and the database needs {needs} or newer",
                hint="fix forward: deploy a new release with the older code and the migrations "
                f"up to {needs}; nothing was changed",
            )
        return


def _fewer(act: Act, number: int) -> str:
    """Say how to go back to a release that the first nodes have: others came later."""
    environment = act.environment
    if environment.target != "local":
        return _choices(act)
    nodes = len(list(takewhile(lambda one: number in one.looked.releases, act.parts)))
    back = f"opskit rollback {act.name} --env {environment.name}"
    return f"write `nodes: {nodes}` at {environment.where('nodes')}, then: {back}"


def _choices(act: Act) -> str:
    """Say what can be rolled back to."""
    good = sorted(number for number in act.record.good if number in act.installed)
    others = [release_name(number) for number in good if number != act.lead.looked.current]
    if not others:
        return _deploy(act)
    return "good releases: " + ", ".join(others)


def _deploy(act: Act) -> str:
    return f"opskit deploy {act.environment.name}"
