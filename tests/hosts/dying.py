"""opskit, killed on its way to real hosts: `python dying.py ENVIRONMENTS LAYERS WHEN [HOST]`.

Deploys as opskit does, with the quick proof, and ends with SIGKILL at a point, so that nothing of
Python's cleaning up runs. WHEN is one of

    before STEP     the step is about to begin
    after STEP      the step has just ended
    within COMMAND  a command of that name is about to be sent
    behind COMMAND  a command of that name has just been done

and HOST, where it is given, is the host at which that happens. Ends with status 0 when the deploy
came to its end before that.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Generator
from pathlib import Path
from typing import NoReturn

from opskit import operations
from opskit.commands import Command
from opskit.deploy.plan import Event, Kind
from opskit.environments import load_environments
from opskit.fleet import connect
from opskit.transport import Executor, Result
from tests.hosts.proven import quick_smoke
from tests.hosts.site import TIMING

_KINDS = {"before": (Kind.STARTED,), "after": (Kind.DONE, Kind.SKIPPED)}


class Dying(Executor):
    """Runs commands on a host, until it dies."""

    def __init__(self, executor: Executor, when: str, name: str, host: str) -> None:
        self._executor = executor
        self._when, self._name = when, name
        self._here = not host or host == executor.host
        self.host = executor.host

    def run(self, command: Command) -> Result:
        due = self._here and command.name == self._name
        if due and self._when == "within":
            _die(f"before: {command.description}")
        result = self._executor.run(command)
        if due and self._when == "behind":
            _die(f"after: {command.description}")
        return result

    def stream(self, command: Command) -> Generator[str]:
        return self._executor.stream(command)


def _die(where: str) -> NoReturn:
    print(f"killed {where}", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("it is dead")


def main(environments: str, layers: str, when: str, name: str, host: str = "") -> None:
    def observe(event: Event) -> None:
        print(f"{event.kind} {event.step} {event.node} {event.text}", flush=True)
        due = event.kind in _KINDS.get(when, ()) and event.step == name
        if due and (not host or event.node == host):
            _die(f"{when} {name} {event.node}")

    fleet = connect(load_environments(Path(environments)).get("prod"))
    fleet = fleet.through(lambda executor: Dying(executor, when, name, host))
    operation = operations.deploy(fleet, observe=observe, layers=Path(layers), timing=TIMING)
    operation.act.smoke = quick_smoke
    operation.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
