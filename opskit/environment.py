"""One environment, as environments.yaml says it: what to deploy where; frozen, and checked whole.

What only opskit can know of the service's settings (directories, the files that hold secrets) is
filled in here, and cannot be set in the file.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import msgspec

from chatservice.config import Settings
from opskit import chat_settings
from opskit.environment_file import Smoke
from opskit.layout import Layout
from opskit.monitoring_file import Monitoring
from opskit.patience import Patience
from opskit.problems import ConfigError, Problem
from opskit.secret_checks import check_value
from opskit.secrets import Secret, SecretRef, resolve
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
NODES: Final = "nodes"
"""The directory, below an environment's root, of the roots of its second node and the further."""
PORTS_APART: Final = 10
"""How far the ports of one node are from those of the next."""


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
            base_url=loopback_url(settings),
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
        for key, value in own_settings(Layout(PurePosixPath(root or self.root)), self.secrets):
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


def own_settings(layout: Layout, secrets: Iterable[str]) -> list[tuple[str, str]]:
    """Give the service's settings that opskit alone decides."""
    settings = [("service.state_dir", str(layout.state)), ("service.run_dir", str(layout.run))]
    present = set(secrets)
    settings += [(key, str(layout.secret(n))) for n, key in SECRET_FILES.items() if n in present]
    return settings


def loopback_url(settings: Settings) -> str:
    """Say how this machine reaches a service that listens on it."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(  # noqa: S104 - recognised, not bound
        settings.service.host, settings.service.host
    )
    return (
        f"http://[{host}]:{settings.service.port}"
        if ":" in host
        else (f"http://{host}:{settings.service.port}")
    )
