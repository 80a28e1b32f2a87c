"""What a monitoring host needs, as `provision.plan` has it for a chat host: pure functions.

Debian's own units of Prometheus and Alertmanager are kept from starting when opskit installs them;
where they were there before, they are somebody's, and stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import PurePosixPath
from typing import Final

from opskit.commands import Command, files, provisioning
from opskit.commands import monitoring as commands
from opskit.environment import Environment
from opskit.failure import Failure
from opskit.observe.places import ROOT, root_of, unit_of
from opskit.observe.probing import probes, warning
from opskit.observe.systemd import (
    UNITS,
    USER,
    daemon_units,
    exporter_path,
    probe_units,
    sweep_units,
)
from opskit.provision import plan
from opskit.provision.change import Change, file_diff
from opskit.provision.seen import Place, Seen

_WANTED_AT_BOOT: Final = "\n[Install]\n"
_OWN_UNITS: Final = {
    "prometheus": "prometheus.service",
    "prometheus-alertmanager": "prometheus-alertmanager.service",
}
_OWN_PORTS: Final = {"prometheus.service": 9090, "prometheus-alertmanager.service": 9093}


def look(environment: Environment) -> Command:
    """Give the command that looks at everything that is asked about here."""
    units = _units(environment)
    paths = (exporter_path(root_of(environment)), *(UNITS / name for name in units))
    return provisioning.look(
        [
            *(f"package:{name}" for name in packages_of(environment)),
            f"user:{USER}",
            *(f"path:{path}" for path, *_ in directories_of(environment)),
            *(f"file:{path}" for path in paths),
            *(f"unit:{name}" for name in (*units, *_OWN_UNITS.values())),
        ]
    )


def changes(environment: Environment, host: str, seen: Seen) -> list[Change]:
    """Give everything that has to be changed for a host to watch, in order.

    Raises:
        Failure: something is in the way that only a person can decide about.
    """
    plan.require_debian(host, seen)
    _require_ports(environment, host, seen)
    return [
        *packages(environment, seen),
        *plan.system_user(USER, host, seen),
        *directories(environment, seen),
        *programs(environment, seen),
    ]


def warnings(environment: Environment) -> list[str]:
    """Give what a person should know about how it is watched."""
    bound, watching = environment.settings.service, environment.monitoring.host
    found = [one for one in [warning(environment)] if one]
    if not watching or bound.admin_host not in ("0.0.0.0", "::"):  # noqa: S104 - recognised
        return found
    return [
        *found,
        f"every host answers on port {bound.admin_port}, which asks for no token, on all of its "
        f"addresses: have a firewall let {watching} alone reach it",
    ]


# --- steps ------------------------------------------------------------------------------------


def packages(environment: Environment, seen: Seen) -> list[Change]:
    """The programs are installed, and Debian's own units of them stay off."""
    lacking = [name for name in packages_of(environment) if name not in seen.packages]
    if not lacking:
        return []
    own = [_OWN_UNITS[name] for name in lacking if name in _OWN_UNITS]
    run = [provisioning.finish_packages(), provisioning.update_packages()]
    run += [commands.mask(own)] if own else []
    run += [provisioning.install_packages(lacking)]
    text = "install " + ", ".join(lacking)
    return [Change("packages", text + " (opskit has units of its own)" * bool(own), tuple(run))]


def directories(environment: Environment, seen: Seen) -> list[Change]:
    """Each directory is there, with its owner and mode."""
    found = []
    for path, mode, owner, group in directories_of(environment):
        if seen.places.get(str(path)) != Place("directory", mode, owner, group):
            command = provisioning.make_directory(path, mode=mode, owner=owner, group=group)
            found.append(Change("directories", command.description, (command,)))
    return found


def programs(environment: Environment, seen: Seen) -> list[Change]:
    """The exporter is there, and each unit is there, read, enabled, and runs as it says."""
    exporter = exporter_path(root_of(environment))
    wanted = {exporter: resources.files("opskit.observe").joinpath("exporter.py").read_text()}
    wanted |= {UNITS / name: text for name, text in _units(environment).items()}
    found, again = _written(wanted, seen)
    if exporter.name in again:
        again.add(unit_of("exporter", environment))
    return [*found, *_as_written(_units(environment), seen, again, running=False)]


