"""opskit, killed: `python dying.py ENVIRONMENTS LAYERS ACTION N|NAME [RELEASE]`.

Does what opskit does, but ends with SIGKILL just before its Nth command that changes anything
(not counting renewals of the lease, and notes of the step that follows one), or before the first
command of that name, so that nothing of Python's cleaning up runs. Ends with status 0 when it
came to its end before that.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Generator
from pathlib import Path

from opskit import operations
from opskit.commands import Command
from opskit.deploy.plan import Event
from opskit.environments import load_environments
from opskit.fleet import connect
from opskit.transport import Executor, Result
from tests.opskit.site import TIMING, quick_smoke


class Dying(Executor):
    """Runs commands on this machine, until it dies."""

    def __init__(self, executor: Executor, last: str) -> None:
        self._executor = executor
        self._name = last
        self._left = int(last) if last.isdigit() else -1
        self._noted = False
        self.host = executor.host

    def run(self, command: Command) -> Result:
        note = any(part.endswith("/in-progress.json") for part in command.argv)
        again = note and self._noted and command.name == "write-file"
        self._noted |= note
        if command.changes and command.name != "renew-lock" and not again:
            self._left -= 1
        if (self._left == 0 and command.changes) or command.name == self._name:
            print(f"killed before: {command.description}", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        return self._executor.run(command)

    def stream(self, command: Command) -> Generator[str]:
        return self._executor.stream(command)


def observe(event: Event) -> None:
    print(f"{event.kind} {event.step} {event.text}", flush=True)


def main(environments: str, layers: str, action: str, last: str, *release: str) -> None:
    fleet = connect(load_environments(Path(environments)).get("dev"))
    fleet = fleet.through(lambda executor: Dying(executor, last))
    if action in ("deploy", "move"):
        operation = operations.deploy(fleet, observe=observe, layers=Path(layers), timing=TIMING)
        operation.act.move_data = action == "move"
    elif action == "rollback":
        wanted = int(release[0]) if release else None
        operation = operations.rollback(fleet, wanted, observe=observe, timing=TIMING)
    else:
        operation = operations.stop(fleet, observe=observe, timing=TIMING)
    operation.act.smoke = quick_smoke
    operation.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
