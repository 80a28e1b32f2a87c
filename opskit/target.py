"""One node of an environment, as the deploy steps and the read-only commands see it."""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any, Final

from chatservice.config import Settings, SettingsError, settings_from
from opskit import deployments
from opskit.commands import service
from opskit.deployments import Record
from opskit.environment import Environment
from opskit.facts import Facts, parse_survey
from opskit.failure import Failure
from opskit.layout import Layout, release_name
from opskit.supervision import Supervisor
from opskit.transport import CommandFailed, Executor

NOT_FOUND: Final = 127
"""Exit status of a shell that finds no such program (POSIX)."""
_LOOPBACK: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - recognised, not bound


@dataclass(frozen=True)
class Target:
    """One chat process of an environment, and the place where it lives.

    Attributes:
        environment: the environment as this node has it: its root, its ports.
        executor: what runs commands there.
        supervisor: what starts and ends the service there.
        python: the interpreter there that runs the service.
    """

    environment: Environment
    executor: Executor
    supervisor: Supervisor
    python: str

    @property
    def name(self) -> str:
        """The node's name for people."""
        return self.executor.host

    @property
    def layout(self) -> Layout:
        """The paths there."""
        return self.environment.layout

    @property
    def root(self) -> PurePosixPath:
        """The environment's root there."""
        return self.layout.root

    @property
    def address(self) -> tuple[str, int]:
        """Where, on the host itself, the service answers."""
        bound = self.environment.settings.service
        return _LOOPBACK.get(bound.host, bound.host), bound.port

    @property
    def admin_address(self) -> tuple[str, int]:
        """Where, on the host itself, `/metrics` is."""
        bound = self.environment.settings.service
        return _LOOPBACK.get(bound.admin_host, bound.admin_host), bound.admin_port

    def through(self, executor: Executor) -> Target:
        """Give the same target over another executor."""
        return replace(self, executor=executor)

    def survey(self) -> Facts:
        """Look at everything that is there; changes nothing."""
        command = service.survey(
            self.root,
            python=self.python,
            address=self.address,
            admin=self.admin_address,
            unit=self.supervisor.unit,
        )
        try:
            return parse_survey(self.executor.check(command), host=self.executor.host)
        except CommandFailed as failure:
            if failure.result.status != NOT_FOUND:
                raise
            raise Failure(
                f"{self.name}: {self.python} is not there",
                hint=f"opskit provision {self.environment.name}",
            ) from None

    def ask(
        self, number: int, *words: str, changes: bool = False, timeout: float = 120.0
    ) -> dict[str, Any]:
        """Run a command of a release that prints a JSON object, and give that.

        Raises:
            Failure: it did not succeed; the message is what it complained of.
        """
        command = service.run(self.layout, number, *words, python=self.python, changes=changes)
        command = self.supervisor.as_service(replace(command, timeout=timeout))
        said = self.executor.check(command)
        try:
            fields = json.loads(said)
        except ValueError:
            fields = None
        if not isinstance(fields, dict):
            raise Failure(f"{self.executor.host}: {command.description} printed no JSON object")
        return fields

    def settings_of(self, number: int) -> Settings:
        """Give the settings that a release was deployed with.

        They may differ from those configured now. What this version cannot read is taken from now.
        """
        text = self.executor.get(self.layout.settings(number))
        try:
            return settings_from(tomllib.loads(text), where=release_name(number))
        except (tomllib.TOMLDecodeError, SettingsError):
            return self.environment.settings

    def record(self) -> Record:
        """Read the record of deployments."""
        return deployments.read(self.executor, self.layout)