def _written(wanted: Mapping[PurePosixPath, str], seen: Seen) -> tuple[list[Change], set[str]]:
    """Give what writes files, and the names of those that change."""
    found = []
    again = set()
    for path, text in wanted.items():
        now = seen.text(str(path))
        if now != text:
            run = (files.write(path, text.encode()),)
            found.append(
                Change("monitoring", f"write {path}", run, file_diff(str(path), now, text))
            )
            again.add(path.name)
    return found, again


def _as_written(
    units: Mapping[str, str], seen: Seen, again: set[str], *, running: bool
) -> list[Change]:
    """Have units run as their files say, now and after a boot.

    Args:
        units: their files' text, by name.
        seen: what is there.
        again: those whose files change.
        running: timers are started, too; those of the probe are by who brings it there, and end
            with `opskit monitor ENV --stop`.
    """
    found = []
    for name in units:
        state = seen.units.get(name)
        if name in again or (state is not None and state.stale):
            text = f"let systemd read {name}"
            text += ", and start it anew" * (state is not None and state.active)
            found.append(Change("monitoring", text, (commands.restart_if_active(name),)))
        if _WANTED_AT_BOOT not in units[name]:
            continue
        timer = running and name.endswith(".timer")
        if state is None or not state.enabled or (timer and not state.active):
            run = (provisioning.enable(name), *([commands.start(name)] if timer else []))
            found.append(Change("monitoring", f"let {name} start at boot", run))
    return found


def look_for_sweeping(environment: Environment) -> Command:
    """Give the command that looks at what deletes what probes leave on a chat host."""
    units = sweep_units(environment)
    things = (f"{kind}:{name}" for name in units for kind in ("unit", "file"))
    return provisioning.look([one.replace("file:", f"file:{UNITS}/") for one in things])


def sweeping(environment: Environment, seen: Seen) -> list[Change]:
    """Give what has to be changed for a chat host to delete what probes leave."""
    units = sweep_units(environment)
    found, again = _written({UNITS / name: text for name, text in units.items()}, seen)
    return [*found, *_as_written(units, seen, again, running=True)]


# --- what they are about ----------------------------------------------------------------------


def packages_of(environment: Environment) -> tuple[str, ...]:
    """Give the programs with their tools, what the exporter runs on, and what a probe needs."""
    probe = (f"python{environment.python}", "python3-httpx") if probes(environment) else ()
    return ("prometheus", "prometheus-alertmanager", "python3", *probe)


def directories_of(environment: Environment) -> list[tuple[PurePosixPath, int, str, str]]:
    """Give every directory with its mode, owner and group; parents first."""
    root = root_of(environment)
    return [
        (ROOT, 0o755, "root", "root"),
        (root, 0o755, "root", "root"),
        (root / "layers", 0o755, "root", "root"),
        (root / "configs", 0o755, "root", "root"),
        (root / "releases", 0o755, "root", "root"),
        (root / "secrets", 0o750, "root", USER),
        (root / "metrics", 0o755, USER, USER),
        (root / "data", 0o755, "root", "root"),
        (root / "data/prometheus", 0o700, USER, USER),
        (root / "data/alertmanager", 0o700, USER, USER),
    ]


def _units(environment: Environment) -> dict[str, str]:
    root = root_of(environment)
    found = daemon_units(environment, root)
    return found | (probe_units(environment, root) if probes(environment) else {})


def _require_ports(environment: Environment, host: str, seen: Seen) -> None:
    told = environment.monitoring
    wanted = {"prometheus_port": told.prometheus_port, "alertmanager_port": told.alertmanager_port}
    for key, port in wanted.items():
        for unit, own in _OWN_PORTS.items():
            state = seen.units.get(unit)
            if state is not None and state.active and own == port:
                raise Failure(
                    f"{host}: {unit} runs there already, on port {port}, and is not opskit's",
                    hint=f"if nobody needs it, there as root: systemctl disable --now {unit}; "
                    f"else choose another monitoring.{key}",
                )
