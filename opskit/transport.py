"""Executors: what runs a command on a host. Nothing else in opskit touches a host.

`LocalExecutor` runs on this machine; `RecordingExecutor` runs nothing that changes anything and
remembers, for the plan and for tests. A host over SSH needs one more class with a `run` and a
`stream`: the rest is built from these two.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import FrameType
from typing import IO

from opskit.commands import Command, files
from opskit.failure import Failure

# What a login over SSH would give a command, so that it runs on this machine as it does there:
# nothing of opskit's own environment, and no secret in it, reaches the service.
_ENVIRONMENT = ("HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ", "TMPDIR")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Result:
    """How a command ended and what it wrote."""

    status: int
    stdout: str = ""
    stderr: str = ""


_NO_ROOM = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT))


def _cause(said: Sequence[str]) -> tuple[str, list[str]]:
    """Give the line of a complaint that says why, and the others that are worth showing.

    That is the last one, unless it was a full disk, which is said first and then repeated.
    """
    for line in said:
        if any(word in line for word in _NO_ROOM):
            return line, []
    return said[-1], list(said[:-1])


class CommandFailed(Failure):
    """A command ended with another status than 0."""

    def __init__(self, host: str, command: Command, result: Result) -> None:
        said = "" if command.secret else (result.stderr or result.stdout).strip()
        why, lines = _cause(said.splitlines() or [f"exit status {result.status}"])
        full = any(word in why for word in _NO_ROOM)
        hint = f"make room on {host} (see with: df -h; df -i), then run the same command again"
        super().__init__(
            f"{host}: could not {command.description}: {why}",
            hint=hint if full else "",
            lines=lines[-20:],
        )
        self.command = command
        self.result = result


class CommandTimeout(Failure):
    """A command did not end in time and was killed."""

    def __init__(self, host: str, command: Command, *, hint: str = "") -> None:
        super().__init__(
            f"{host}: could not {command.description}: not done after {command.timeout:g} s",
            hint=hint,
        )
        self.command = command


class Executor(ABC):
    """Runs commands on one host, from any thread. `host` is its name for people."""

    host: str

    @abstractmethod
    def run(self, command: Command) -> Result:
        """Run a command to its end and give its result, whatever its status.

        Raises:
            CommandTimeout: it did not end within its timeout; it was killed.
        """

    @abstractmethod
    def stream(self, command: Command) -> Generator[str]:
        """Run a command and give its lines as it writes them; closing the generator ends it.

        Bytes that are not UTF-8 come as surrogate escapes.
        """

    def check(self, command: Command) -> str:
        """Run a command that must succeed, and give what it wrote.

        Raises:
            CommandFailed: its status was not 0.
            CommandTimeout: it did not end in time.
        """
        result = self.run(command)
        if result.status != 0:
            raise CommandFailed(self.host, command, result)
        return result.stdout

    def put(
        self, content: bytes, path: PurePosixPath, *, mode: int = 0o644, secret: bool = False
    ) -> None:
        """Write a file, whole or not at all."""
        self.check(files.write(path, content, mode=mode, secret=secret))

    def put_tree(self, directory: Path, path: PurePosixPath) -> None:
        """Copy a local directory with its modes and symbolic links; `path` is made."""
        self.check(files.unpack(path, archive(directory)))

    def get(self, path: PurePosixPath) -> str:
        """Read a text file; a missing one reads as empty."""
        return self.check(files.read(path))


def archive(directory: Path) -> bytes:
    """Give a directory as a tar archive: sorted, without owners."""

    def anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        return entry

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(directory.rglob("*")):
            name = str(path.relative_to(directory))
            tar.add(path, name, recursive=False, filter=anonymous)
    return buffer.getvalue()


class LocalExecutor(Executor):
    """Runs commands on this machine, each in a session of its own.

    A Ctrl-C on the terminal therefore reaches opskit alone, which then undoes in order.
    """

    def __init__(self, host: str = "this machine") -> None:
        self.host = host

    def run(self, command: Command) -> Result:
        """Run a command; see `Executor.run`."""
        with self._started(command, stderr=subprocess.PIPE) as process:
            try:
                stdout, stderr = process.communicate(timeout=command.timeout)
            except subprocess.TimeoutExpired:
                raise CommandTimeout(self.host, command) from None
        return Result(
            process.returncode, stdout.decode("utf-8", "replace"), stderr.decode("utf-8", "replace")
        )

    def stream(self, command: Command) -> Generator[str]:
        """Give a command's lines; see `Executor.stream`."""
        with self._started(command, stderr=subprocess.DEVNULL) as process:
            assert process.stdout
            for line in process.stdout:
                yield line.decode("utf-8", "surrogateescape").removesuffix("\n")

    @contextlib.contextmanager
    def _started(self, command: Command, *, stderr: int) -> Iterator[subprocess.Popen[bytes]]:
        """Start it; whatever happens meanwhile, neither it nor its children are left behind."""
        process: subprocess.Popen[bytes] | None = None
        try:
            with signals_deferred():
                process = self._start(command, stderr)
            yield process
        finally:
            if process is not None:
                _end(process)

    def _start(self, command: Command, stderr: int) -> subprocess.Popen[bytes]:
        environment = {key: os.environ[key] for key in _ENVIRONMENT if key in os.environ}
        try:
            with _whole(command.stdin) as stdin:
                return subprocess.Popen(
                    command.argv,
                    stdin=stdin,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    cwd="/",
                    env={"PATH": _PATH} | environment,
                    start_new_session=True,
                )
        except OSError as error:
            raise Failure(
                f"{self.host}: could not {command.description}: {command.argv[0]}: {error.strerror}"
            ) from None


