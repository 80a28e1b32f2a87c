"""The units of a monitoring host: what `opskit monitor` runs in `dev`, under systemd. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Final

from opskit.commands.monitoring import PYTHON
from opskit.environment import Environment
from opskit.observe.daemons import Daemon
from opskit.observe.places import timer_of, unit_of
from opskit.observe.probing import RUN
from opskit.observe.rendering import template
from opskit.observe.site import MonitoringSite
from opskit.provision.rendering import USER as SERVICE_USER
from opskit.provision.rendering import python_of

USER: Final = "opskit-monitor"
UNITS: Final = PurePosixPath("/etc/systemd/system")
PROGRAMS: Final[Mapping[str, str]] = {
    "prometheus": "/usr/bin/prometheus",
    "alertmanager": "/usr/bin/prometheus-alertmanager",
    "promtool": "/usr/bin/promtool",
    "amtool": "/usr/bin/amtool",
}
"""Where Debian's packages put them."""
_SLACK_SECONDS: Final = 60
"""How long a probe may take beyond its smoke test, before systemd ends it."""
_LEFT_SECONDS: Final = 1200
"""For how long a workspace of a probe must be idle to be deleted: longer than any smoke test."""


def daemons_of(environment: Environment, root: PurePosixPath) -> list[Daemon]:
    """Give what runs on a monitoring host, in the order in which it is started.

    The exporter is the one file that provisioning puts there: opskit itself is not.
    """
    site = MonitoringSite(Path(root), environment.monitoring, _programs=dict(PROGRAMS))
    found = []
    for daemon in site.daemons().values():
        if daemon.name == "exporter":
            alone = (PYTHON, "-I", str(exporter_path(root)), *daemon.argv[3:])
            daemon = replace(daemon, argv=alone)
        found.append(daemon)
    return found


def exporter_path(root: PurePosixPath) -> PurePosixPath:
    """Give where the exporter's program lies on a monitoring host."""
    return root / "exporter.py"


def daemon_units(
    environment: Environment, root: PurePosixPath, *, user: str = USER
) -> dict[str, str]:
    """Give the units of the daemons by their names.

    Args:
        environment: what is watched.
        root: where the monitoring lies on that host.
        user: whom everything runs as; it owns what is below `data` and `metrics` of it.
    """
    written = template("monitoring/daemon.service.j2")
    return {
        unit_of(daemon.name, environment): written.render(
            environment=environment.name,
            place=str(root),
            user=user,
            name=daemon.name,
            argv=daemon.argv,
            reloads=daemon.name != "exporter",
        )
        for daemon in daemons_of(environment, root)
    }


def probe_units(
    environment: Environment, root: PurePosixPath, *, user: str = USER
) -> dict[str, str]:
    """Give the units of the probe by their names: what it runs, and its timer."""
    units = {"service": unit_of("probe", environment), "timer": timer_of("probe", environment)}
    values = {
        "environment": environment.name,
        "monitoring": environment.monitoring,
        "place": str(root),
        "user": user,
        "python": python_of(environment),
        "run": RUN,
        "probe_seconds": round(environment.smoke.timeout) + _SLACK_SECONDS,
    }
    return {
        name: template(f"monitoring/probe.{kind}.j2").render(**values)
        for kind, name in units.items()
    }


def sweep_units(environment: Environment) -> dict[str, str]:
    """Give the units of a chat host that delete what probes left there.

    A probe cannot do it itself: only the host's own root and the service may delete anything.
    """
    layout = environment.layout
    values = {
        "environment": environment.name,
        "user": SERVICE_USER,
        "python": python_of(environment),
        "current": str(layout.current),
        "control": str(layout.run / "control.sock"),
        "seconds": _LEFT_SECONDS,
    }
    return {
        f"opskit-sweep-{environment.name}.{kind}": template(f"monitoring/sweep.{kind}.j2").render(
            **values
        )
        for kind in ("service", "timer")
    }
