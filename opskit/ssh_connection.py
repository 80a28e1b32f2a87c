"""One connection to a host over SSH: made when needed, watched, made again when it was lost.

Passwords are never asked for: keys of an agent or in files let in.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import socket
import threading
import time
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fabric
import paramiko

from opskit import host_keys
from opskit.failure import Failure, Unreachable
from opskit.patience import Patience
from opskit.ssh_trouble import Attempt, CannotConnect, explained
from opskit.ssh_watch import Watch


class ConnectionLost(Unreachable):
    """The connection broke while a command ran there."""


@dataclass(frozen=True)
class Address:
    """Where a host is and who logs in.

    Attributes:
        host: its name, its address, or its alias in ~/.ssh/config.
        user: who logs in; empty: whom ~/.ssh/config names, else root.
        port: None: the one that ~/.ssh/config names, else 22.
    """

    host: str
    user: str = ""
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read `[user@]host[:port]`; an IPv6 address with a port is in brackets."""
        user, _, rest = text.rpartition("@")
        if rest.startswith("["):
            host, _, port = rest[1:].partition("]")
            port = port.removeprefix(":")
        elif rest.count(":") == 1:
            host, _, port = rest.partition(":")
        else:
            host, port = rest, ""
        return cls(host, user, int(port) if port else None)

    def __str__(self) -> str:
        """Give what a person calls it."""
        if self.port is None:
            return self.host
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Login:
    """How to get in.

    Attributes:
        user: who logs in, unless the address says so itself.
        identity_file: the private key; None: the agent's, and those of ~/.ssh.
        known_hosts: a file of known host keys beside OpenSSH's own.
        jump: the host that leads there; None: the one that ~/.ssh/config names, if any.
        config: OpenSSH's configuration; None: ~/.ssh/config and /etc/ssh/ssh_config.
        agent: whether the keys of an agent are offered.
    """

    user: str = ""
    identity_file: Path | None = None
    known_hosts: Path | None = None
    jump: Address | None = None
    config: Path | None = None
    agent: bool = True


