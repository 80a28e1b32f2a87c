"""One act under way over all nodes, and everything that its steps have found out of each."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from opskit.deployments import (
    Action,
    Deployment,
    Moved,
    Outcome,
    Record,
    SmokeResult,
    merge,
    parse_record,
)
from opskit.facts import Facts, Manifest
from opskit.fleet import Fleet
from opskit.layout import release_name
from opskit.lock import TTL, FencedExecutor, Holder, Lease
from opskit.person import Person
from opskit.target import Target

if TYPE_CHECKING:
    from checks.smoke.report import Report
    from opskit.environment import Environment
    from opskit.release import Release

Smoke = Callable[["Act"], "Report"]
"""Runs the smoke test against what an act made serve."""

Build = Callable[["Target", int], "Release"]
"""Builds a node's release under a number, somewhere on this machine."""


LONGEST_START = 100.0
"""Less than TimeoutStartSec in templates/systemd/chatservice.service.j2."""
_LONGEST_LEASE = 60.0


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

    @classmethod
    def on(cls, environment: Environment) -> Timing:
        """Give what is right for an environment's hosts, which may be slow.

        Where a command may take long, so may renewing the lease; as long as its `ttl` is, the
        lock of an opskit that died is in the way. A start takes no longer than its unit allows.
        """
        command = environment.patience.command
        return cls(
            start=max(cls.start, min(command, LONGEST_START)),
            lease=max(cls.lease, min(command / 2, _LONGEST_LEASE)),
        )


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
    """One deploy, rollback or stop under way, over every node of an environment.

    Attributes:
        fleet: the environment and its nodes.
        action: what is being done.
        person: who does it.
        smoke: runs the smoke test.
        say: tells a person something in the middle of a step: the node, and what.
        build: builds a release; not for a rollback.
        timing: how long things may take.
        secrets: the values, by name.
        wanted: the release that a rollback was asked for; None for the last good one.
        smoke_gates: whether the smoke test is run.
        move_data: whether the data moves into another store.
        leave_data: whether it may be left behind, in the store before or, in a rollback, after.
        parts: what is done to each node; the first one's is the lead.
        number: the release that is to serve.
        recorded: whether the point of no return was passed.
        failure: why it failed; empty when it did not.
        failed_step: the step that failed first.
    """

    fleet: Fleet
    action: Action
    person: Person
    smoke: Smoke
    say: Callable[[str, str], None]
    build: Build | None = None
    timing: Timing = Timing()
    secrets: Mapping[str, Any] = field(default_factory=dict, repr=False)
    wanted: int | None = None
    smoke_gates: bool = True
    move_data: bool = False
    leave_data: bool = False
    tool: str = ""

    id: str = field(default_factory=lambda: secrets.token_hex(6))
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    number: int = 0
    report: Report | None = None
    moving: bool = False
    recorded: bool = False
    failure: str = ""
    failed_step: str = ""
    warnings: list[str] = field(default_factory=list)
    parts: tuple[Part, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.parts = tuple(Part(self, node) for node in self.fleet.nodes)

    @property
    def environment(self) -> Environment:
        """What is deployed, rolled back or stopped."""
        return self.fleet.environment

    @property
    def lead(self) -> Part:
        """The part of the first node, which does what is done once."""
        return self.parts[0]

    @property
    def name(self) -> str:
        """The release that is to serve."""
        return release_name(self.number)

    @property
    def before(self) -> int | None:
        """The release that served before: the newest, where nodes differed."""
        return max((part.before for part in self.parts if part.before), default=None)

    @property
    def unchanged(self) -> bool:
        """Whether no node had to be changed."""
        return all(part.unchanged for part in self.parts)

    @property
    def takes_a_full_disk(self) -> bool:
        """Whether a release counts as serving that reads and has no room to write.

        For a rollback it does: no release could do more there, and members stay connected.
        """
        return self.action is Action.ROLLBACK

    @property
    def changed_secrets(self) -> tuple[str, ...]:
        """The secrets that differ, or differed, on any node."""
        return tuple(sorted({name for part in self.parts for name in part.changed_secrets}))

    @property
    def record(self) -> Record:
        """The record of deployments, put together from every node's."""
        return merge([part.record for part in self.parts])

    @property
    def installed(self) -> frozenset[int]:
        """The releases that lie on every node."""
        return frozenset.intersection(*(frozenset(part.looked.releases) for part in self.parts))

    @property
    def broken(self) -> bool:
        """Whether some node could not be put back."""
        return any(part.broken for part in self.parts)

    def each(self, do: Callable[[Part], None]) -> None:
        """Do something to every part at once.

        Raises:
            Failure: it failed somewhere; all have ended.
        """
        if len(self.parts) == 1:
            do(self.lead)
            return
        with ThreadPoolExecutor(len(self.parts)) as pool:
            list(pool.map(do, self.parts))

    def holder(self) -> Holder:
        """What others are told who find the environment locked."""
        what = f"{self.action.value} {self.environment.name}"
        return Holder(self.person.who, self.started_text, what, self.person.owner)

    @property
    def started_text(self) -> str:
        """When the act began, RFC 3339."""
        return rfc3339(self.started)


@dataclass
class Part:
    """What an act does to one node, and what it found out there.

    Attributes:
        act: the whole.
        target: the node; from the lock on, what changes anything there needs the lease.
        before: the release that served there, and shall again when this fails.
        unchanged: whether nothing has to be changed there.
        mended: the release that was put back after an interrupted act; None when none was.
        log_mark: where the node's log ended before the switch.
        after: what was seen there when it served the release.
        begun: whether a note of the act lies there.
    """

    act: Act = field(repr=False)
    target: Target
    facts: Facts | None = None
    record: Record = field(default_factory=Record)
    lease: Lease | None = None
    before: int | None = None
    manifest: Manifest | None = None
    release: Release | None = None
    unchanged: bool = False
    mended: int | None = None
    changed_secrets: tuple[str, ...] = ()
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    pid: int = 0
    port: int = 0
    log_mark: str = ""
    after: Facts | None = None
    begun: bool = False
    switched: bool = False
    connections: Moved | None = None
    broken: bool = False

    @property
    def node(self) -> str:
        """The node's name for people; empty where it is the only one."""
        return self.target.name if len(self.act.parts) > 1 else ""

    @property
    def number(self) -> int:
        """The release that is to serve."""
        return self.act.number

    @property
    def name(self) -> str:
        """The name of the release that is to serve."""
        return self.act.name

    @property
    def looked(self) -> Facts:
        """What was seen on the node last."""
        assert self.facts is not None, "a step before preflight asked for facts"
        return self.facts

    def note(self, text: str) -> None:
        """Tell a person something in the middle of a step."""
        self.act.say(self.node, text)

    def look(self) -> Facts:
        """Look at the node anew, at its record too."""
        self.facts = self.target.survey()
        self.record = parse_record(self.facts.record)
        return self.facts

    def hold(self, lease: Lease) -> None:
        """From now on, what changes the node needs the lease."""
        self.lease = lease
        self.target = self.target.through(FencedExecutor(self.target.executor, lease))

    def mark(self, step: str) -> None:
        """Write down that this act is under way, and how far it got."""
        record = self.deployment(Outcome.INTERRUPTED)
        note = InProgress(self.act.id, self.number, self.before, step, record)
        path = self.target.layout.in_progress
        self.target.executor.put(note.to_text().encode(), path, mode=0o644)

    def deployment(self, outcome: Outcome, reason: str = "") -> Deployment:
        """Give what is recorded of this act."""
        act, report, manifest = self.act, self.act.report, self.manifest
        return Deployment(
            id=act.id,
            action=act.action,
            release=act.number or None,
            before=self.before,
            content=manifest.content if manifest else "",
            commit=manifest.commit if manifest else "",
            dirty=manifest.dirty if manifest else False,
            who=act.person.who,
            started=act.started_text,
            duration_s=(datetime.now(UTC) - act.started).total_seconds(),
            result=outcome,
            reason=reason,
            smoke=SmokeResult(report.passed, report.failed, round(report.seconds, 3))
            if report
            else None,
            secrets=self.fingerprints,
            tool=act.tool,
            connections=self.connections,
        )


def rfc3339(moment: datetime) -> str:
    """Write a moment in UTC, to the second."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def interrupted(one: InProgress, reason: str) -> Deployment:
    """Give what is recorded of an act whose opskit died."""
    return replace(one.record, reason=reason)
