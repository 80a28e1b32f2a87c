"""environments.yaml as frozen, validated objects; every error names file, line and key.

The keys under `chat` are those of `chatservice.config`, checked by its own `settings_from`, so
that no list of them is written twice. What only opskit can know (directories, the files that
hold secrets) cannot be set there.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import msgspec

from chatservice.config import CHECKS_GRACE, Settings
from opskit import chat_settings, host_names, yaml_lines
from opskit.environment_file import SECRETS, Local, Smoke, Ssh, read_environment
from opskit.layout import Layout
from opskit.monitoring_file import Monitoring
from opskit.patience import Patience
from opskit.problems import ConfigError, Problem
from opskit.secret_checks import check_value
from opskit.secrets import Secret, SecretRef, Source, resolve
from opskit.yaml_lines import Document, Key

SECRET_FILES: Final[Mapping[str, str]] = {
    "jwt_secret": "auth.secret_file",
    "jwt_previous_secret": "auth.previous_secret_file",
    "jwks": "auth.jwks_file",
    "database_url": "store.dsn_file",
}
"""The secrets that are files on a host, and the service's setting that names each file.

`signing_key` is none of them: only opskit uses it, to sign the tokens of the smoke test.
"""
SIGNING: Final = ("jwt_secret", "signing_key", "jwks")
"""The secrets that tokens are signed with, or found by."""
_MAX_PORT: Final = 65_535
NODES: Final = "nodes"
"""The directory, below an environment's root, of the roots of its second node and the further."""
PORTS_APART: Final = 10
"""How far the ports of one node are from those of the next."""
_SOCKET_PATH_BYTES: Final = 107  # sun_path holds 108, with its final zero: unix(7)


