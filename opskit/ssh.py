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
from opskit.patience import Patience, if_slow
from opskit.ssh_connection import Address, Connection, ConnectionLost, Login
from opskit.ssh_trouble import CannotConnect
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
        patience: how long the host, and what runs there, is waited for.

    Attributes:
        host: its name for people.
    """

    def __init__(
        self, address: Address, login: Login | None = None, patience: Patience | None = None
    ) -> None:
        self.host = str(address)
        self._patience = patience or Patience()
        self._connection = Connection(address, login or Login(), self._patience)
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
        command = self._patience.with_(command)
        deadline = time.monotonic() + command.timeout
        stdout, stderr = bytearray(), bytearray()
        with self._started(command, remote.line(command, sudo=self._sudo), stderr) as channel:
            feeder = _feed(channel, command.stdin)
            for chunk in _read(channel, stderr, deadline):
                if chunk is None:
                    raise self._too_long(command)
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
            status = self._status(command, channel, time.monotonic() + self._patience.connect)
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
                raise self._lost(command, channel.get_transport(), str(error)) from None
            except (OSError, EOFError) as error:
                raise self._lost(command, channel.get_transport(), str(error)) from None
            finally:
                if not channel.exit_status_ready():
                    self._kill(_leader(channel, stderr))
                channel.close()

    def _start(self, command: Command, line: str) -> Any:
        """Open a channel and start the command on it.

        A connection that was lost meanwhile is made once more: the command was not sent yet. One
        that is silent is given up; the next command makes a new one.
        """
        seconds = min(command.timeout, self._patience.connect)
        for last in (False, True):
            transport = self._connection.transport()
            try:
                self._connection.count(1)
                channel = transport.open_session(timeout=seconds)
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
                    raise self._no_answer(command, seconds if silent else 0.0) from None
        channel.settimeout(seconds)
        try:
            self._connection.count(1)
            channel.exec_command(line)
        except (paramiko.SSHException, OSError, EOFError) as error:
            self._connection.discard(transport)
            raise self._lost(command, transport, str(error)) from None
        channel.settimeout(None)
        return channel

    def _status(self, command: Command, channel: Any, deadline: float) -> int:
        """Wait for the exit status, which may come a little later than the last output."""
        if not channel.status_event.wait(max(0.0, deadline - time.monotonic())):
            raise self._too_long(command)
        self._connection.count(1)
        if channel.exit_status == -1:
            if channel.get_transport().is_active():
                raise Failure(
                    f"{self.host}: could not {command.description}: its session was ended there",
                    hint="look at the host's journal, and run the same command again",
                )
            raise self._lost(command, channel.get_transport(), "")
        return int(channel.exit_status)

    # --- what went wrong ----------------------------------------------------------------------

    def _too_long(self, command: Command) -> CommandTimeout:
        slow = "" if command.quick else if_slow("command_timeout", command.timeout)
        return CommandTimeout(self.host, command, hint=f"see what keeps the host busy{slow}")

    def _no_answer(self, command: Command, seconds: float) -> CannotConnect:
        """Say that no command could be begun; `seconds`: how long a host was waited for."""
        within = f" within {seconds:g} s" if seconds else ""
        least = seconds >= self._patience.connect
        return CannotConnect(
            f"{self.host}: could not {command.description}: the host does not answer{within}",
            hint="see that it runs, and run the same command again"
            + (if_slow("connect_timeout", seconds) if least else ""),
        )

    def _lost(self, command: Command, transport: Any, why: str) -> ConnectionLost:
        hint = "see that the host runs and can be reached, then run the same command again: "
        hint += "it finds out what was done"
        if self._connection.fell_silent(transport):
            silence = self._patience.silence
            why = f"it said nothing for {silence:g} s"
            hint += if_slow("connect_timeout", silence)
        reason = f" ({why})" if why else ""
        return ConnectionLost(
            f"{self.host}: connection lost while it should {command.description}{reason}", hint=hint
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
    """Give an executor for every host of an environment."""
    return [reaching(environment, host) for host in environment.hosts]


def reaching(environment: Environment, host: str) -> SshExecutor:
    """Give an executor for a host of an environment; it connects when it is needed."""
    return SshExecutor(Address.parse(host), login_of(environment), environment.patience)


def login_of(environment: Environment) -> Login:
    """Give how an environment's hosts are logged in to."""
    return Login(
        user=environment.user,
        identity_file=environment.identity_file,
        known_hosts=environment.known_hosts,
        jump=Address.parse(environment.jump) if environment.jump else None,
    )
