"""Why a host was not reached, or did not let us in: in words, with what to do."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path

import paramiko

from opskit import host_keys
from opskit.failure import Failure, Unreachable
from opskit.patience import if_slow

_PORT = 22


class CannotConnect(Unreachable):
    """The host was not reached, or did not let us in."""


@dataclass(frozen=True)
class Attempt:
    """One host, perhaps on the way to another, that was tried.

    Attributes:
        name: what a person calls it.
        host: where it is looked for.
        port: of its sshd.
        user: who logs in.
        keys: the files of the private keys that were offered; without any, an agent's.
        known_hosts: the files of known host keys that there are.
        seconds: how long each part of connecting was waited for.
    """

    name: str
    host: str
    port: int
    user: str
    keys: tuple[str, ...]
    known_hosts: tuple[Path, ...]
    seconds: float

    @property
    def where(self) -> str:
        """Where it was looked for."""
        return f"{self.host} port {self.port}"


def explained(tried: Attempt, error: Exception) -> Failure:
    """Say what went wrong, and what to do."""
    name, where = tried.name, tried.where
    if isinstance(error, paramiko.BadHostKeyException):
        known = tried.host if tried.port == _PORT else f"[{tried.host}]:{tried.port}"
        return host_keys.changed(name, known, error.key, tried.known_hosts)
    if isinstance(error, paramiko.PasswordRequiredException):
        why = f"{name}: the private key is encrypted, and no agent has it"
        return CannotConnect(why, hint="add it to your agent: ssh-add")
    if _turned_away(error):
        why = f"{name}: {where} closes the connection before anybody can log in"
        hint = "see in its journal whether sshd refuses your address, or has too many connections "
        return CannotConnect(why, hint=hint + "(MaxStartups)")
    if (late := _late(tried, error)) is not None:
        return late
    if isinstance(error, paramiko.AuthenticationException):
        return _not_let_in(tried)
    if isinstance(error, socket.gaierror):
        why = f"{name}: there is no host of that name ({error.strerror})"
        return CannotConnect(why, hint="look at `hosts` in environments.yaml, and at your DNS")
    if isinstance(error, paramiko.ChannelException):
        why = f"{name}: the jump host does not reach {where}: {error.text}"
        return CannotConnect(why, hint="see that it may forward connections, and to there")
    if isinstance(error, FileNotFoundError):
        why = f"{name}: {error.filename}: there is no such private key"
        return CannotConnect(why, hint="look at `identity_file` in environments.yaml")
    if isinstance(error, ConnectionRefusedError | paramiko.ssh_exception.NoValidConnectionsError):
        why = f"{name}: nothing answers at {where}"
        return CannotConnect(why, hint="see that the host runs, and its sshd at that port")
    said = str(error) or type(error).__name__
    why = f"{name}: could not connect to {where}: {said}"
    return CannotConnect(why, hint=f"try: ssh -v -p {tried.port} {tried.user}@{tried.host} true")


def _late(tried: Attempt, error: Exception) -> CannotConnect | None:
    """Say which part of connecting took too long, if that is what went wrong."""
    name, where, seconds = tried.name, tried.where, f"{tried.seconds:g} s"
    said = str(error).lower()
    if isinstance(error, TimeoutError) or "timed out" in said:
        why = f"{name}: {where} does not answer within {seconds}"
        hint = "see that the host runs, and that no firewall drops SSH"
    elif "timeout opening channel" in said:
        why = f"{name}: the jump host does not reach {where} within {seconds}"
        hint = "see that the host runs, and that no firewall between them drops SSH"
    elif "authentication timeout" in said:
        why = f"{name}: {where} does not say within {seconds} whether it lets {tried.user} in"
        hint = "see on its console what the login waits for (PAM, LDAP, a full disk)"
    elif isinstance(error, paramiko.SSHException) and _silent(said):
        why = f"{name}: {where} takes the connection, and says nothing in {seconds}"
        hint = "see on its console whether it is frozen or out of memory, or its sshd stopped"
    else:
        return None
    return CannotConnect(why, hint=hint + if_slow("connect_timeout", tried.seconds))


def _turned_away(error: Exception) -> bool:
    """Say whether the connection ended before the login.

    Of a greeting that did not come, paramiko says the same where none came in time.
    """
    greeting = isinstance(error, paramiko.SSHException) and "protocol banner" in str(error)
    cause = error.__context__ if greeting else error
    return isinstance(cause, EOFError | ConnectionResetError | BrokenPipeError)


def _silent(said: str) -> bool:
    """Say whether sshd was waited for in vain: for its greeting, or for its part in the keys."""
    return "protocol banner" in said or "no existing session" in said


def _not_let_in(tried: Attempt) -> CannotConnect:
    files = ", ".join(tried.keys)
    offered = f"the key {files}" if files else "your agent's keys and those in ~/.ssh"
    return CannotConnect(
        f"{tried.name}: user {tried.user} is not let in with {offered}",
        hint="name the right one as `identity_file` in environments.yaml, or let it in: "
        f"ssh-copy-id -p {tried.port} {tried.user}@{tried.host}",
    )