class Connection:
    """A connection that several threads share.

    Args:
        address: where the host is.
        login: how to get in.
        patience: how long it is waited for.

    Attributes:
        round_trips: how often somebody waited for the host: 5 to connect (TCP, versions, keys,
            service, login), and what `SshExecutor` adds for its commands.
    """

    def __init__(self, address: Address, login: Login, patience: Patience) -> None:
        self.address = address
        self.patience = patience
        self.round_trips = 0
        self._login = login
        self._lock = threading.Lock()
        self._made: fabric.Connection | None = None
        self._silent: weakref.WeakSet[Any] = weakref.WeakSet()
        self._failed: tuple[float, Failure] | None = None

    @property
    def user(self) -> str:
        """Who is logged in there."""
        return str((self._made or self._described()).user)

    def transport(self) -> Any:
        """Give the connection, made if there is none that works.

        Who waits while another thread tries in vain does not try again: a host that is silent
        would be waited for by one after the other.

        Raises:
            CannotConnect: it could not be made.
            HostKeyRefused: the host is unknown, or another than the known one.
        """
        asked = time.monotonic()
        with self._lock:
            if self._made is None or not _active(self._made):
                self.close()
                if self._failed is not None and self._failed[0] > asked:
                    raise copy.copy(self._failed[1])
                made = self._described()
                try:
                    self._open(made)
                except Failure as failure:
                    self._failed = time.monotonic(), failure
                    raise
                self._made = made
                Watch(made.transport, self.patience.silence, self._silent.add)
            return self._made.transport

    def established(self) -> Any:
        """Give the connection if there is one that works, else None; never makes one."""
        made = self._made
        return made.transport if made is not None and _active(made) else None

    def fell_silent(self, transport: Any) -> bool:
        """Say whether a connection was ended because nothing came from the host any more."""
        return transport in self._silent

    def discard(self, transport: Any) -> None:
        """Close it if it is still this one: another thread may have made a new one meanwhile."""
        with self._lock:
            if self._made is not None and self._made.transport is transport:
                self.close()

    def close(self) -> None:
        """Close it; the next command makes a new one."""
        made, self._made = self._made, None
        while isinstance(made, fabric.Connection):
            with contextlib.suppress(Exception):
                made.client.close()
            made = made.gateway

    def count(self, round_trips: int) -> None:
        """Note that somebody waited for the host."""
        with self._lock:
            self.round_trips += round_trips

    # --- making it ----------------------------------------------------------------------------

    def _described(self) -> fabric.Connection:
        """Describe the connection, with everything that ~/.ssh/config says about it."""
        config = fabric.Config(ssh_config=_ssh_config(self._login.config), lazy=True)
        keys = [str(self._login.identity_file)] if self._login.identity_file else []
        known = config.base_ssh_config.lookup(self.address.host)
        options = {"allow_agent": self._login.agent, "look_for_keys": not keys}
        jump = self._login.jump
        connection = fabric.Connection(
            self.address.host,
            user=self.address.user or self._login.user or known.get("user") or "root",
            port=self.address.port,
            config=config,
            gateway=None if jump is None else self._gateway(jump, config, options, keys),
            connect_kwargs={**options, "key_filename": keys},
        )
        hop = connection
        while isinstance(hop, fabric.Connection):
            self._strict(hop)
            self._limit(hop)
            hop = hop.gateway
        return connection

    def _gateway(
        self, jump: Address, config: Any, options: dict[str, Any], keys: list[str]
    ) -> fabric.Connection:
        return fabric.Connection(
            jump.host,
            user=jump.user or None,
            port=jump.port,
            config=config,
            connect_kwargs={**options, "key_filename": list(keys)},
        )

    def _strict(self, hop: fabric.Connection) -> None:
        """Let a connection verify the host's key, and offer only keys that are there."""
        files = self._known_hosts()
        for file in files:
            hop.client.load_system_host_keys(str(file))
        accept_into = self._login.known_hosts or Path("~/.ssh/known_hosts")
        hop.client.set_missing_host_key_policy(host_keys.Refuse(self._name(hop), accept_into))
        offered = hop.connect_kwargs.get("key_filename") or []
        own = str(self._login.identity_file)
        # OpenSSH passes over an IdentityFile that is missing; one that opskit was given is wanted.
        there = [path for path in offered if path == own or Path(path).expanduser().is_file()]
        hop.connect_kwargs["key_filename"] = there

    def _limit(self, hop: fabric.Connection) -> None:
        """Bound every part of connecting, of a hop that ~/.ssh/config names, too."""
        seconds = self.patience.connect
        hop.connect_timeout = seconds  # its constructor would cut off what is behind the point

        def transport(*args: Any, **more: Any) -> paramiko.Transport:
            made = paramiko.Transport(*args, **more)
            # 15 by itself. The keys have a limit of their own, which says better what was late.
            made.handshake_timeout = 2 * seconds
            return made

        hop.connect_kwargs = {
            **hop.connect_kwargs,
            "banner_timeout": seconds,
            "auth_timeout": seconds,
            "channel_timeout": seconds,  # for the host behind a jump host
            "transport_factory": transport,
        }

    def _known_hosts(self) -> list[Path]:
        own = [self._login.known_hosts] if self._login.known_hosts else []
        return host_keys.existing([*own, *host_keys.SYSTEM_FILES])

    def _name(self, hop: fabric.Connection) -> str:
        if hop.original_host == self.address.host:
            return str(self.address)
        return f"{self.address} (through {hop.original_host})"

    def _open(self, made: fabric.Connection) -> None:
        """Connect, hop by hop; whatever goes wrong is told of the hop where it did."""
        hops: list[fabric.Connection] = []
        hop: Any = made
        while isinstance(hop, fabric.Connection):
            hops.insert(0, hop)
            hop = hop.gateway
        for one in hops:
            try:
                self.round_trips += 5
                one.open()
                _at_once(one.transport)
            except Failure:
                _close_all(hops)
                raise
            except Exception as error:
                _close_all(hops)
                raise explained(self._tried(one), error) from None

    def _tried(self, hop: fabric.Connection) -> Attempt:
        return Attempt(
            name=self._name(hop),
            host=hop.host,
            port=hop.port,
            user=hop.user,
            keys=tuple(hop.connect_kwargs["key_filename"]),
            known_hosts=tuple(self._known_hosts()),
            seconds=self.patience.connect,
        )


def _ssh_config(path: Path | None) -> Any:
    """Read OpenSSH's configuration; the user's comes first, since the first value counts."""
    places: Sequence[Path] = (
        [path] if path else [Path("~/.ssh/config").expanduser(), Path("/etc/ssh/ssh_config")]
    )
    config = paramiko.SSHConfig()
    for place in places:
        if not place.is_file():
            continue
        try:
            with place.open(encoding="utf-8") as file:
                config.parse(file)
        except (paramiko.ConfigParseError, OSError, ValueError) as error:
            why = f"{place}: cannot be read: {error}"
            raise CannotConnect(
                why, hint=f"see what ssh says of it: ssh -G -F {place} host"
            ) from None
    return config


def _active(connection: fabric.Connection) -> bool:
    return connection.transport is not None and bool(connection.transport.is_active())


def _at_once(transport: Any) -> None:
    """Let small packets go at once; held back until the last is acknowledged, each costs 40 ms."""
    if isinstance(transport.sock, socket.socket):  # behind a jump host it is a channel
        transport.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _close_all(hops: Sequence[fabric.Connection]) -> None:
    for hop in reversed(hops):
        with contextlib.suppress(Exception):
            hop.client.close()


# Its threads would write tracebacks to stderr; what went wrong is said where it matters.
logging.getLogger("paramiko").setLevel(logging.CRITICAL + 1)
