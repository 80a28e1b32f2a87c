"""Chooses what to roll back to, and refuses what could not serve."""

from __future__ import annotations

from opskit.deploy import secrets
from opskit.deploy.act import Act
from opskit.deploy.build import serves_now
from opskit.deploy.install import MARKER, listed, verify
from opskit.deploy.step import Step
from opskit.failure import Failure
from opskit.layout import release_name


class Select(Step):
    """The release asked for, or the last good one before the current; whole, and able to run."""

    name = "select"

    def describe(self, act: Act) -> str:
        """Say what the step does."""
        wanted = release_name(act.wanted) if act.wanted else "the last good release before this one"
        return f"choose {wanted}; verify its checksums, and that it can read the database"

    def apply(self, act: Act) -> str:
        """Choose and verify."""
        facts = act.looked
        act.before = serves_now(act)
        current = facts.current or act.before
        if act.mended is not None and act.wanted in (None, act.mended):
            # To put back what an interrupted deployment replaced is all that was asked for.
            act.number, act.unchanged = act.mended, True
            act.manifest = facts.releases.get(act.number)
            return f"{act.name}, which served before the interrupted deployment"
        act.number = act.wanted or self._last_good(act, current)
        if act.number not in facts.releases:
            raise Failure(f"there is no release {act.name}", hint=_choices(act))
        if facts.serving and facts.serving.release == act.number == facts.current:
            act.manifest, act.unchanged = facts.releases[act.number], True
            return f"{act.name}, which serves already"
        act.manifest = facts.releases[act.number]
        if act.manifest is None:
            raise Failure(f"{act.name} has no readable manifest.json", hint=_choices(act))
        _refuse_newer_schema(act, current)
        self._verify(act)
        secrets.fingerprint_those_there(act)
        act.changed_secrets = tuple(changed_since(act))
        differ = ", ".join(act.changed_secrets)
        since = f"; secrets changed since it was deployed: {differ}" if differ else ""
        return f"{act.name}, built {act.manifest.built_at} from {act.manifest.commit[:10]}{since}"

    def _last_good(self, act: Act, current: int | None) -> int:
        if current is None:
            raise Failure("nothing was deployed yet", hint=_deploy(act))
        target = act.record.rollback_target(current, act.looked.releases)
        if target is None:
            raise Failure(
                f"there is no good release before {release_name(current)} to roll back to",
                hint=_choices(act),
            )
        return target

    def _verify(self, act: Act) -> None:
        assert act.manifest is not None
        executor, layout = act.target.executor, act.target.layout
        release, layer = layout.release(act.number), layout.layer(act.manifest.layer)
        sums = listed(executor.get(release / "manifest.json"))
        verify(act, release, sums)
        verify(act, layer, listed(executor.get(layer / MARKER)))


def changed_since(act: Act) -> list[str]:
    """Name the secrets that differ from those that the release was deployed with."""
    then = act.record.last_good(act.number)
    if then is None:
        return []
    names = {*then.secrets, *act.fingerprints}
    return sorted(name for name in names if then.secrets.get(name) != act.fingerprints.get(name))


def _refuse_newer_schema(act: Act, current: int | None) -> None:
    """Refuse a release that the database has left behind.

    The database is asked through the release that serves, which knows it; where that cannot
    answer, through the one that is to serve.

    Raises:
        Failure: the release could not work with the database.
    """
    assert act.manifest is not None
    for number in dict.fromkeys((current, act.number)):
        if number is None:
            continue
        try:
            database = act.target.ask(number, "schema").get("database")
            needs = database["readable_from"] if database else 0
        except (Failure, KeyError, TypeError):
            continue
        if act.manifest.schema_version < needs:
            raise Failure(
                f"{act.name} cannot read the database: it has schema "
                f"{act.manifest.schema_version}, and the database needs {needs} or newer",
                hint="fix forward: deploy a new release with the older code and the migrations "
                f"up to {needs}; nothing was changed",
            )
        return


def _choices(act: Act) -> str:
    """Say what can be rolled back to."""
    good = sorted(number for number in act.record.good if number in act.looked.releases)
    others = [release_name(number) for number in good if number != act.looked.current]
    if not others:
        return _deploy(act)
    return "good releases: " + ", ".join(others)


def _deploy(act: Act) -> str:
    return f"opskit deploy {act.target.environment.name}"
