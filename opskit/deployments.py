"""The record of deployments: one JSON object a line in `<root>/deployments.jsonl`, oldest first.

Pure, but for `read` and `append`, which go through an executor. A line that was torn by a crash
is skipped and counted, and spoils no other.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any

from opskit.commands import service
from opskit.layout import BadVersion, Layout, release_name, release_number
from opskit.transport import Executor


class Action(StrEnum):
    """What was done."""

    DEPLOY = "deploy"
    ROLLBACK = "rollback"
    STOP = "stop"


class Outcome(StrEnum):
    """How it ended."""

    GOOD = "good"
    """Done, and proven by health and smoke."""
    FAILED = "failed"
    """Not done; what served before serves, or nothing had been changed yet."""
    UNDONE = "undone"
    """The release had been switched to, failed, and was undone: what served before serves."""
    INTERRUPTED = "interrupted"
    """opskit died in the middle; a later command put back what served before."""
    BROKEN = "broken"
    """It failed, and so did putting back what served before."""


@dataclass(frozen=True)
class SmokeResult:
    """How the smoke test went."""

    passed: int
    failed: int
    seconds: float


@dataclass(frozen=True)
class Moved:
    """What became of the connections of one node.

    Attributes:
        how: `handover`, `cold`, or what else the service calls its start.
        moved: passed to the new process, and still open.
        drained: asked to come back.
        dropped: lost.
        pause_ms: for how long nothing was delivered; None when it did not say.
    """

    how: str
    moved: int
    drained: int
    dropped: int
    pause_ms: float | None = None


@dataclass(frozen=True)
class Deployment:
    """One recorded act.

    Attributes:
        id: unique in the record.
        action: what was done.
        release: the release that was to serve; None when nothing was to.
        before: the release that served before; None when there was none.
        content: the digest of the release's content.
        commit: the commit that it was built from; empty when that is not known.
        dirty: whether the work tree differed from that commit.
        who: user and machine.
        started: RFC 3339, UTC.
        duration_s: seconds.
        result: how it ended.
        reason: why it ended so, in one line; empty when it went well.
        smoke: None when the smoke test did not run.
        secrets: the fingerprint of each secret that the release was given.
        tool: the version of opskit.
        connections: what became of them when the release was switched to; None when it was not.
    """

    id: str
    action: Action
    release: int | None
    before: int | None
    content: str
    commit: str
    dirty: bool
    who: str
    started: str
    duration_s: float
    result: Outcome
    reason: str = ""
    smoke: SmokeResult | None = None
    secrets: Mapping[str, str] = field(default_factory=dict)
    tool: str = ""
    connections: Moved | None = None

    def under(self, identity: str) -> Deployment:
        """Give the same act under another id."""
        return replace(self, id=identity)

    def to_json(self) -> dict[str, Any]:
        """Give the object as it is recorded and shown with --json; the keys are stable."""
        return {
            "id": self.id,
            "action": self.action.value,
            "release": release_name(self.release) if self.release else None,
            "from": release_name(self.before) if self.before else None,
            "content": self.content,
            "commit": self.commit,
            "dirty": self.dirty,
            "who": self.who,
            "started": self.started,
            "duration_s": round(self.duration_s, 3),
            "result": self.result.value,
            "reason": self.reason,
            "smoke": asdict(self.smoke) if self.smoke else None,
            "secrets": dict(self.secrets),
            "tool": self.tool,
            "connections": asdict(self.connections) if self.connections else None,
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Deployment:
        """Read a recorded object.

        Raises:
            KeyError, TypeError, ValueError: it is none.
        """
        smoke = fields.get("smoke")
        return cls(
            id=str(fields["id"]),
            action=Action(fields["action"]),
            release=_number(fields["release"]),
            before=_number(fields["from"]),
            content=str(fields["content"]),
            commit=str(fields["commit"]),
            dirty=bool(fields["dirty"]),
            who=str(fields["who"]),
            started=str(fields["started"]),
            duration_s=float(fields["duration_s"]),
            result=Outcome(fields["result"]),
            reason=str(fields.get("reason", "")),
            smoke=SmokeResult(**smoke) if smoke else None,
            secrets=dict(fields.get("secrets") or {}),
            tool=str(fields.get("tool", "")),
            connections=Moved(**fields["connections"]) if fields.get("connections") else None,
        )


def _number(name: str | None) -> int | None:
    return None if name is None else release_number(name)


@dataclass(frozen=True)
class Record:
    """The whole record, oldest first. `torn`: the numbers (from 1) of lines that are no record."""

    deployments: tuple[Deployment, ...] = ()
    torn: tuple[int, ...] = ()

    @property
    def last(self) -> Deployment | None:
        """The newest act."""
        return self.deployments[-1] if self.deployments else None

    @property
    def numbers(self) -> frozenset[int]:
        """Every release that was ever recorded, whatever became of it."""
        return frozenset(one.release for one in self.deployments if one.release)

    @property
    def good(self) -> frozenset[int]:
        """The releases that were proven, and that did not fail afterwards."""
        verdicts: dict[int, bool] = {}
        for one in self.deployments:
            if one.release is None or one.action is Action.STOP:
                continue
            if one.result is Outcome.INTERRUPTED:
                verdicts.setdefault(one.release, False)  # says nothing against a proven one
            else:
                verdicts[one.release] = one.result is Outcome.GOOD
        return frozenset(number for number, good in verdicts.items() if good)

    @property
    def failed(self) -> frozenset[int]:
        """The releases whose last deployment was not good."""
        return self.numbers - self.good

    def find(self, identity: str) -> Deployment | None:
        """Give the deployment with this id."""
        return next((one for one in self.deployments if one.id == identity), None)

    def last_good(self, number: int) -> Deployment | None:
        """Give the newest act that made a release serve, and went well."""
        return next(
            (
                one
                for one in reversed(self.deployments)
                if one.release == number
                and one.result is Outcome.GOOD
                and one.action is not Action.STOP
            ),
            None,
        )

    def next_number(self, installed: Iterable[int]) -> int:
        """Give the number of the next release: above all that ever were, since none is reused."""
        return max((*self.numbers, *installed), default=0) + 1

    def rollback_target(self, current: int, installed: Iterable[int]) -> int | None:
        """Give the good release that served before the current one; None when there is none.

        That is what it was deployed in place of: a release that was rolled back from is not gone
        back to. Where that is gone, or no more good, it is the newest good one below.
        """
        there = [number for number in installed if number < current and number in self.good]
        deployed = (
            one.before
            for one in reversed(self.deployments)
            if one.release == current
            and one.action is Action.DEPLOY
            and one.result is Outcome.GOOD
            and one.before != current
        )
        before = next(deployed, None)
        return before if before in there else max(there, default=None)


def parse_record(text: str) -> Record:
    """Read a record; lines that are none are counted and skipped."""
    deployments, torn = [], []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            deployments.append(Deployment.from_json(json.loads(line)))
        except (ValueError, KeyError, TypeError, AttributeError, BadVersion):
            torn.append(number)
    return Record(tuple(deployments), tuple(torn))


def merge(records: Sequence[Record]) -> Record:
    """Put the records of several nodes together: every act once, in the order of their starts.

    All nodes hold the same, but for one that was added later, or away while others recorded.
    """
    found: dict[str, Deployment] = {}
    for record in records:
        for one in record.deployments:
            found.setdefault(one.id, one)
    if not records or len(found) == len(records[0].deployments):
        return records[0] if records else Record()
    ordered = sorted(found.values(), key=lambda one: one.started)
    return Record(tuple(ordered), records[0].torn)


def read(executor: Executor, layout: Layout) -> Record:
    """Read an environment's record; a missing one is empty."""
    return parse_record(executor.get(layout.deployments))


def append(executor: Executor, layout: Layout, one: Deployment, *, python: str) -> None:
    """Record a deployment, on disk when this returns; the same id is recorded once."""
    line = json.dumps(one.to_json(), ensure_ascii=False, separators=(",", ":"))
    key = f'{{"id":"{one.id}"'
    executor.check(service.append_line(layout.deployments, key, line, python=python))
