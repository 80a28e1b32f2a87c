"""How long hosts over SSH are waited for, in seconds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

from opskit.commands import ORDINARY, Command

SILENCE: Final = 15.0
"""How long nothing need come from a host that is asked whether it lives."""
MOST: Final = {"connect_timeout": 300.0, "command_timeout": 3600.0}
"""The most that each of its settings in environments.yaml may be."""


@dataclass(frozen=True)
class Patience:
    """What a slow or far host is given.

    Attributes:
        connect: for each part of connecting: the network, the keys, the login; and to begin a
            command.
        command: what every command may take at least; those known to be long may take longer.
    """

    connect: float = 10.0
    command: float = ORDINARY

    @property
    def silence(self) -> float:
        """How long nothing need come from it; one that may answer so late is not dead before."""
        return max(SILENCE, self.connect)

    def with_(self, command: Command) -> Command:
        """Give a command the time that it may take on this host; a quick one stays as it is."""
        if command.quick or command.timeout >= self.command:
            return command
        return replace(command, timeout=self.command)


def if_slow(setting: Literal["connect_timeout", "command_timeout"], seconds: float) -> str:
    """Say how to wait longer than `seconds`; empty where no more can be had."""
    if seconds >= MOST[setting]:
        return ""
    return f"; if it is only slow, set `{setting}` above {seconds:g} in environments.yaml"
