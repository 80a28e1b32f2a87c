"""What is true on a host: the survey's answer as objects. Reading it is pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from opskit.failure import Failure
from opskit.layout import BadVersion, release_number
from opskit.lock import Holder


@dataclass(frozen=True)
class Manifest:
    """What a release says of itself; the parts that deploying needs."""

    content: str
    commit: str
    dirty: bool
    built_at: str
    layer: str
    schema_version: int
    readable_from: int

    @classmethod
    def parse(cls, fields: Mapping[str, Any]) -> Manifest | None:
        """Read a manifest; None when it is not one."""
        try:
            return cls(
                content=str(fields["content"]),
                commit=str(fields.get("commit") or ""),
                dirty=bool(fields.get("dirty")),
                built_at=str(fields.get("built_at") or ""),
                layer=PurePosixPath(fields["layer"]).name,
                schema_version=int(fields["schema"]["version"]),
                readable_from=int(fields["schema"]["readable_from"]),
            )
        except (KeyError, TypeError, ValueError):
            return None


@dataclass(frozen=True)
class Process:
    """A process that serves, or tries to serve, a release. `started`: Unix time in seconds."""

    pid: int
    release: int
    started: float


@dataclass(frozen=True)
class Serving:
    """The release of this environment that answers.

    Attributes:
        release: its number.
        pid: its process.
        commit: what it says it was built from.
        host, port: where it answers.
        unready: why it is not ready; empty when it is.
        metrics: whether its metrics can be read.
        full: whether it is not ready only because its store has no room: what is there is read.
    """

    release: int
    pid: int
    commit: str
    host: str
    port: int
    unready: str
    metrics: bool
    full: bool = False


@dataclass(frozen=True)
class Listener:
    """Who listens on a TCP port; empty and None when the kernel does not let us see it."""

    port: int
    pid: int | None
    command: str


@dataclass(frozen=True)
class HeldLease:
    """The lease that lies on the host. `left`: seconds until it ends; not above 0: it ended."""

    token: str
    holder: Holder
    left: float


@dataclass(frozen=True)
class Facts:
    """One look at one node of an environment.

    `record`: the lines of deployments.jsonl. `nodes`: the processes of each further node that
    lives below its root, by number. `unit`: whether the systemd unit is there, where there shall
    be one. `proxy`: the state of the proxy's unit, `active` when it runs; None on this machine.
    `control`: what the service says of itself on its control socket; None when it is silent.
    `free_files`: -1 where the file system has no limit of its own.
    """

    python: str
    machine: str
    user: int
    tools: Mapping[str, bool]
    writable: bool
    free_bytes: int
    free_files: int
    current: int | None
    releases: Mapping[int, Manifest | None]
    incoming: tuple[str, ...]
    layers: tuple[str, ...]
    in_progress: str
    record: str
    lease: HeldLease | None
    processes: tuple[Process, ...]
    nodes: Mapping[int, tuple[Process, ...]]
    unit: bool
    proxy: str | None
    control: Mapping[str, Any] | None
    serving: Serving | None
    listeners: tuple[Listener, ...]
    bindable: Mapping[int, str]

    def listener(self, port: int) -> Listener | None:
        """Give who listens on a port."""
        return next((one for one in self.listeners if one.port == port), None)

    def beyond(self, nodes: int) -> list[int]:
        """Give the further nodes that lie here, though there shall be no more than `nodes`."""
        return sorted(number for number in self.nodes if number > nodes)

    def running_beyond(self, nodes: int) -> list[int]:
        """Give those of them that still run."""
        return [number for number in self.beyond(nodes) if self.nodes[number]]


def parse_survey(text: str, *, host: str = "host") -> Facts:
    """Read what `commands/host/survey.py` prints.

    Raises:
        Failure: it is not what that program prints.
    """
    try:
        return _facts(json.loads(text))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Failure(f"{host}: the survey's answer cannot be read: {error!r}") from None


def _facts(seen: Mapping[str, Any]) -> Facts:
    processes = _processes(seen["processes"])
    return Facts(
        python=seen["python"],
        machine=seen["machine"],
        user=seen["user"],
        tools=seen["tools"],
        writable=seen["writable"],
        free_bytes=seen["free_bytes"],
        free_files=seen["free_files"],
        current=parse_current(seen["current"] or ""),
        releases={
            release_number(name): Manifest.parse(fields) if fields else None
            for name, fields in seen["releases"].items()
        },
        incoming=tuple(seen["incoming"]),
        layers=tuple(seen["layers"]),
        in_progress=seen["in_progress"] or "",
        record=seen["record"] or "",
        lease=parse_lease(seen["lock"] or "", boot=seen["boot"], uptime=float(seen["uptime"])),
        processes=processes,
        nodes={int(number): _processes(there) for number, there in seen["nodes"].items()},
        unit=seen["unit"],
        proxy=seen["proxy"],
        control=seen["control"],
        serving=_serving(seen["answers"], processes),
        listeners=tuple(
            Listener(int(port), who["pid"], who["command"] or "")
            for port, who in sorted(seen["listeners"].items())
        ),
        bindable={int(port): why or "" for port, why in seen["bindable"].items()},
    )


def _processes(seen: Sequence[Mapping[str, Any]]) -> tuple[Process, ...]:
    return tuple(
        Process(one["pid"], release_number(one["release"]), one["started"]) for one in seen
    )


def parse_current(target: str) -> int | None:
    """Read what `current` points at; None when it is nothing of ours."""
    path = PurePosixPath(target)
    if path.parent.name != "releases":
        return None
    try:
        return release_number(path.name)
    except BadVersion:
        return None


def parse_lease(text: str, *, boot: str, uptime: float) -> HeldLease | None:
    """Read a lock file; a lease of before the last boot has ended."""
    first, _, holder = text.partition("\n")
    fields = first.split()
    if len(fields) != 3:
        return None
    left = int(fields[1]) / 100 - uptime if fields[0] == boot else 0.0
    return HeldLease(fields[2], Holder.parse(holder), left)


def _serving(answers: Sequence[Mapping[str, Any]], processes: Sequence[Process]) -> Serving | None:
    """Find the answer that a process of this environment gave; the newest, if there are two."""
    found: dict[int, Serving] = {}
    for answer in answers:
        try:
            body = json.loads(answer["version"]["body"])
            number, pid = release_number(body["release"]), int(body["pid"])
        except (ValueError, KeyError, TypeError, AttributeError):
            continue  # something else answers there
        found[pid] = Serving(
            release=number,
            pid=pid,
            commit=str(body.get("commit") or ""),
            host=answer["host"],
            port=answer["port"],
            unready=_unready(answer["ready"]),
            metrics=answer["metrics"] == 200,
            full=_full(answer["ready"]),
        )
    return next((found[one.pid] for one in reversed(processes) if one.pid in found), None)


def _unready(ready: Mapping[str, Any] | None) -> str:
    """Give the reason why the service is not ready; empty when it is."""
    if ready is None:
        return "no answer on /readyz"
    if ready["status"] == 200:
        return ""
    return reason(ready["body"]) or f"HTTP {ready['status']} on /readyz"


def _full(ready: Mapping[str, Any] | None) -> bool:
    """Say whether the service is not ready for want of room alone; older releases do not tell."""
    if ready is None or ready["status"] == 200:
        return False
    try:
        return bool(json.loads(ready["body"])["kind"] == "full")
    except (ValueError, KeyError, TypeError):
        return False


def reason(body: str) -> str:
    """Give the reason in the body of a 503, as JSON or as text."""
    try:
        fields = json.loads(body)
    except ValueError:
        return body.strip()[:200]
    return str(fields.get("reason") or "") if isinstance(fields, dict) else body.strip()[:200]
