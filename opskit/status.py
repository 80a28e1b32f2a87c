"""How an environment is: what was seen there, put together. Changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from opskit.deploy.act import InProgress
from opskit.deploy.mend import finished
from opskit.deployments import Record
from opskit.facts import Facts, HeldLease
from opskit.failure import Failure
from opskit.layout import release_name
from opskit.render import diff, render
from opskit.rendering import live_configuration
from opskit.target import Target


@dataclass(frozen=True)
class Status:
    """An environment as it is now.

    Attributes:
        target: which.
        facts: what is on the host.
        record: its deployments.
        service: what the service says of itself on its control socket; None when it is silent.
        silence: why it is silent.
        interrupted: the deployment whose opskit died; None when there is none.
        drift: the diff from the configuration that is live to what would be rendered now.
    """

    target: Target
    facts: Facts
    record: Record
    service: Mapping[str, Any] | None
    silence: str
    interrupted: InProgress | None
    drift: str

    @property
    def busy(self) -> HeldLease | None:
        """The lease of whoever deploys right now."""
        lease = self.facts.lease
        return lease if lease is not None and lease.left > 0 else None

    @property
    def ok(self) -> bool:
        """Whether the release that shall serve does, and is ready."""
        serving = self.facts.serving
        return serving is not None and not serving.unready and serving.release == self.facts.current

    @property
    def trouble(self) -> tuple[str, str]:
        """What is wrong, and the command to run next; both empty when nothing is."""
        facts, name = self.facts, self.target.environment.name
        serving = facts.serving
        if self.interrupted is not None:
            what = f"{self.interrupted.record.action} of {release_name(self.interrupted.release)}"
            return (
                f"the {what} by {self.interrupted.record.who} was interrupted in the step "
                f"{self.interrupted.step}",
                f"the next deploy, rollback or stop mends that; for example: opskit deploy {name}",
            )
        if facts.current is None and serving is None:
            return "nothing is deployed", f"opskit deploy {name}"
        if serving is None:
            last = self.record.last
            if last is not None and last.action == "stop":
                return f"stopped by {last.who} at {last.started}", f"opskit deploy {name}"
            return "nothing serves; it was not stopped by opskit", f"opskit deploy {name}"
        if serving.release != facts.current:
            current = release_name(facts.current) if facts.current else "nothing"
            return (
                f"{release_name(serving.release)} serves, but current is {current}",
                f"opskit rollback {release_name(serving.release)} --env {name}",
            )
        if serving.unready:
            return f"not ready: {serving.unready}", f"opskit tail {name} --level warning"
        return "", ""

    def to_json(self) -> dict[str, Any]:
        """Give everything under stable keys."""
        facts, environment = self.facts, self.target.environment
        manifest = facts.releases.get(facts.current) if facts.current else None
        service = self.service or {}
        trouble, next_command = self.trouble
        return {
            "environment": environment.name,
            "target": environment.target,
            "url": environment.base_url,
            "root": str(environment.root),
            "ok": self.ok,
            "trouble": trouble,
            "next": next_command,
            "release": release_name(facts.current) if facts.current else None,
            "commit": manifest.commit if manifest else None,
            "dirty": manifest.dirty if manifest else None,
            "built_at": manifest.built_at if manifest else None,
            "serving": {
                "release": release_name(facts.serving.release),
                "pid": facts.serving.pid,
                "ready": not facts.serving.unready,
                "reason": facts.serving.unready,
                "uptime_s": service.get("uptime"),
                "connections": service.get("connections"),
                "rooms": service.get("rooms"),
            }
            if facts.serving
            else None,
            "store": {
                "bytes": service.get("database_bytes"),
                "schema": service.get("schema"),
                "kind": environment.settings.store.kind,
            },
            "releases": [release_name(number) for number in sorted(facts.releases)],
            "last_deployment": self.record.last.to_json() if self.record.last else None,
            "interrupted": {
                "step": self.interrupted.step,
                **self.interrupted.record.to_json(),
            }
            if self.interrupted
            else None,
            "lock": {
                "who": self.busy.holder.who,
                "since": self.busy.holder.since,
                "what": self.busy.holder.what,
            }
            if self.busy
            else None,
            "configuration_differs": bool(self.drift),
            "disk_free_bytes": facts.free_bytes,
        }


def look(target: Target) -> Status:
    """Find out how an environment is."""
    facts, record = target.survey(), target.record()
    service, silence = None, "nothing serves"
    if facts.serving is not None:
        try:
            service, silence = target.ask(facts.serving.release, "ctl", "status"), ""
        except Failure as failure:
            silence = str(failure)
    return Status(
        target=target,
        facts=facts,
        record=record,
        service=service,
        silence=silence,
        interrupted=interrupted(facts, record),
        drift=drift(target, facts),
    )


def interrupted(facts: Facts, record: Record) -> InProgress | None:
    """Give the act whose opskit died; None when there is none, or one is under way right now."""
    one = InProgress.parse(facts.in_progress)
    if one is None or finished(record, one.id):
        return None
    return None if facts.lease is not None and facts.lease.left > 0 else one


def drift(target: Target, facts: Facts) -> str:
    """Give the diff from the live configuration to what would be rendered; empty without any."""
    if facts.current is None:
        return ""
    return diff(live_configuration(target, facts.current), render(target.environment))
