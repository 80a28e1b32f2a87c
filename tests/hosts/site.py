"""An environment on real hosts for tests: provisioned once, then deployed to with opskit itself."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from opskit import operations
from opskit.deploy.act import Act, Timing
from opskit.deploy.plan import Event, Kind
from opskit.environment import Environment
from opskit.environments import load_environments
from opskit.fleet import Fleet, connect
from tests.hosts.machine import Host
from tests.service_process import REPOSITORY
from tests.source_tree import SourceTree

TIMING = Timing(start=30.0, end=5.0)


@dataclass
class HostSite(SourceTree):
    """The environment `prod` on real hosts, deployed from a source tree of its own.

    Attributes:
        directory: holds environments.yaml, the secrets and the source.
        hosts: the machines, provisioned already or not.
        layers: built layers, shared by all tests.
        settings: sections of the chat service.
        secrets: references, by name; `jwt_secret` is there already.
        monitoring: that section of environments.yaml.
        events: what happened to the steps of the last act.
    """

    directory: Path
    hosts: Sequence[Host]
    layers: Path
    settings: dict[str, Any] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict)
    user: str = "root"
    monitoring: dict[str, Any] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.secret("jwt_secret", secrets.token_hex(32))
        self.restore()
        for host in self.hosts:
            host.trust()
        self.configure()

    def secret(self, name: str, value: str) -> None:
        """Give a secret a value, in a file that only we read."""
        file = self.directory / name
        file.write_text(value, encoding="utf-8")
        file.chmod(0o600)
        self.secrets[name] = f"file:{name}"

    def configure(self, **sections: dict[str, Any]) -> None:
        """Write environments.yaml; sections are those of the chat service."""
        for name, values in sections.items():
            self.settings.setdefault(name, {}).update(values)
        first = self.hosts[0]
        environment = {
            "target": "ssh",
            "hosts": [host.address for host in self.hosts],
            "user": self.user,
            "identity_file": str(first.key),
            "known_hosts": str(first.known_hosts),
            "url": f"https://{first.address}",
            "secrets": self.secrets,
            "chat": self.settings,
            "monitoring": self.monitoring,
        }
        text = json.dumps({"environments": {"prod": environment}}, indent=1)  # JSON is YAML, too
        self.file.write_text(text, encoding="utf-8")

    # --- opskit -------------------------------------------------------------------------------

    @property
    def file(self) -> Path:
        """environments.yaml."""
        return self.directory / "environments.yaml"

    @property
    def environment(self) -> Environment:
        """The environment as it is configured now."""
        return load_environments(self.file).get("prod")

    def connect(self) -> Fleet:
        """Reach its hosts, over connections of its own."""
        return connect(self.environment)

    def prepare(self, fleet: Fleet | None = None) -> operations.Operation:
        """Prepare a deploy."""
        return operations.deploy(
            fleet or self.connect(), observe=self._observe, layers=self.layers, timing=TIMING
        )

    def deploy(self) -> Act:
        """Deploy, with the smoke test."""
        return self.run(self.prepare())

    def rollback(self, wanted: int | None = None) -> Act:
        """Roll back, with the smoke test."""
        operation = operations.rollback(
            self.connect(), wanted, observe=self._observe, timing=TIMING
        )
        return self.run(operation)

    def run(self, operation: operations.Operation) -> Act:
        """Carry out an act."""
        self.events.clear()
        operation.run()
        return operation.act

    def _observe(self, event: Event) -> None:
        self.events.append(event)

    def outcome(self, step: str) -> list[tuple[str, Kind]]:
        """Give what happened to a step of the last act, and on which node."""
        return [(event.node, event.kind) for event in self.events if event.step == step]

    def opskit(
        self, *arguments: str, deadline: float = 180.0, **environ: str
    ) -> subprocess.CompletedProcess[str]:
        """Run the command line, as a person would."""
        return subprocess.run(
            self.argv(*arguments),
            env=self.environ | environ,
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=deadline,
            check=False,
        )

    def argv(self, *arguments: str) -> list[str]:
        """Give the command line that runs opskit here."""
        return [sys.executable, "-m", "opskit", "--environments", str(self.file), *arguments]

    @property
    def environ(self) -> dict[str, str]:
        """The environment variables of an opskit process."""
        return os.environ | {
            "XDG_CACHE_HOME": str(self.layers.parent.parent),
            "PYTHONPATH": str(REPOSITORY),
        }

    # --- what is there ------------------------------------------------------------------------

    def versions(self) -> list[dict[str, Any]]:
        """Give what the service on each host says it is; an empty one where none answers."""
        found = []
        for host in self.hosts:
            try:
                said = host.text("curl", "-s", "http://127.0.0.1:8765/version", check=False)
            except RuntimeError:  # it is down
                said = ""
            found.append(json.loads(said) if said.startswith("{") else {})
        return found

    @property
    def serving(self) -> list[str | None]:
        """Give the release that each host serves."""
        return [version.get("release") for version in self.versions()]
