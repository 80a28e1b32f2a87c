"""Removes what is not needed any more."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import PurePosixPath

from opskit.commands import files, service
from opskit.deploy.act import Part
from opskit.deploy.step import Step
from opskit.deployments import Record
from opskit.facts import Facts
from opskit.layout import release_name

KEEP_FAILED = 3
"""How many failed releases are kept, to be looked at."""


@dataclass(frozen=True)
class Doomed:
    """What can go."""

    releases: tuple[int, ...]
    layers: tuple[str, ...]


def doomed(facts: Facts, record: Record, *, keep: int, now: int) -> Doomed:
    """Say what can go.

    The newest `keep` good releases stay, and with them what serves or runs and what a rollback
    would go to. A failed release goes when it is older than all of those, or when three newer
    ones failed. A release that the record does not know is taken for good: it cannot be a
    deployment's leftover. Layers go that no remaining release names, unless one of these cannot
    be read.

    Args:
        facts: what is there.
        record: what became of each release.
        keep: how many good ones to keep.
        now: the release that serves.
    """
    installed = sorted(facts.releases, reverse=True)
    failed = [number for number in installed if number in record.failed]
    good = [number for number in installed if number not in record.failed]
    target = record.rollback_target(now, installed)
    needed = {now, *(one.release for one in facts.processes)}
    needed |= {number for number in (facts.current, target) if number is not None}
    kept_good = set(good[:keep]) | (needed & set(good))
    oldest = min(kept_good, default=0)
    kept_failed = {number for number in failed[:KEEP_FAILED] if number > oldest}
    kept = kept_good | kept_failed | (needed & set(failed))
    return Doomed(
        tuple(number for number in sorted(installed) if number not in kept),
        _unused(facts, kept),
    )


def _unused(facts: Facts, kept: Collection[int]) -> tuple[str, ...]:
    manifests = [facts.releases[number] for number in kept if number in facts.releases]
    if None in manifests:
        return ()
    used = {manifest.layer for manifest in manifests if manifest}
    return tuple(layer for layer in facts.layers if layer not in used)


class Prune(Step):
    """Keeps the last good releases and removes older ones, and layers that nothing uses."""

    name = "prune"

    def describe(self, part: Part) -> str:
        """Say what the step does."""
        keep = part.target.environment.releases_keep
        return f"keep the last {keep} good releases, remove older ones and unused layers"

    def skip(self, part: Part) -> str:
        """Without a new release none is one too many; a node may be."""
        return "nothing changed" if part.act.unchanged and not _surplus(part) else ""

    def apply(self, part: Part) -> str:
        """Remove."""
        # Under our lease nobody but us has changed anything since.
        facts, target = part.after or part.look(), part.target
        keep = target.environment.releases_keep
        out = doomed(facts, part.act.record, keep=keep, now=part.number)
        paths = [target.layout.release(number) for number in out.releases]
        paths += [target.layout.layer(name) for name in out.layers]
        paths += [target.root / path for path in facts.incoming]
        surplus = _surplus(part)
        for number in surplus:
            self._end_node(part, facts, number)
            paths.append(PurePosixPath(part.act.environment.node(number).root))
        if not paths:
            return "nothing to remove"
        target.executor.check(files.remove(*paths))
        names = [f"node {number}, which is one too many" for number in surplus]
        names += [release_name(number) for number in out.releases]
        names += [f"layer {name[:10]}" for name in out.layers]
        return "removed " + (", ".join(names) or "a broken-off upload")

    def _end_node(self, part: Part, facts: Facts, number: int) -> None:
        """Send the members of a node away that the environment no longer has, and end it."""
        environment, python = part.act.environment.node(number), part.target.python
        timing = environment.settings.timing
        seconds = part.act.timing.end + timing.drain + timing.reconnect_spread
        pids = [one.pid for one in facts.nodes[number]]
        if pids:
            root = PurePosixPath(environment.root)
            part.target.executor.check(service.end(root, pids, python=python, seconds=seconds))


def _surplus(part: Part) -> list[int]:
    """Give the nodes below this one that the environment no longer has."""
    return (part.after or part.looked).beyond(part.act.environment.nodes)