@contextlib.contextmanager
def _whole(content: bytes) -> Iterator[IO[bytes] | int]:
    """Give what a command reads `content` from: all of it, though opskit dies meanwhile.

    A pipe would end then, and the command take half a file for a whole one. It is in memory
    (memfd_create(2)), since it may be a secret; elsewhere than on Linux in a file without a name.
    """
    if not content:
        yield subprocess.DEVNULL
        return
    with (
        os.fdopen(os.memfd_create("opskit"), "w+b")
        if sys.platform == "linux"
        else tempfile.TemporaryFile()
    ) as file:
        file.write(content)
        file.seek(0)
        yield file


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process that still runs, with its children, and let go of its pipes."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    for pipe in (process.stdout, process.stderr):
        if pipe:
            with contextlib.suppress(OSError):
                pipe.close()
    process.wait()


@contextlib.contextmanager
def signals_deferred() -> Iterator[None]:
    """Hear signals only afterwards, so that what is being made has an owner when they come."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pending: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        pending.append(number)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [(number, signal.signal(number, note)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler or signal.SIG_DFL)
        if pending:
            os.kill(os.getpid(), pending[0])


Answer = Result | Callable[[Command], Result]


class RecordingExecutor(Executor):
    """Runs nothing that changes anything; `commands` holds what it was asked to run.

    Args:
        answers: results by the name of the command; they win over everything else.
        reader: runs the commands that change nothing; without one they succeed in silence.
        host: the name for people.
    """

    def __init__(
        self,
        answers: Mapping[str, Answer] | None = None,
        *,
        reader: Executor | None = None,
        host: str = "host",
    ) -> None:
        self.answers = dict(answers or {})
        self.reader = reader
        self.host = reader.host if reader else host
        self.commands: list[Command] = []

    def run(self, command: Command) -> Result:
        """Remember a command and answer from the table; see `Executor.run`."""
        self.commands.append(command)
        answer = self.answers.get(command.name)
        if callable(answer):
            return answer(command)
        if answer is not None:
            return answer
        if self.reader is not None and not command.changes:
            return self.reader.run(command)
        return Result(0)

    def stream(self, command: Command) -> Generator[str]:
        """Give the lines of the answer; see `Executor.stream`."""
        yield from self.run(command).stdout.splitlines()
