"""One environment on one host, as the deploy steps and the read-only commands see it."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

from opskit import deployments
from opskit.commands import service
from opskit.deployments import Record
from opskit.environment import Environment
from opskit.facts import Facts, parse_survey
from opskit.failure import Failure, Misuse
from opskit.layout import Layout
from opskit.transport import Executor, LocalExecutor


@dataclass(frozen=True)
class Target:
    """Where an environment lives. `python`: the interpreter there that runs the service."""

    environment: Environment
    executor: Executor
    python: str

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
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - recognised, not bound
        return host.get(bound.host, bound.host), bound.port

    @property
    def admin_port(self) -> int:
        """The port of `/metrics`."""
        return self.environment.settings.service.admin_port

    def through(self, executor: Executor) -> Target:
        """Give the same target over another executor."""
        return replace(self, executor=executor)

    def survey(self) -> Facts:
        """Look at everything that is there; changes nothing."""
        host, port = self.address
        command = service.survey(
            self.root, python=self.python, host=host, port=port, admin_port=self.admin_port
        )
        return parse_survey(self.executor.check(command), host=self.executor.host)

    def ask(self, number: int, *words: str, changes: bool = False) -> dict[str, Any]:
        """Run a command of a release that prints a JSON object, and give that.

        Raises:
            Failure: it did not succeed; the message is what it complained of.
        """
        command = service.run(self.layout, number, *words, python=self.python, changes=changes)
        said = self.executor.check(command)
        try:
            fields = json.loads(said)
        except ValueError:
            fields = None
        if not isinstance(fields, dict):
            raise Failure(f"{self.executor.host}: {command.description} printed no JSON object")
        return fields

    def record(self) -> Record:
        """Read the record of deployments."""
        return deployments.read(self.executor, self.layout)


def connect(environment: Environment) -> Target:
    """Reach an environment's host. The one place that knows which kinds of target there are.

    Raises:
        ConfigError: what has to be filled in before anything can be deployed there is missing.
        Misuse: this version cannot reach such a target.
    """
    environment.require_deployable()
    if environment.target != "local":
        raise Misuse(
            f"{environment.where('target')}: environment {environment.name}: this version of "
            "opskit reaches this machine only; hosts over SSH are not supported yet",
            hint="use an environment with `target: local`",
        )
    # The interpreter below opskit's virtual environment: what runs is the layer, nothing else.
    python = str(getattr(sys, "_base_executable", None) or sys.executable)
    return Target(environment, LocalExecutor(), python)
