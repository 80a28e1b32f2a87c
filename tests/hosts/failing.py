"""Deploys to hosts that shall fail: for the release, or for what is done to a host meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Generator

import pytest

from opskit.commands import Command
from opskit.deployments import Deployment
from opskit.failure import Failure
from opskit.transport import Executor, Result
from tests.hosts.site import HostSite


class Meddling(Executor):
    """Runs commands on a host, and does something there just after the first one of a name."""

    def __init__(self, executor: Executor, name: str, do: Callable[[], object]) -> None:
        self._executor, self._name, self._do = executor, name, do
        self.host = executor.host

    def run(self, command: Command) -> Result:
        result = self._executor.run(command)
        if command.name == self._name:
            self._name = ""
            self._do()
        return result

    def stream(self, command: Command) -> Generator[str]:
        return self._executor.stream(command)


def meddled(site: HostSite, name: str, do: Callable[[], object]) -> Failure:
    """Deploy while something is done to a host after a command; gives how it failed."""
    fleet = site.connect().through(lambda one: Meddling(one, name, do))
    with pytest.raises(Failure) as caught:
        site.run(site.prepare(fleet))
    return caught.value


def failed_deploy(site: HostSite, status: int = 1) -> str:
    """Deploy as a person does; gives what that says, after it ended with an exit status."""
    done = site.opskit("deploy", "prod")
    said = done.stdout + done.stderr
    print(said)
    assert done.returncode == status, said
    assert "Traceback" not in done.stdout
    return said


def last(site: HostSite) -> Deployment:
    """Give the last record of the first host."""
    return site.connect().lead.record().deployments[-1]
