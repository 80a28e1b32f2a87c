"""The executor for a host over SSH: every command over one connection, from any thread.

As another user than root, commands run through `sudo -n`. A command that takes too long, and one
whose caller is interrupted, is killed there with all that it started; where the host cannot be
reached any more, it ends there by itself a little later.
"""

from __future__ import annotations

import codecs
import contextlib
import selectors
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import paramiko

from opskit.commands import Command, remote
from opskit.environment import Environment
from opskit.failure import Failure
from opskit.ssh_connection import (
    CONNECT_TIMEOUT,
    Address,
    CannotConnect,
    Connection,
    ConnectionLost,
    Login,
)
from opskit.transport import CommandTimeout, Executor, Result

_CHUNK = 32 * 1024
_INLINE = 256 * 1024
"""Bytes that fit into any window: they are sent at once, without a thread of their own."""
_AT_ONCE = 4
"""Commands at once. sshd allows 10 sessions (MaxSessions), and forgets closed ones a little later
than it is told: 4 that run, 4 that were closed, and 2 to end commands."""
_KILL_TIMEOUT = 5.0


class SshExecutor(Executor):
    """Runs commands on one host over SSH.

    Args:
        address: where the host is.
        login: how to get in.

    Attributes:
        host: its name for people.
    """

    def __init__(self, address: Address, login: Login | None = None) -> None:
        self.host = str(address)
        self._connection = Connection(address, login or Login())
        self._slots = threading.BoundedSemaphore(_AT_ONCE)

    @property
    def round_trips(self) -> int:
        """How often opskit waited for the host: 5 to connect, 3 a command (open, start, end)."""
        return self._connection.round_trips

    def connect(self) -> None:
        """Connect now, and not at the first command.

        Raises:
            CannotConnect: it could not be done; says why.
            HostKeyRefused: the host is unknown, or another than the known one.
        """
        self._connection.transport()

    def close(self) -> None:
        """Close the connection; the next command makes a new one."""
        self._connection.close()

    def run(self, command: Command) -> Result:
        """Run a command; see `Executor.run`.

        Raises:
            CommandTimeout: it did not end in time; it was killed.
            ConnectionLost: the connection broke; whether the command was done is unknown.
            CannotConnect: there was no connection, and none could be made; nothing was run.
        """
        deadline = time.monotonic() + command.timeout
        stdout, stderr = bytearray(), bytearray()
        with self._started(command, remote.line(command, sudo=self._sudo), stderr) as channel:
            feeder = _feed(channel, command.stdin)
            for chunk in _read(channel, stderr, deadline):
                if chunk is None:
                    raise CommandTimeout(self.host, command, command.timeout)
                stdout += chunk
            status = self._status(command, channel, deadline)
            if feeder is not None:
                feeder.join()
        said = remote.said(bytes(stderr))
        if said.leader is None:
            raise self._not_started(command, said.stderr, status)
        return Result(status, stdout.decode("utf-8", "replace"), said.stderr)

    def stream(self, command: Command) -> Generator[str]:
        """Give a command's lines; see `Executor.stream`.

        Raises:
            ConnectionLost: the connection broke; every line that came before was given.
        """
        stderr = bytearray()
        line = remote.line(command, sudo=self._sudo, stream=True)
        decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        pending = ""
        with self._started(command, line, stderr) as channel:
            _feed(channel, command.stdin)
            for chunk in _read(channel, stderr, None):
                pending += decoder.decode(chunk or b"")
                *lines, pending = pending.split("\n")
                yield from lines
            pending += decoder.decode(b"", final=True)
            status = self._status(command, channel, time.monotonic() + CONNECT_TIMEOUT)
            if pending:
                yield pending
        said = remote.said(bytes(stderr))
        if said.leader is None:
            raise self._not_started(command, said.stderr, status)

    # --- one command --------------------------------------------------------------------------

    @property
    def _sudo(self) -> bool:
        return self._connection.user != "root"

    @contextmanager
    def _started(self, command: Command, line: str, stderr: bytearray) -> Iterator[Any]:
        """Start a command; whatever happens meanwhile, it does not go on there."""
        with self._slots:
            channel = self._start(command, line)
            try:
                yield channel
            except paramiko.SSHException as error:
                raise self._lost(command, str(error)) from None
            except (OSError, EOFError) as error:
                raise self._lost(command, str(error)) from None
            finally:
                if not channel.exit_status_ready():
                    self._kill(_leader(channel, stderr))
                channel.close()

    def _start(self, command: Command, line: str) -> Any:
        """Open a channel and start the command on it.

        A connection that was lost meanwhile is made once more: the command was not sent yet. One
        that is silent is given up; the next command makes a new one.
        """
        for last in (False, True):
            transport = self._connection.transport()
            try:
                self._connection.count(1)
                channel = transport.open_session(timeout=min(command.timeout, CONNECT_TIMEOUT))
                break
            except (paramiko.SSHException, OSError, EOFError) as error:
                if transport.is_active() and isinstance(error, paramiko.ChannelException):
                    raise CannotConnect(
                        f"{self.host}: could not {command.description}: sshd opens no session "
                        f"({error.text})",
                        hint="raise MaxSessions in its sshd_config to 10 or more",
                    ) from None
                silent = transport.is_active()
                self._connection.discard(transport)
                if last or silent:
                    raise CannotConnect(
                        f"{self.host}: could not {command.description}: the host does not answer",
                        hint="see that it runs, and run the same command again",
                    ) from None
        channel.settimeout(min(command.timeout, CONNECT_TIMEOUT))
        try:
            self._connection.count(1)
            channel.exec_command(line)
        except (paramiko.SSHException, OSError, EOFError) as error:
            self._connection.discard(transport)
            raise self._lost(command, str(error)) from None
        channel.settimeout(None)
        return channel

    def _status(self, command: Command, channel: Any, deadline: float) -> int:
        """Wait for the exit status, which may come a little later than the last output."""
        if not channel.status_event.wait(max(0.0, deadline - time.monotonic())):
            raise CommandTimeout(self.host, command, command.timeout)
        self._connection.count(1)
        if channel.exit_status == -1:
            if channel.get_transport().is_active():
                raise Failure(
                    f"{self.host}: could not {command.description}: its session was ended there",
                    hint="look at the host's journal, and run the same command again",
                )
            raise self._lost(command, "")
        return int(channel.exit_status)

    def _lost(self, command: Command, why: str) -> ConnectionLost:
        reason = f" ({why})" if why else ""
        return ConnectionLost(
            f"{self.host}: connection lost while it should {command.description}{reason}",
            hint="see that the host runs and can be reached, then run the same command again: "
            "it finds out what was done",
        )

    def _not_started(self, command: Command, said: str, status: int) -> Failure:
        """Say why a command was not even started."""
        last = (said.strip().splitlines() or [f"exit status {status}"])[-1]
        user = self._connection.user
        if last.startswith("sudo:") or user in last:
            return Failure(
                f"{self.host}: user {user} may not run commands as root without a password: {last}",
                hint="let it (there, as root): "
                f"echo '{user} ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/{user}",
            )
        return Failure(f"{self.host}: could not {command.description}: {last}")

    def _kill(self, leader: int | None) -> None:
        """End a command that still runs, with its children; as far as the host can be reached."""
        transport = self._connection.established()
        if leader is None or transport is None:
            return
        with contextlib.suppress(Exception):
            channel = transport.open_session(timeout=_KILL_TIMEOUT)
            channel.settimeout(_KILL_TIMEOUT)
            channel.exec_command(remote.kill(leader, sudo=self._sudo))
            channel.status_event.wait(_KILL_TIMEOUT)
            channel.close()


