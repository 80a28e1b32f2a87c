"""What is checked of an environment when each of its keys is right by itself: how they agree."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

from chatservice.config import CHECKS_GRACE, Settings
from opskit import host_names
from opskit.environment import NODES, PORTS_APART
from opskit.environment_file import Local, Smoke, Ssh
from opskit.host_names import HIGHEST_PORT
from opskit.layout import Layout
from opskit.problems import Problem
from opskit.yaml_lines import Document, Key

_SOCKET_PATH_BYTES: Final = 107  # sun_path holds 108, with its final zero: unix(7)


def root(
    document: Document, path: tuple[Key, ...], root: Path, model: Local | Ssh
) -> Iterator[Problem]:
    """Check that the path of the control socket below a root is not too long."""
    deepest = root / NODES / "16" if isinstance(model, Local) and model.nodes > 1 else root
    socket = str(Layout(PurePosixPath(deepest)).run / "control.sock")
    if len(os.fsencode(socket)) > _SOCKET_PATH_BYTES:
        why = f"is too long: {socket} has {len(os.fsencode(socket))} bytes, and the path of a "
        why += f"Unix socket at most {_SOCKET_PATH_BYTES}; choose a shorter one"
        yield document.problem((*path, "root"), why)


def whole(
    document: Document, path: tuple[Key, ...], settings: Settings, smoke: Smoke
) -> Iterator[Problem]:
    """Check what one key alone cannot tell."""
    service = settings.service
    for name in ("port", "admin_port"):
        if not getattr(service, name):
            why = "is 0, any free port; opskit must know it, so choose one"
            yield document.problem((*path, "chat", "service", name), why)
    if service.port == service.admin_port != 0:
        why = f"is {service.admin_port}, which is chat.service.port; choose another"
        yield document.problem((*path, "chat", "service", "admin_port"), why)
    if settings.store.dsn_file and settings.store.kind == "sqlite":
        why = "is of no use with chat.store.kind sqlite; set that to postgres, or remove this"
        yield document.problem((*path, "secrets", "database_url"), why)
    grace = min(settings.timing.presence_grace, CHECKS_GRACE)
    if smoke.timeout <= grace:
        why = f"is {smoke.timeout:g} s, and the smoke test waits for people to leave, "
        yield document.problem((*path, "smoke", "timeout"), why + f"{grace:g} s; raise it")


def nodes(
    document: Document, path: tuple[Key, ...], settings: Settings, model: Local | Ssh
) -> Iterator[Problem]:
    """Check that as many nodes can share the store, and have ports."""
    many = model.nodes if isinstance(model, Local) else len(model.hosts)
    key = "nodes" if isinstance(model, Local) else "hosts"
    if many > 1 and settings.store.kind == "sqlite":
        why = f"asks for {many} nodes, and chat.store.kind sqlite is a file of one; "
        why += "choose postgres, or one node"
        yield document.problem((*path, key), why)
    above = (many - 1) * PORTS_APART if key == "nodes" else 0
    service = settings.service
    if max(service.port, service.admin_port) + above > HIGHEST_PORT:
        why = f"asks for ports up to {max(service.port, service.admin_port) + above}; "
        why += f"each node is {PORTS_APART} above the one before; choose a lower chat.service.port"
        yield document.problem((*path, key), why)
    elif abs(service.port - service.admin_port) in range(PORTS_APART, above + 1, PORTS_APART):
        why = f"asks for nodes {PORTS_APART} ports apart, and chat.service.admin_port is as far "
        why += "from chat.service.port, so that two would meet; choose another"
        yield document.problem((*path, key), why)


def monitoring(
    document: Document, path: tuple[Key, ...], settings: Settings, model: Local | Ssh
) -> Iterator[Problem]:
    """Check that the host that watches reaches the metrics of every host."""
    if model.monitoring.probe_key is not None:
        yield from _probe_key(document, (*path, "monitoring", "probe_key"), settings, model)
    if (watching := model.monitoring.host) is None:
        return
    if isinstance(model, Local):
        why = "is for hosts over SSH; this machine watches itself with `opskit monitor`: remove it"
        yield document.problem((*path, "monitoring", "host"), why)
        return
    others = {host_names.name_of(one) for one in model.hosts} - {host_names.name_of(watching)}
    service = settings.service
    if others and service.admin_host in ("127.0.0.1", "::1", "localhost"):
        why = f"is on loopback of each host, where monitoring.host ({watching}) does not reach it; "
        why += f"set 0.0.0.0, and have a firewall let it alone reach port {service.admin_port}"
        yield document.problem((*path, "chat", "service", "admin_host"), why)


def _probe_key(
    document: Document, path: tuple[Key, ...], settings: Settings, model: Local | Ssh
) -> Iterator[Problem]:
    """Check that there is a probe that signs with it, and a service that takes its tokens."""
    if model.monitoring.host is None:
        why = "is for the probe of a monitoring host, and monitoring.host names none; "
        yield document.problem(path, why + "on this machine it signs as `opskit smoke` does")
    elif not (settings.auth.jwks_file or settings.auth.jwks_url):
        why = "has no key set that its public half could be in; give secrets.jwks, or remove it: "
        yield document.problem(path, why + "without it the probe signs with the jwt_secret")