@dataclass(frozen=True)
class Environment:
    """One environment: what to deploy where.

    `root` is absolute; on this machine for a local environment, on each host otherwise. `python`
    (as `3.11`) and `platform` (None: this machine's) are what a release's layer is built for.
    """

    name: str
    target: Literal["local", "ssh"]
    root: Path
    base_url: str
    python: str
    platform: str | None
    hosts: tuple[str, ...]
    user: str
    """Who logs in on the hosts; empty: whom ~/.ssh/config names, else root."""
    identity_file: Path | None
    known_hosts: Path | None
    jump: str
    patience: Patience
    nodes: int
    """How many chat processes run on this machine; on hosts one on each."""
    releases_keep: int
    smoke: Smoke
    monitoring: Monitoring
    secrets: Mapping[str, SecretRef]
    settings: Settings
    path: Path
    """The file that says all this."""
    _document: Document = field(repr=False, compare=False)

    @property
    def base_dir(self) -> Path:
        """The directory that `file:` references are relative to, and `command:` ones run in."""
        return self.path.parent

    @property
    def layout(self) -> Layout:
        """Where everything lies under the root."""
        return Layout(PurePosixPath(self.root))

    @property
    def unit(self) -> str:
        """The systemd unit of the service, on hosts."""
        return f"chat-{self.name}.service"

    def node(self, number: int) -> Environment:
        """Give the environment as its node `number`, from 1, has it; the first has it as it is.

        The others have a root of their own below it, and ports of their own above its.
        """
        if number == 1:
            return self
        above = (number - 1) * PORTS_APART
        bound = self.settings.service
        service = msgspec.structs.replace(
            bound, port=bound.port + above, admin_port=bound.admin_port + above
        )
        settings = msgspec.structs.replace(self.settings, service=service)
        return replace(
            self,
            root=self.root / NODES / str(number),
            settings=settings,
            base_url=_loopback_url(settings),
        )

    @property
    def node_urls(self) -> tuple[str, ...]:
        """The addresses at which clients reach it: one a node on this machine, else the one."""
        return tuple(self.node(number).base_url for number in range(1, self.nodes + 1))

    @property
    def ws_url(self) -> str:
        """The base URL for WebSocket connections."""
        return "ws" + self.base_url.removeprefix("http")

    def where(self, *path: Key) -> str:
        """Give `file:line` of one of this environment's keys."""
        return self._document.where(("environments", self.name, *path))

    def problem(self, *path: Key, why: str) -> Problem:
        """Say what is wrong with one of this environment's keys."""
        return self._document.problem(("environments", self.name, *path), why)

    def chat_settings(self, root: Path | PurePosixPath | None = None) -> dict[str, Any]:
        """Give the service's settings, every key of them, for a root (this environment's own)."""
        mapping = chat_settings.complete(self.settings)
        for key, value in _own_settings(Layout(PurePosixPath(root or self.root)), self.secrets):
            section, name = key.split(".")
            mapping[section][name] = value
        return mapping

    def secret_files(self, root: Path | PurePosixPath | None = None) -> dict[str, PurePosixPath]:
        """Give the file on a host of each secret that the service needs."""
        layout = Layout(PurePosixPath(root or self.root))
        return {name: layout.secret(name) for name in SECRET_FILES if name in self.secrets}

    def resolve_secrets(self, only: Collection[str] | None = None) -> dict[str, Secret]:
        """Fetch secrets, `signing_key` included; a generated one is made if need be.

        Args:
            only: the names of those that are wanted; all by default.

        Raises:
            ConfigError: one is missing, empty, or not what it should be; says all of them.
        """
        values: dict[str, Secret] = {}
        problems: list[Problem] = []
        for name, ref in self.secrets.items():
            if only is not None and name not in only:
                continue
            place = Path(self.layout.secret(name))
            try:
                values[name] = resolve(ref, self.base_dir, generated=place)
                check_value(name, ref, values[name])
            except ConfigError as error:
                problems += error.problems
        if problems:
            raise ConfigError(problems)
        return values

    def require_deployable(self) -> None:
        """Check that there is something to deploy to.

        Raises:
            ConfigError: hosts or the address are missing; says what to fill in, and where.
        """
        problems = []
        if self.target == "ssh" and not self.hosts:
            why = "is empty; list the machines to deploy to, for example\n"
            why += f"    hosts: [{self.name}1.example.com, {self.name}2.example.com]"
            problems.append(self.problem("hosts", why=why))
        if not self.base_url:
            why = "is required; say how clients reach it, for example\n"
            problems.append(self.problem("url", why=why + "    url: https://chat.example.com"))
        elif (urlsplit(self.base_url).hostname or "").endswith(".example.com"):
            why = f"is still the example, {self.base_url}; say how clients reach your hosts"
            problems.append(self.problem("url", why=why))
        if problems:
            raise ConfigError(problems)


@dataclass(frozen=True)
class Environments:
    """All environments of one file."""

    path: Path
    by_name: Mapping[str, Environment]

    def get(self, name: str) -> Environment:
        """Give an environment.

        Raises:
            ConfigError: there is none of that name.
        """
        if name not in self.by_name:
            why = f"there is no environment {name!r}; there are: {', '.join(self.by_name)}"
            raise ConfigError([Problem(yaml_lines.shown(self.path), "", why)])
        return self.by_name[name]


def load_environments(path: Path) -> Environments:
    """Read and check environments.yaml, all of it.

    Raises:
        ConfigError: it cannot be read, or anything in it is wrong; says everything that is.
    """
    try:
        document = yaml_lines.load(path)
    except ConfigError as error:
        if not path.exists():
            why = "there is no such file; run opskit where it is, or give --environments FILE"
            raise ConfigError([Problem(yaml_lines.shown(path), "", why)]) from None
        raise error from None
    value = document.value
    if not isinstance(value, dict) or not isinstance(value.get("environments"), dict):
        why = "expected a mapping `environments:` with one entry for each environment"
        raise ConfigError([document.problem(("environments",), why)])
    problems = [
        document.problem((key,), "unknown key; the only one here is environments")
        for key in value
        if key != "environments"
    ]
    environments: dict[str, Environment] = {}
    for name, raw in value["environments"].items():
        found = _load_one(document, path.absolute(), name, raw)
        if isinstance(found, Environment):
            environments[name] = found
        else:
            problems += found
    problems += _shared_roots(environments.values())
    if problems:
        raise ConfigError(sorted(problems, key=_line_number))
    return Environments(path, MappingProxyType(environments))


