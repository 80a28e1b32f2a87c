"""The monitoring of one environment on this machine, with everything put together."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from opskit.environment import Environment
from opskit.failure import Misuse
from opskit.observe.places import home_of
from opskit.observe.probe import Probe, deployment_metrics, export, probe, probe_metrics
from opskit.observe.rendering import admin_on_loopback, render_monitoring
from opskit.observe.site import Changes, MonitoringSite
from opskit.problems import ConfigError, Problem
from opskit.secrets import Secret, SecretRef, resolve

if TYPE_CHECKING:
    from checks.smoke import CheckResult
    from opskit.fleet import Fleet


def site_of(environment: Environment, *, file: Path | None = None) -> MonitoringSite:
    """Give where an environment is watched from on this machine.

    One on this machine is watched from its own root; one on hosts from this user's state, so that
    any machine that reaches their admin ports can be its monitoring host.

    Args:
        environment: what is watched.
        file: the environments.yaml that was given on the command line, for the probe to be given.

    Raises:
        Misuse: its admin ports are on loopback of the hosts, where only they reach them.
    """
    if environment.target != "local" and admin_on_loopback(environment):
        raise Misuse(
            f"{environment.where('chat', 'service', 'admin_host')}: environment "
            f"{environment.name}: chat.service.admin_host is on loopback of each host, where "
            "Prometheus on this machine does not reach it",
            hint="set it to an address of a private network, which no client reaches",
        )
    file = (file or environment.path).absolute()
    probing = [sys.executable, "-m", "opskit", "--environments", str(file), "probe"]
    return MonitoringSite(
        root=home_of(environment),
        monitoring=environment.monitoring,
        probe=(*probing, environment.name),
        record=Path(environment.layout.deployments) if environment.target == "local" else None,
    )


def watch(environment: Environment, site: MonitoringSite) -> Changes:
    """Have everything run from what the environment says now.

    Raises:
        ConfigError: a secret that a receiver needs is missing.
        Failure: see `MonitoringSite.apply`.
    """
    secrets = resolve_secrets(environment)
    changes = site.apply(render_monitoring(environment, root=site.root), secrets)
    current = Path(environment.layout.current)
    if environment.target == "local" and current.is_symlink():
        # So that a release that was deployed before it was watched can be rolled back to, whole.
        site.remember(current.readlink().name, first=True)
    return changes


def resolve_secrets(environment: Environment) -> dict[str, Secret]:
    """Fetch what receivers are told with.

    Raises:
        ConfigError: some are missing; says all of them.
    """
    values: dict[str, Secret] = {}
    problems: list[Problem] = []
    for name, text in environment.monitoring.secrets().items():
        receiver, _, key = name.partition("_")
        path = ("monitoring", "receivers", receiver, key)
        where = environment.where(*path)
        try:
            ref = SecretRef.parse(text, where=where, key=".".join(path))
            values[name] = resolve(ref, environment.base_dir)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return values


def probe_now(
    fleet: Fleet,
    directory: Path | None = None,
    *,
    on_result: Callable[[CheckResult], None] | None = None,
) -> tuple[Probe, Path]:
    """Run the smoke test once and export its result where the environment is watched from.

    Raises:
        ConfigError: there is nothing to sign tokens with.
        Failure: the result cannot be written, or no host can be reached.
    """
    environment = fleet.environment
    found = probe(fleet, on_result=on_result)
    if environment.monitoring.host and directory is None:
        from opskit.observe.remote import remote_site

        with remote_site(environment) as site:
            return found, site.say_probed(probe_metrics(found))
    place = directory or home_of(environment) / "metrics"
    if (
        environment.target != "local"
    ):  # the last deployment, too: where it is local, the exporter reads the record itself
        export(deployment_metrics(fleet.lead.record()), place, "deployment.prom")
    return found, export(probe_metrics(found), place)
