"""How an environment is: what was seen on its nodes, put together. Changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from opskit.deploy.act import InProgress
from opskit.deployments import Record, merge
from opskit.environment import Environment
from opskit.facts import HeldLease
from opskit.failure import Failure
from opskit.fleet import Fleet
from opskit.layout import release_name
from opskit.node_status import (
    NodeStatus,
    Unreached,
    look_at_surplus,
    look_or_say_why,
    too_many,
)
from opskit.observe.standing import Looking, Standing


@dataclass(frozen=True)
class Status:
    """An environment as it is now: each of its nodes."""

    fleet: Fleet
    nodes: tuple[NodeStatus | Unreached, ...]
    certificate: float | None = None
    """Unix time at which the certificate that clients are shown ends; None where none is."""
    surplus: tuple[NodeStatus | Unreached, ...] = ()
    """Nodes of this machine that still run, though the environment has fewer now."""
    standing: Standing | None = None
    """How it is watched; None where it is not, or that was not asked."""

    @property
    def seen(self) -> list[NodeStatus]:
        """The nodes that could be looked at."""
        return [node for node in self.nodes if isinstance(node, NodeStatus)]

    @property
    def ok(self) -> bool:
        """Whether every node serves the release that it shall, and all the same."""
        current = {node.facts.current for node in self.seen}
        return all(node.ok for node in self.nodes) and len(current) == 1

    @property
    def trouble(self) -> tuple[str, str]:
        """What is wrong, and the command to run next; both empty when nothing is."""
        environment = self.fleet.environment
        for node in self.nodes:
            what, command = node.trouble
            if what:
                several = len(self.nodes) > 1 and not what.startswith(node.target.name)
                return (f"{node.target.name}: {what}" if several else what), command
        releases = {node.facts.current for node in self.seen if node.facts.current}
        if len(releases) > 1:
            names = ", ".join(release_name(number) for number in sorted(releases))
            return f"nodes serve different releases: {names}", f"opskit deploy {environment.name}"
        if self.certificate is not None and self.certificate <= datetime.now(UTC).timestamp():
            what = f"the certificate that {environment.base_url} shows has expired: nobody connects"
            return what, f"opskit check {environment.name}"
        return too_many(environment, self.surplus)

    @property
    def record(self) -> Record:
        """The record of deployments, put together from every node's."""
        return merge([node.record for node in self.seen])

    @property
    def busy(self) -> HeldLease | None:
        """The lease of whoever deploys right now."""
        return next((node.busy for node in self.seen if node.busy), None)

    @property
    def interrupted(self) -> InProgress | None:
        """The deployment whose opskit died."""
        return next((node.interrupted for node in self.seen if node.interrupted), None)

    def to_json(self) -> dict[str, Any]:
        """Give everything under stable keys; those of one node are the first one's."""
        environment, record = self.fleet.environment, self.record
        first = self.seen[0] if self.seen else None
        facts = first.facts if first else None
        service: Mapping[str, Any] = (first.service if first else None) or {}
        current = facts.current if facts else None
        manifest = facts.releases.get(current) if facts and current else None
        trouble, next_command = self.trouble
        own = (first or self.nodes[0]).to_json()
        return {
            "environment": environment.name,
            "target": environment.target,
            "url": environment.base_url,
            "urls": list(environment.node_urls),
            "root": str(environment.root),
            "ok": self.ok,
            "trouble": trouble,
            "next": next_command,
            "release": own["release"],
            "commit": manifest.commit if manifest else None,
            "dirty": manifest.dirty if manifest else None,
            "built_at": manifest.built_at if manifest else None,
            "serving": own["serving"],
            "store": {
                "bytes": service.get("database_bytes"),
                "schema": service.get("schema"),
                "kind": environment.settings.store.kind,
            },
            "releases": own["releases"],
            "last_deployment": record.last.to_json() if record.last else None,
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
            "configuration_differs": any(node.drift for node in self.seen),
            "disk_free_bytes": own["disk_free_bytes"],
            "certificate_ends": None
            if self.certificate is None
            else datetime.fromtimestamp(self.certificate, UTC).isoformat(timespec="seconds"),
            "nodes": [node.to_json() for node in self.nodes],
            "monitoring": self.standing.to_json() if self.standing else None,
            "surplus": [node.to_json() for node in self.surplus],
        }


def look(fleet: Fleet, *, watching: bool = False) -> Status:
    """Find out how an environment is; a node out of reach is part of the answer.

    Args:
        fleet: its nodes.
        watching: find out how it is watched, too.

    Raises:
        Failure: the only node is out of reach.
    """
    begun = Looking(fleet.environment) if watching else None
    nodes = tuple(fleet.each(look_or_say_why))
    if len(nodes) == 1 and isinstance(nodes[0], Unreached):
        raise Failure(nodes[0].why, hint=nodes[0].hint)
    lead = nodes[0]
    more = look_at_surplus(fleet.environment, lead.facts) if isinstance(lead, NodeStatus) else ()
    certificate = _certificate(fleet.environment)
    return Status(fleet, nodes, certificate, more, begun.end() if begun else None)


def _certificate(environment: Environment) -> float | None:
    if environment.target == "local" or not environment.base_url.startswith("https"):
        return None
    from opskit.observe.probe import certificate_expiry  # here: it takes long to load

    return certificate_expiry(environment.base_url)