def _line_number(problem: Problem) -> int:
    return int(problem.where.rpartition(":")[2])


def _load_one(document: Document, file: Path, name: str, raw: Any) -> Environment | list[Problem]:
    """Check one environment whole."""
    model = read_environment(document, name, raw)
    if isinstance(model, list):
        return model
    path: tuple[Key, ...] = ("environments", name)
    secrets, problems = _read_secrets(document, path, model)
    root = Path(os.path.normpath(file.parent / Path(model.root).expanduser()))
    # A reference that is wrong is there all the same: it is complained of once.
    own = dict(_own_settings(Layout(PurePosixPath(root)), model.secrets))
    settings, complaints = chat_settings.check(model.chat, own)
    problems += [_chat_problem(document, path, complaint) for complaint in complaints]
    deepest = root / NODES / "16" if isinstance(model, Local) and model.nodes > 1 else root
    socket = str(Layout(PurePosixPath(deepest)).run / "control.sock")
    if len(os.fsencode(socket)) > _SOCKET_PATH_BYTES:
        why = f"is too long: {socket} has {len(os.fsencode(socket))} bytes, and the path of a "
        why += f"Unix socket at most {_SOCKET_PATH_BYTES}; choose a shorter one"
        problems.append(document.problem((*path, "root"), why))
    if settings is not None:
        problems += _check_whole(document, path, settings, model.smoke)
        problems += _check_nodes(document, path, settings, model)
        problems += _check_monitoring(document, path, settings, model)
    if settings is None or problems:
        return problems
    base_url = model.url or (_loopback_url(settings) if isinstance(model, Local) else "")
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    return Environment(
        name=name,
        target=model.target,
        root=root,
        base_url=base_url,
        python=model.python if isinstance(model, Ssh) else running,
        platform=model.platform if isinstance(model, Ssh) else None,
        hosts=tuple(model.hosts) if isinstance(model, Ssh) else (),
        user=(model.user or "") if isinstance(model, Ssh) else "",
        identity_file=_beside(file, model.identity_file) if isinstance(model, Ssh) else None,
        known_hosts=_beside(file, model.known_hosts) if isinstance(model, Ssh) else None,
        jump=(model.jump or "") if isinstance(model, Ssh) else "",
        patience=Patience(model.connect_timeout, model.command_timeout)
        if isinstance(model, Ssh)
        else Patience(),
        nodes=model.nodes if isinstance(model, Local) else 1,
        releases_keep=model.releases.keep,
        smoke=model.smoke,
        monitoring=model.monitoring,
        secrets=MappingProxyType(secrets),
        settings=settings,
        path=file,
        _document=document,
    )


def _beside(file: Path, path: str | None) -> Path | None:
    """Give a path of this machine, relative to environments.yaml unless it is absolute."""
    return Path(os.path.normpath(file.parent / Path(path).expanduser())) if path else None


