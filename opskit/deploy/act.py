"""One act under way: a deploy or a rollback, and everything that its steps have found out."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from opskit.deployments import Action, Deployment, Outcome, Record, SmokeResult
from opskit.facts import Facts, Manifest
from opskit.layout import release_name
from opskit.lock import TTL, FencedExecutor, Holder, Lease
from opskit.person import Person
from opskit.target import Target

if TYPE_CHECKING:
    from checks.smoke.report import Report
    from opskit.release import Release

Smoke = Callable[["Act"], "Report"]
"""Runs the smoke test against what an act made serve."""

Build = Callable[[int], "Release"]
"""Builds a release under a number, somewhere on this machine."""


@dataclass(frozen=True)
class Timing:
    """How long things may take, in seconds.

    Attributes:
        start: until a new release serves and is ready.
        end: until a process that was told to stop is killed.
        lease: that the lock outlives opskit.
    """

    start: float = 30.0
    end: float = 10.0
    lease: float = TTL


@dataclass(frozen=True)
class InProgress:
    """What `in-progress.json` says: what a later opskit needs to mend, when this one dies.

    Attributes:
        id: the deployment's.
        release: what was to serve.
        before: what served, and shall serve again; None when nothing did.
        step: the step that was under way.
        record: what is recorded of it, but for how it ended.
    """

    id: str
    release: int
    before: int | None
    step: str
    record: Deployment

    def to_text(self) -> str:
        """Give the file's content."""
        return json.dumps({"step": self.step, "deployment": self.record.to_json()}) + "\n"

    @classmethod
    def parse(cls, text: str) -> InProgress | None:
        """Read the file; None when it is not what opskit writes."""
        try:
            fields = json.loads(text)
            record = Deployment.from_json(fields["deployment"])
            if record.release is None:
                return None
            return cls(record.id, record.release, record.before, str(fields["step"]), record)
        except (ValueError, KeyError, TypeError, AttributeError):
            return None


@dataclass
class Act:
    """One deploy or rollback under way; each step reads and adds to it.

    Attributes:
        target: where; from the lock on, what changes anything there needs the lease.
        action: what is being done.
        person: who does it.
        smoke: runs the smoke test.
        note: tells a person something in the middle of a step.
        build: builds a release; not for a rollback.
        timing: how long things may take.
        secrets: the values, by name.
        wanted: the release that a rollback was asked for; None for the last good one.
        smoke_gates: whether the smoke test is run.
    """

    target: Target
    action: Action
    person: Person
    smoke: Smoke
    note: Callable[[str], None]
    build: Build | None = None
    timing: Timing = Timing()
    secrets: Mapping[str, Any] = field(default_factory=dict, repr=False)
    wanted: int | None = None
    smoke_gates: bool = True
    tool: str = ""

    id: str = field(default_factory=lambda: secrets.token_hex(6))
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    facts: Facts | None = None
    record: Record = field(default_factory=Record)
    lease: Lease | None = None
    number: int = 0
    before: int | None = None
    manifest: Manifest | None = None
    release: Release | None = None
    unchanged: bool = False
    mended: int | None = None
    changed_secrets: tuple[str, ...] = ()
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    pid: int = 0
    port: int = 0
    log_offset: int = 0
    report: Report | None = None
    begun: bool = False
    switched: bool = False
    recorded: bool = False
    broken: bool = False
    failure: str = ""
    warnings: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The release that is to serve."""
        return release_name(self.number)

    @property
    def looked(self) -> Facts:
        """What was seen on the host last."""
        assert self.facts is not None, "a step before preflight asked for facts"
        return self.facts

    def look(self) -> Facts:
        """Look at the host anew, at its record too."""
        self.facts = self.target.survey()
        self.record = self.target.record()
        return self.facts

    def hold(self, lease: Lease) -> None:
        """From now on, what changes the host needs the lease."""
        self.lease = lease
        self.target = self.target.through(FencedExecutor(self.target.executor, lease))

    def holder(self) -> Holder:
        """What others are told who find the environment locked."""
        what = f"{self.action.value} {self.target.environment.name}"
        return Holder(self.person.who, self.started_text, what, self.person.owner)

    @property
    def started_text(self) -> str:
        """When the act began, RFC 3339."""
        return rfc3339(self.started)

    def mark(self, step: str) -> None:
        """Write down that this act is under way, and how far it got."""
        record = self.deployment(Outcome.INTERRUPTED)
        note = InProgress(self.id, self.number, self.before, step, record)
        path = self.target.layout.in_progress
        self.target.executor.put(note.to_text().encode(), path, mode=0o644)

    def deployment(self, outcome: Outcome, reason: str = "") -> Deployment:
        """Give what is recorded of this act."""
        report, manifest = self.report, self.manifest
        return Deployment(
            id=self.id,
            action=self.action,
            release=self.number or None,
            before=self.before,
            content=manifest.content if manifest else "",
            commit=manifest.commit if manifest else "",
            dirty=manifest.dirty if manifest else False,
            who=self.person.who,
            started=self.started_text,
            duration_s=(datetime.now(UTC) - self.started).total_seconds(),
            result=outcome,
            reason=reason,
            smoke=SmokeResult(report.passed, report.failed, round(report.seconds, 3))
            if report
            else None,
            secrets=self.fingerprints,
            tool=self.tool,
        )


def rfc3339(moment: datetime) -> str:
    """Write a moment in UTC, to the second."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def interrupted(one: InProgress, reason: str) -> Deployment:
    """Give what is recorded of an act whose opskit died."""
    return replace(one.record, reason=reason)
