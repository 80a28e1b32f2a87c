"""What keeps the service of one node running, and how opskit talks to it.

`Detached` is for this machine: processes of their own, started and ended by opskit, that log to a
file. `Systemd` is for hosts: one unit that hands over on `reload`, starts again after a crash or
a reboot, and logs to the journal.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Final

from opskit.commands import Command, service, systemd
from opskit.failure import Failure
from opskit.layout import Layout, release_name
from opskit.transport import Executor

REFUSED: Final = "the running process "
"""How the words of a process begin that could not take over (chatservice/takeover.py)."""
SERVES_ON: Final = "this process does: "
"""What stands before the words of a successor in those of the process that serves on."""


@dataclass(frozen=True)
class Started:
    """A release that was told to serve.

    Attributes:
        pid: its process.
        mark: where the log ended before it.
        failed: why it does not serve, where that is known already.
        refused: why the running process would not hand over, where that is known already.
        late: it does not serve yet, though it was given its time.
    """

    pid: int
    mark: str
    failed: str = ""
    refused: str = ""
    late: bool = False


class Supervisor(ABC):
    """Starts, ends and reads the service of one node. Holds no state: the node does.

    `unit`: the systemd unit's name; empty where there is none.
    """

    unit: str = ""

    @abstractmethod
    def start(
        self, executor: Executor, number: int, *, seconds: float, take_over: bool = True
    ) -> Started:
        """Let a release serve, to which `current` points; it takes over from whoever serves.

        Without `take_over` it starts cold, where nobody serves. Whoever waits for it here waits
        for `seconds` at most.
        """

    @abstractmethod
    def end(self, executor: Executor, pids: Sequence[int], *, seconds: float) -> dict[int, str]:
        """End processes of this node, and say what became of each.

        They are ended orderly, and by force after `seconds`.
        """

    @abstractmethod
    def log_mark(self, executor: Executor) -> str:
        """Say where the log ends now."""

    @abstractmethod
    def log_since(self, executor: Executor, mark: str, lines: int) -> list[str]:
        """Give the last lines that were logged after a mark; none if they cannot be read."""

    @abstractmethod
    def history(
        self, executor: Executor, *, lines: int | None, since: float
    ) -> tuple[Iterable[str], str]:
        """Give the log as it is now, oldest line first, and the mark where that ends.

        Args:
            executor: where.
            lines: how many of the last lines; None for all.
            since: Unix time in seconds, where the node can leave out what was before; 0 for all.
        """

    @abstractmethod
    def follow(self, executor: Executor, mark: str) -> Generator[tuple[str, str]]:
        """Give each line that is logged after a mark, with its own mark, as it comes.

        It ends when the connection to the host does, and can be called again with the last mark.
        """

    @abstractmethod
    def as_service(self, command: Command) -> Command:
        """Give the command that runs `command` as the user that the service runs as."""

    @property
    def group(self) -> str:
        """The group that reads what is installed; empty where the owner runs the service."""
        return ""


class Detached(Supervisor):
    """Processes on this machine, each in a session of its own."""

    def __init__(self, layout: Layout, python: str) -> None:
        self._layout = layout
        self._python = python

    def start(
        self, executor: Executor, number: int, *, seconds: float, take_over: bool = True
    ) -> Started:
        """Start a process of a release; see `Supervisor.start`."""
        command = service.start(self._layout, number, python=self._python, take_over=take_over)
        said = executor.check(command).split()
        if len(said) != 2 or not all(part.isdigit() for part in said):
            raise Failure(f"{executor.host}: starting {release_name(number)} said {said}")
        return Started(int(said[0]), said[1])

    def end(self, executor: Executor, pids: Sequence[int], *, seconds: float) -> dict[int, str]:
        """End processes; see `Supervisor.end`."""
        return _end(executor, self._layout, self._python, pids, seconds)

    def log_mark(self, executor: Executor) -> str:
        """Give how long the log is, in bytes."""
        said = executor.check(service.log_size(self._layout.log)).strip()
        return said if said.isdigit() else "0"

    def log_since(self, executor: Executor, mark: str, lines: int) -> list[str]:
        """Read the end of the log file."""
        command = service.log_since(self._layout.log, int(mark or 0), lines)
        try:
            return executor.check(command).splitlines()
        except Failure:
            return []

    def history(
        self, executor: Executor, *, lines: int | None, since: float
    ) -> tuple[Iterable[str], str]:
        """Read the log file up to where it ends now; see `Supervisor.history`."""
        mark = executor.check(service.log_size(self._layout.log)).strip()
        if not mark:
            return [], ""
        command = service.log_until(self._layout.log, int(mark), lines)
        return executor.stream(command), mark

    def follow(self, executor: Executor, mark: str) -> Generator[tuple[str, str]]:
        """Read on, over rotation and truncation; the mark stays where it was."""
        command = service.follow(self._layout.log, after=int(mark or 0))
        with closing(executor.stream(command)) as stream:
            for line in stream:
                yield line, mark

    def as_service(self, command: Command) -> Command:
        """The service runs as whoever runs opskit."""
        return command


class Systemd(Supervisor):
    """One unit on a host (systemd.service(5)).

    Args:
        layout: where everything lies there.
        python: the interpreter there.
        unit: the unit's name, with `.service`.
        user: the user that the unit runs as.
    """

    def __init__(self, layout: Layout, python: str, unit: str, *, user: str = "chat") -> None:
        self._layout = layout
        self._python = python
        self.unit = unit
        self.user = user

    def start(
        self, executor: Executor, number: int, *, seconds: float, take_over: bool = True
    ) -> Started:
        """Have the running process hand over, or start the unit where nothing runs."""
        reload = service.run(
            self._layout, number, "ctl", "reload", python=self._python, changes=True
        )
        way = self.as_service(reload) if take_over else None
        said = executor.run(systemd.serve(self.unit, way, seconds=seconds))
        fields = _fields(said.stdout)
        mark, pid = fields.get("cursor", ""), int(fields.get("pid", "0") or 0)
        if said.status == 0:
            return Started(pid, mark)
        if said.status == systemd.LATE:
            return Started(pid, mark, late=True)
        words = said.stderr.strip().splitlines() or [f"exit status {said.status}"]
        if fields.get("how") != "reload":
            return Started(pid, mark, failed=words[0])
        why = words[-1].removeprefix("chatservice: ")
        own = why.rpartition(SERVES_ON)[2]
        refused = own if own == why or own.startswith(REFUSED) else ""
        return Started(pid, mark, failed=own, refused=refused)

    def end(self, executor: Executor, pids: Sequence[int], *, seconds: float) -> dict[int, str]:
        """Stop the unit if its main process is among them; end the others by pid."""
        said = executor.run(systemd.stop_if(self.unit, pids, seconds=seconds))
        stopped = {int(pid): "stopped" for pid in said.stdout.split() if pid.isdigit()}
        rest = [pid for pid in pids if pid not in stopped]
        others = _end(executor, self._layout, self._python, rest, seconds) if rest else {}
        return stopped | others

    def log_mark(self, executor: Executor) -> str:
        """Give the cursor of the journal's last entry."""
        return executor.check(systemd.cursor(self.unit)).strip()

    def log_since(self, executor: Executor, mark: str, lines: int) -> list[str]:
        """Read the end of the unit's journal."""
        try:
            return executor.check(systemd.journal(self.unit, mark, lines)).splitlines()
        except Failure:
            return []

    def history(
        self, executor: Executor, *, lines: int | None, since: float
    ) -> tuple[Iterable[str], str]:
        """Read the unit's journal up to where it ends now; see `Supervisor.history`."""
        command = systemd.follow(self.unit, after="", lines=lines, since=since, keep=False)
        entries = [
            entry for line in executor.stream(command) if (entry := _entry(line)) is not None
        ]
        mark = entries[-1][1] if entries else self.log_mark(executor)
        return [text for text, _ in entries], mark

    def follow(self, executor: Executor, mark: str) -> Generator[tuple[str, str]]:
        """Read on; the mark of a line is its cursor in the journal."""
        command = systemd.follow(self.unit, after=mark, lines=0, since=0.0, keep=True)
        with closing(executor.stream(command)) as stream:
            for line in stream:
                if (entry := _entry(line)) is not None:
                    yield entry

    def as_service(self, command: Command) -> Command:
        """Run it as the unit's user, so that what it makes can be used by the service."""
        return systemd.as_user(command, self.user)

    @property
    def group(self) -> str:
        """The unit's user has a group of its own name."""
        return self.user


def _end(
    executor: Executor, layout: Layout, python: str, pids: Sequence[int], seconds: float
) -> dict[int, str]:
    command = service.end(layout.root, pids, python=python, seconds=seconds)
    said = json.loads(executor.check(command))
    return {int(pid): outcome for pid, outcome in said.items()}


def _entry(line: str) -> tuple[str, str] | None:
    """Read the message of a journal entry, and its cursor; None when it is no entry.

    A message that is not UTF-8 comes as a list of bytes (systemd's Journal JSON Format).
    """
    try:
        fields = json.loads(line)
        message, cursor = fields["MESSAGE"], str(fields["__CURSOR"])
    except (ValueError, KeyError, TypeError):
        return None
    if isinstance(message, list):
        return bytes(message).decode("utf-8", "surrogateescape"), cursor
    return str(message), cursor


def _fields(text: str) -> dict[str, str]:
    """Read lines of the form `name=value`."""
    return dict(re.findall(r"^([a-z]+)=(.*)$", text, re.MULTILINE))
