"""How one node is: what was seen on it, put together. Changes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from opskit.deploy.act import InProgress
from opskit.deploy.mend import finished
from opskit.deployments import Record
from opskit.environment import Environment
from opskit.facts import Facts, HeldLease
from opskit.failure import Failure
from opskit.fleet import surplus
from opskit.layout import release_name
from opskit.render import diff, render
from opskit.rendering import live_configuration
from opskit.target import Target


@dataclass(frozen=True)
class NodeStatus:
    """One node as it is now.

    Attributes:
        target: which.
        facts: what is there.
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
    def where_it_runs(self) -> str:
        """The release, processes and address of a node that runs."""
        serving, processes = self.facts.serving, self.facts.processes
        release = serving.release if serving else processes[-1].release
        host, port = (serving.host, serving.port) if serving else self.target.address
        pids = ", ".join(str(one.pid) for one in processes)
        return f"{release_name(release)}, pid {pids}, {host}:{port}"

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
            return "nothing is deployed", f"opskit {'deploy' if facts.unit else 'provision'} {name}"
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
        if not facts.unit:
            unit = self.target.supervisor.unit
            return f"{unit} is not there: nothing starts it at boot", f"opskit provision {name}"
        if facts.proxy not in (None, "active"):
            return f"the proxy is {facts.proxy or 'not there'}", f"opskit provision {name}"
        return "", ""

    def to_json(self) -> dict[str, Any]:
        """Give what is this node's own under stable keys."""
        facts = self.facts
        service = self.service or {}
        trouble, next_command = self.trouble
        return {
            "node": self.target.name,
            "root": str(self.target.root),
            "ok": self.ok,
            "trouble": trouble,
            "next": next_command,
            "release": release_name(facts.current) if facts.current else None,
            "serving": {
                "release": release_name(facts.serving.release),
                "pid": facts.serving.pid,
                "host": facts.serving.host,
                "port": facts.serving.port,
                "ready": not facts.serving.unready,
                "reason": facts.serving.unready,
                "uptime_s": service.get("uptime"),
                "connections": service.get("connections"),
                "rooms": service.get("rooms"),
            }
            if facts.serving
            else None,
            "releases": [release_name(number) for number in sorted(facts.releases)],
            "proxy": facts.proxy,
            "configuration_differs": bool(self.drift),
            "disk_free_bytes": facts.free_bytes,
        }


@dataclass(frozen=True)
class Unreached:
    """A node that could not be looked at. `why`: the reason; `hint`: what to do about it."""

    target: Target
    why: str
    hint: str

    ok: ClassVar[bool] = False

    @property
    def where_it_runs(self) -> str:
        """What there is to say instead of that."""
        return f"cannot be looked at: {self.why}"

    @property
    def trouble(self) -> tuple[str, str]:
        """What is wrong, and what to do next."""
        return self.why, self.hint

    def to_json(self) -> dict[str, Any]:
        """Give what is known, under the same keys."""
        return {
            "node": self.target.name,
            "root": str(self.target.root),
            "ok": False,
            "trouble": self.why,
            "next": self.hint,
            "release": None,
            "serving": None,
            "releases": [],
            "proxy": None,
            "configuration_differs": None,
            "disk_free_bytes": None,
        }


def look_or_say_why(node: Target) -> NodeStatus | Unreached:
    """Find out how one node is, or why that cannot be."""
    try:
        return look_at(node)
    except Failure as failure:
        return Unreached(node, str(failure), failure.hint)


def look_at(target: Target) -> NodeStatus:
    """Find out how one node is."""
    facts, record = target.survey(), target.record()
    service, silence = facts.control, "nothing serves"
    if facts.serving is not None:
        silence = "" if service is not None else "it does not answer on its control socket"
    return NodeStatus(
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


def look_at_surplus(environment: Environment, seen: Facts) -> tuple[NodeStatus | Unreached, ...]:
    """Find out how the nodes are that still run, though the environment has fewer now.

    One that cannot be looked at is among them: the first one saw that it runs.

    Args:
        environment: as it is configured now.
        seen: what was seen on its first node.
    """
    found = [look_or_say_why(node) for node in surplus(environment, seen)]
    return tuple(node for node in found if isinstance(node, Unreached) or node.facts.processes)


def too_many(environment: Environment, nodes: Sequence[NodeStatus | Unreached]) -> tuple[str, str]:
    """Say which nodes run though there shall be fewer, and what to do; empty for none."""
    if not nodes:
        return "", ""
    which = "; ".join(f"{node.target.name} ({node.where_it_runs})" for node in nodes)
    still = "still runs" if len(nodes) == 1 else "still run"
    name, them = environment.name, "it" if len(nodes) == 1 else "them"
    return (
        f"{which} {still}, though `nodes` is {environment.nodes} at {environment.where('nodes')}",
        f"opskit deploy {name} sends their members to the others and ends {them}; "
        f"opskit stop {name} ends all",
    )
