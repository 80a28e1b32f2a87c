"""Builds the release on this machine; nothing on the host changes yet."""

from __future__ import annotations

from opskit.deploy import secrets
from opskit.deploy.act import Act, Part
from opskit.deploy.move import check_store
from opskit.deploy.step import Order, Step
from opskit.facts import Manifest
from opskit.failure import Failure
from opskit.layout import release_name
from opskit.source import NO_COMMIT


class BuildRelease(Step):
    """Gives the release its number, builds it, and finds out what would change."""

    name = "build"
    order = Order.ONCE

    def describe(self, part: Part) -> str:
        """Say what the step does."""
        return "build the release here, under the next number, and compare it with what serves"

    def apply(self, part: Part) -> str:
        """Build for every node, and compare."""
        act = part.act
        for one in act.parts:
            one.before = serves_now(one)
            secrets.compare(one)
        check_store(part)
        act.number = act.record.next_number({n for one in act.parts for n in one.looked.releases})
        for one in act.parts:
            self._build(one, act.number)
        if (same := self._same_everywhere(act)) is not None:
            act.number = same
            for one in act.parts:
                self._reuse(one, same)
            if act.unchanged:
                return f"the same content as {act.name}"
            if all(one.release is None for one in act.parts):
                return f"the same content as {act.name}; only secrets changed"
            return f"the same content as {act.name}, which is not everywhere"
        for one in act.parts:
            there = one.looked.releases.get(one.before) if one.before else None
            _refuse_contracting(one, there)
        release, manifest = part.release, part.manifest
        assert release is not None
        assert manifest is not None
        commit = f"commit {manifest.commit[:10]}" + (" and changes" * manifest.dirty)
        if manifest.commit == NO_COMMIT:
            commit = "from no commit of git"
        return f"{act.name}, {len(release.files)} files, {commit}"

    def _build(self, part: Part, number: int) -> None:
        assert part.act.build is not None, "a rollback builds nothing"
        part.release = part.act.build(part.target, number)
        part.manifest = Manifest.parse(part.release.manifest())
        assert part.manifest is not None, "what was built has a manifest"

    def _same_everywhere(self, act: Act) -> int | None:
        """Give the release that serves, where what was built is the same on every node."""
        number = act.before
        if number is None or not any(part.before == number for part in act.parts):
            return None
        for part in act.parts:
            assert part.manifest is not None
            there = part.looked.releases.get(number)
            if there is not None and there.content != part.manifest.content:
                return None
            if there is None and part.before == number:
                return None
        return number

    def _reuse(self, part: Part, number: int) -> None:
        """Take the release that is there; where it is not, build it under its number."""
        there = part.looked.releases.get(number)
        if there is None:
            self._build(part, number)
            return
        part.release, part.manifest = None, there
        part.unchanged = part.before == number and not part.changed_secrets


def serves_now(part: Part) -> int | None:
    """Give the release to go back to: what serves, or should; never one that is known to be bad."""
    facts, failed = part.looked, part.act.record.failed
    candidates = (facts.serving.release if facts.serving else None, facts.current)
    for number in candidates:
        if number is not None and facts.releases.get(number) and number not in failed:
            return number
    return None


def _refuse_contracting(part: Part, there: Manifest | None) -> None:
    """Refuse a migration after which the release that serves now could not serve any more.

    Raises:
        Failure: it is one.
    """
    assert part.manifest is not None
    assert part.before or there is None
    if there and part.manifest.readable_from > there.schema_version:
        before = release_name(part.before or 0)
        raise Failure(
            f"{part.name} brings a schema that only releases from schema "
            f"{part.manifest.readable_from} on can work with; {before} has "
            f"{there.schema_version}, so nothing could be undone",
            hint="expand first, contract later: deploy a release that knows the new schema and "
            "still leaves the old one in place, then this one",
        )