def _leader(channel: Any, stderr: bytearray) -> int | None:
    """Give the pid to kill, which may only be on its way yet."""
    channel.settimeout(_KILL_TIMEOUT)
    with contextlib.suppress(Exception):
        while (leader := remote.said(bytes(stderr)).leader) is None:
            chunk = channel.recv_stderr(_CHUNK)
            if not chunk:
                return None
            stderr += chunk
        return leader
    return None


def _feed(channel: Any, content: bytes) -> threading.Thread | None:
    """Send what a command reads; much of it from a thread, so that its output is read meanwhile."""
    if len(content) <= _INLINE:
        _send(channel, content)
        return None
    feeder = threading.Thread(target=_send, args=(channel, content), daemon=True)
    feeder.start()
    return feeder


def _send(channel: Any, content: bytes) -> None:
    # A command may end without having read everything, which its status tells.
    with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
        view = memoryview(content)
        for start in range(0, len(view), _CHUNK):
            channel.sendall(view[start : start + _CHUNK])
        if content:
            channel.sendall(remote.END)
        channel.shutdown_write()


def _read(channel: Any, stderr: bytearray, deadline: float | None) -> Generator[bytes | None]:
    """Give what is written on stdout as it comes, and gather stderr; None when it is too late."""
    with selectors.DefaultSelector() as selector:
        selector.register(channel.fileno(), selectors.EVENT_READ)
        while True:
            # Asked before anything is read, so that nothing comes between the two.
            ended = channel.eof_received or channel.closed
            got = False
            while channel.recv_stderr_ready():
                stderr += channel.recv_stderr(_CHUNK)
                got = True
            while channel.recv_ready():
                yield channel.recv(4 * _CHUNK)
                got = True
            if ended and not got:
                return
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                yield None
                return
            if not got:
                selector.select(left)


def connections(environment: Environment) -> list[SshExecutor]:
    """Give an executor for every host of an environment; each connects when it is needed."""
    login = login_of(environment)
    return [SshExecutor(Address.parse(host), login) for host in environment.hosts]


def login_of(environment: Environment) -> Login:
    """Give how an environment's hosts are logged in to."""
    return Login(
        user=environment.user,
        identity_file=environment.identity_file,
        known_hosts=environment.known_hosts,
        jump=Address.parse(environment.jump) if environment.jump else None,
    )
