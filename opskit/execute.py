"""`opskit exec`: one command on every node, its words shown as they come."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from opskit.commands import Command
from opskit.failure import Failure, Misuse
from opskit.fleet import Fleet
from opskit.target import Target
from opskit.transport import Result
from opskit.ui import Ui

SECONDS = 3600.0
"""How long a command may take."""


def execute(fleet: Fleet, words: Sequence[str], *, ui: Ui, aside: Ui) -> dict[str, int]:
    """Run a command on every node at once; gives each one's exit status.

    What it writes is shown when it has ended, with the node's name where there are several; what
    it complains of goes `aside`.

    Raises:
        Misuse: there is no command.
    """
    if not words:
        raise Misuse("exec: there is no command", hint="opskit exec ENV -- uptime")
    command = Command(tuple(words), f"run {words[0]}", "exec", timeout=SECONDS)
    one_at_a_time = threading.Lock()
    several = len(fleet.nodes) > 1

    def run(node: Target) -> int:
        try:
            result = node.executor.run(command)
        except Failure as failure:
            result = Result(255, "", str(failure))
        before = f"{node.name}: " if several else ""
        with one_at_a_time:
            for line in result.stdout.splitlines():
                ui.say(before + line)
            for line in result.stderr.splitlines():
                aside.say(before + line)
            if result.status and several:
                aside.say(f"{before}exit status {result.status}")
        return result.status

    statuses = fleet.each(run)
    return {node.name: status for node, status in zip(fleet.nodes, statuses, strict=True)}