def _check_whole(
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


def _check_nodes(
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
    if max(service.port, service.admin_port) + above > _MAX_PORT:
        why = f"asks for ports up to {max(service.port, service.admin_port) + above}; "
        why += f"each node is {PORTS_APART} above the one before; choose a lower chat.service.port"
        yield document.problem((*path, key), why)
    elif abs(service.port - service.admin_port) in range(PORTS_APART, above + 1, PORTS_APART):
        why = f"asks for nodes {PORTS_APART} ports apart, and chat.service.admin_port is as far "
        why += "from chat.service.port, so that two would meet; choose another"
        yield document.problem((*path, key), why)


def _check_monitoring(
    document: Document, path: tuple[Key, ...], settings: Settings, model: Local | Ssh
) -> Iterator[Problem]:
    """Check that the host that watches reaches the metrics of every host."""
    if model.monitoring.probe_key is not None:
        yield from _check_probe_key(document, (*path, "monitoring", "probe_key"), settings, model)
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


def _check_probe_key(
    document: Document, path: tuple[Key, ...], settings: Settings, model: Local | Ssh
) -> Iterator[Problem]:
    """Check that there is a probe that signs with it, and a service that takes its tokens."""
    if model.monitoring.host is None:
        why = "is for the probe of a monitoring host, and monitoring.host names none; "
        yield document.problem(path, why + "on this machine it signs as `opskit smoke` does")
    elif not (settings.auth.jwks_file or settings.auth.jwks_url):
        why = "has no key set that its public half could be in; give secrets.jwks, or remove it: "
        yield document.problem(path, why + "without it the probe signs with the jwt_secret")


def _own_settings(layout: Layout, secrets: Iterable[str]) -> list[tuple[str, str]]:
    """Give the service's settings that opskit alone decides."""
    settings = [("service.state_dir", str(layout.state)), ("service.run_dir", str(layout.run))]
    present = set(secrets)
    settings += [(key, str(layout.secret(n))) for n, key in SECRET_FILES.items() if n in present]
    return settings


def _loopback_url(settings: Settings) -> str:
    """Say how this machine reaches a service that listens on it."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(  # noqa: S104 - recognised, not bound
        settings.service.host, settings.service.host
    )
    return (
        f"http://[{host}]:{settings.service.port}"
        if ":" in host
        else (f"http://{host}:{settings.service.port}")
    )


def _read_secrets(
    document: Document, path: tuple[Key, ...], model: Local | Ssh
) -> tuple[dict[str, SecretRef], list[Problem]]:
    """Read the references of an environment; their values are fetched when they are needed."""
    secrets: dict[str, SecretRef] = {}
    problems: list[Problem] = []
    for name, text in model.secrets.items():
        location = (*path, "secrets", name)
        if name not in SECRETS:
            why = chat_settings.unknown_key(name, list(SECRETS))
            problems.append(document.problem(location, why))
            continue
        try:
            ref = SecretRef.parse(
                text, where=document.where(location), key=yaml_lines.dotted(location)
            )
        except ConfigError as error:
            problems += error.problems
            continue
        if ref.source is Source.GENERATE and (model.target != "local" or name != "jwt_secret"):
            why = "generate is only for the jwt_secret of a local environment; give env:NAME, "
            problems.append(document.problem(location, why + "file:PATH or command:WORDS"))
            continue
        secrets[name] = ref
    return secrets, problems


def _chat_problem(
    document: Document,
    path: tuple[Key, ...],
    complaint: chat_settings.Complaint,
) -> Problem:
    """Find the line that a complaint of the service's is about."""
    key, why = yaml_lines.dotted(complaint.path), complaint.why
    location: tuple[Key, ...] = (*path, "chat", *complaint.path)
    if why != chat_settings.OWN_KEYS.get(key):
        # What the service says of a file that holds a secret is, here, about the secret.
        for name, setting in SECRET_FILES.items():
            why = re.sub(rf"\b{setting.partition('.')[2]}\b", name, why)
            if key == setting:
                location = (*path, "secrets", name)
        if key == SECRET_FILES["jwt_secret"] and why.startswith("is required"):
            why = "is required, unless secrets.jwks or chat.auth.jwks_url is given; for example\n"
            why += "    jwt_secret: env:CHAT_JWT_SECRET"
    return document.problem(location, why)


def _shared_roots(environments: Iterable[Environment]) -> list[Problem]:
    """Find environments on this machine that would overwrite each other."""
    owners: dict[Path, Environment] = {}
    problems = []
    for environment in environments:
        if environment.target != "local":
            continue
        first = owners.setdefault(environment.root, environment)
        if first is not environment:
            why = f"is also the root of {first.name}; give each environment its own"
            problems.append(environment.problem("root", why=why))
    return problems
