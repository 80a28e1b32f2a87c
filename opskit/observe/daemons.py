"""Processes that outlive the command that started them, known again by what they were started as.

A process is ours when its pid still runs exactly the command line that was written down: a pid
that was used again by something else is never signalled.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from opskit.failure import Failure

END_SECONDS: Final = 10.0
_POLL: Final = 0.02


@dataclass(frozen=True)
class Daemon:
    """One program that runs in the background.

    Attributes:
        name: for people.
        argv: what it is to run as.
        note: the file in which is written down what runs.
        log: where its output goes.
        ready: says whether it does its work.
        environ: variables added to those of opskit.
    """

    name: str
    argv: tuple[str, ...]
    note: Path
    log: Path
    ready: Callable[[], bool]
    environ: Mapping[str, str] | None = None

    @property
    def pid(self) -> int | None:
        """The process that runs, whatever its arguments; None when none does."""
        written = self._written()
        return written[0] if written and command_line(written[0]) == written[1] else None

    @property
    def current(self) -> bool:
        """Whether what runs is what should."""
        written = self._written()
        return self.pid is not None and written is not None and written[1] == self.argv

    def start(self, seconds: float) -> None:
        """Start it, and wait until it does its work.

        Raises:
            Failure: it ended, or was not ready in time; shows the last lines of its log.
        """
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.note.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            offset = log.tell()
            try:
                process = subprocess.Popen(
                    self.argv,
                    cwd="/",
                    env={**os.environ, **(self.environ or {})},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as error:
                raise Failure(f"{self.argv[0]} cannot be run: {error.strerror}") from None
        self.note.write_text(json.dumps({"pid": process.pid, "argv": self.argv}), encoding="utf-8")
        until = time.monotonic() + seconds
        while not self.ready():
            status = process.poll()
            if status is not None or time.monotonic() > until:
                why = f"ended with {status}" if status is not None else "does not answer"
                said = self.log.read_bytes()[offset:].decode(errors="replace").splitlines()[-10:]
                self.stop()
                raise Failure(
                    f"{self.name} {why}", lines=said, hint=f"look at {self.log}"
                )  # fmt: skip
            time.sleep(_POLL)

    def stop(self) -> bool:
        """End it with all that it runs, by force if need be; False when it did not run."""
        pid = self.pid
        if pid is None:
            self.note.unlink(missing_ok=True)
            return False
        for number, seconds in ((signal.SIGTERM, END_SECONDS), (signal.SIGKILL, END_SECONDS)):
            try:
                os.killpg(pid, number)  # it leads a session, so nobody else is in its group
            except ProcessLookupError:
                break
            until = time.monotonic() + seconds
            while (left := _group_lives(pid)) and time.monotonic() < until:
                _reap(pid)
                time.sleep(_POLL)
            if not left:
                break
        self.note.unlink(missing_ok=True)
        return True

    def _written(self) -> tuple[int, tuple[str, ...]] | None:
        try:
            fields = json.loads(self.note.read_text(encoding="utf-8"))
            return int(fields["pid"]), tuple(map(str, fields["argv"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None


def command_line(pid: int) -> tuple[str, ...] | None:
    """Give the command line of a process; None when there is none, or it is a zombie."""
    try:
        text = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return None
    return tuple(os.fsdecode(text).split("\0")[:-1]) or None


def _group_lives(group: int) -> bool:
    """Say whether any process of a group is left; one that only waits to be reaped is not."""
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                stat = Path(entry.path, "stat").read_text(encoding="utf-8", errors="replace")
            except OSError:
                continue
            state, _, its_group = stat.rpartition(")")[2].split()[:3]
            if int(its_group) == group and state not in "ZX":
                return True
    return False


def _reap(pid: int) -> None:
    """Let a child of this very process go; any other's is not ours to wait for."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return


def program(*names: str, package: str) -> str:
    """Find a program.

    Raises:
        Failure: it is not installed; says how.
    """
    import shutil

    for name in names:
        if (found := shutil.which(name)) is not None:
            return found
    raise Failure(f"{names[0]} is not installed", hint=f"sudo apt-get install {package}")


def said(argv: Sequence[str], seconds: float = 60.0) -> tuple[bool, str]:
    """Run a program that checks something; give whether it was content, and what it said."""
    done = subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds,
        check=False,
    )
    return done.returncode == 0, done.stdout
