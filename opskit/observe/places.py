"""Where an environment is watched from, and where its monitoring lies there."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

from opskit.environment import Environment
from opskit.host_names import name_of

if TYPE_CHECKING:
    from opskit.ssh import SshExecutor

ROOT: Final = PurePosixPath("/opt/chat-monitoring")
"""Where the monitoring of each environment lies on a monitoring host."""
DAEMONS: Final = ("alertmanager", "exporter", "prometheus")
"""What runs there, in the order in which it is started."""


def root_of(environment: Environment) -> PurePosixPath:
    """Give where an environment's monitoring lies on its monitoring host."""
    return ROOT / environment.name


def home_of(environment: Environment) -> Path:
    """Give the directory on this machine that an environment's monitoring lies in."""
    if environment.target == "local":
        return environment.root / "monitoring"
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "opskit" / environment.name / "monitoring"


def unit_of(name: str, environment: Environment) -> str:
    """Give the unit, on a monitoring host, of a daemon or the probe."""
    return f"opskit-{name}-{environment.name}.service"


def timer_of(name: str, environment: Environment) -> str:
    """Give the unit, on a monitoring host, that starts another one again and again."""
    return f"opskit-{name}-{environment.name}.timer"


def note_of(root: Path, daemon: str) -> Path:
    """Give the file of this machine that says which process a daemon is; stopped ones have none."""
    return root / "run" / f"{daemon}.json"


def named(environment: Environment) -> str:
    """Give the monitoring host as it is logged in to; empty where none is named.

    One of the environment's own hosts is reached as that one is.
    """
    wanted = environment.monitoring.host or ""
    for host in environment.hosts:
        if name_of(host) == name_of(wanted):
            return host
    return wanted


def executor_of(environment: Environment) -> SshExecutor:
    """Give what runs commands on the monitoring host; it connects when it is needed."""
    from opskit.ssh import reaching  # here: it takes long to load

    return reaching(environment, named(environment))
