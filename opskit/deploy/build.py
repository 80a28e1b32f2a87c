"""Builds the release on this machine; nothing on the host changes yet."""

from __future__ import annotations

from opskit.deploy import secrets
from opskit.deploy.act import Act
from opskit.deploy.step import Step
from opskit.facts import Manifest
from opskit.failure import Failure
from opskit.layout import release_name


class BuildRelease(Step):
    """Gives the release its number, builds it, and finds out what would change."""

    name = "build"

    def describe(self, act: Act) -> str:
        """Say what the step does."""
        return "build the release here, under the next number, and compare it with what serves"

    def apply(self, act: Act) -> str:
        """Build and compare."""
        assert act.build is not None, "a rollback builds nothing"
        facts = act.looked
        act.before = serves_now(act)
        act.number = act.record.next_number(facts.releases)
        act.release = act.build(act.number)
        act.manifest = Manifest.parse(act.release.manifest())
        assert act.manifest is not None, "what was built has a manifest"
        secrets.compare(act)
        there = facts.releases.get(act.before) if act.before else None
        if act.before and there and there.content == act.manifest.content:
            act.number, act.manifest = act.before, there
            act.release = None
            act.unchanged = not act.changed_secrets
            return f"the same content as {act.name}" + (
                "" if act.unchanged else "; only secrets changed"
            )
        _refuse_contracting(act, there)
        commit = f"commit {act.manifest.commit[:10]}" + (" and changes" * act.manifest.dirty)
        return f"{act.name}, {len(act.release.files)} files, {commit}"


def serves_now(act: Act) -> int | None:
    """Give the release to go back to: what serves, or should; never one that is known to be bad."""
    facts = act.looked
    candidates = (facts.serving.release if facts.serving else None, facts.current)
    for number in candidates:
        if number is not None and facts.releases.get(number) and number not in act.record.failed:
            return number
    return None


def _refuse_contracting(act: Act, there: Manifest | None) -> None:
    """Refuse a migration after which the release that serves now could not serve any more.

    Raises:
        Failure: it is one.
    """
    assert act.manifest is not None
    assert act.before or there is None
    if there and act.manifest.readable_from > there.schema_version:
        before = release_name(act.before or 0)
        raise Failure(
            f"{act.name} brings a schema that only releases from schema "
            f"{act.manifest.readable_from} on can work with; {before} has "
            f"{there.schema_version}, so nothing could be undone",
            hint="expand first, contract later: deploy a release that knows the new schema and "
            "still leaves the old one in place, then this one",
        )
