"""The units of a monitoring host: what `opskit monitor` runs in `dev`, under systemd. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Final

from opskit.environment import Environment
from opskit.observe.rendering import template
from opskit.observe.site import MonitoringSite

USER: Final = "opskit-monitor"
OPSKIT: Final = "/opt/opskit/.venv/bin/opskit"
FILE: Final = "/etc/opskit/environments.yaml"
_PROGRAMS: Final[Mapping[str, str]] = {
    "prometheus": "/usr/bin/prometheus",
    "alertmanager": "/usr/bin/prometheus-alertmanager",
    "promtool": "/usr/bin/promtool",
    "amtool": "/usr/bin/amtool",
}
"""Where Debian's packages put them."""
_SLACK_SECONDS: Final = 60
"""How long a probe may take beyond its smoke test, before systemd ends it."""


def units(
    environment: Environment,
    root: PurePosixPath,
    *,
    opskit: str = OPSKIT,
    file: str = FILE,
    user: str = USER,
) -> dict[str, str]:
    """Give the units by their names: Prometheus, Alertmanager, exporter, and the probe's timer.

    Args:
        environment: what is watched.
        root: where the monitoring lies on that host.
        opskit: the program there.
        file: the environments.yaml there.
        user: whom everything runs as; it owns `root`.
    """
    site = MonitoringSite(
        Path(root), environment.monitoring, python=f"{PurePosixPath(opskit).parent}/python",
        _programs=dict(_PROGRAMS),
    )  # fmt: skip
    name = environment.name
    values = {
        "environment": name,
        "monitoring": environment.monitoring,
        "place": str(root),
        "user": user,
        "opskit": opskit,
        "file": file,
        "probe_seconds": round(environment.smoke.timeout) + _SLACK_SECONDS,
    }
    files = {
        f"opskit-probe-{name}.{kind}": template(f"monitoring/probe.{kind}.j2").render(**values)
        for kind in ("service", "timer")
    }
    for daemon in site.daemons().values():
        reloads = daemon.name != "exporter"
        files[f"opskit-{daemon.name}-{name}.service"] = template(
            "monitoring/daemon.service.j2"
        ).render(**values, name=daemon.name, argv=daemon.argv, reloads=reloads)
    return files
