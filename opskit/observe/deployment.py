"""The monitoring of an environment goes with its releases, where it runs.

A deployment brings the rules as they are rendered now; a rollback brings back those that the
release was deployed with. It never makes a deployment fail: what goes wrong is a warning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from opskit.deployments import Action
from opskit.failure import Failure
from opskit.layout import release_name
from opskit.problems import ConfigError

if TYPE_CHECKING:
    from opskit.deploy.act import Act
    from opskit.observe.site import Changes, Stays


def follow(act: Act) -> None:
    """Have the monitoring go with an act that went well; nothing, where none runs."""
    environment = act.environment
    if act.action is Action.STOP or not act.number:
        return
    try:
        if environment.monitoring.host:
            _on_its_host(act)
        elif environment.target == "local" and (environment.root / "monitoring/current").is_dir():
            _here(act)
    except (Failure, ConfigError) as failure:
        again = failure.hint if isinstance(failure, Failure) else ""
        again = again if again.startswith("opskit ") else f"opskit monitor {environment.name}"
        lines = "; ".join(failure.lines) if isinstance(failure, Failure) else ""
        why = f"{failure} ({lines})" if lines else str(failure)
        act.warnings.append(f"the monitoring stays as it was: {why}; mend it, then {again}")


def _here(act: Act) -> None:
    from opskit.observe.local import site_of, watch  # here: they load an HTTP client and templates

    environment = act.environment
    site, release = site_of(environment), release_name(act.number)
    if not site.running:
        return
    if act.action is Action.ROLLBACK:
        _warn(act, site.restore(release))
        return
    watch(environment, site)
    site.remember(release)


def _on_its_host(act: Act) -> None:
    """Bring it there."""
    from opskit.observe.probing import warning
    from opskit.observe.remote import remote_site, watch

    with remote_site(act.environment) as site:
        if act.action is Action.ROLLBACK:
            _warn(act, site.restore(release_name(act.number)))
            site.probe()
        else:
            watch(site, act.fleet, release_name(act.number))
            act.warnings += filter(None, [warning(act.environment)])
        site.say_deployed(act.fleet.lead.record())


def _warn(act: Act, restored: Changes | Stays) -> None:
    """Say after a rollback what the service is watched with, where that is not its own."""
    from opskit.observe.site import Stays

    if not isinstance(restored, Stays):
        return
    name, environment = release_name(act.number), act.environment.name
    if not restored.configuration:
        what = "none is live, so that nobody watches it"
    else:
        whose = f" (of {', '.join(restored.releases)})" if restored.releases else ""
        what = f"{restored.configuration}{whose} stays live, with its rules and thresholds"
    act.warnings.append(
        f"no configuration of the monitoring is known that belonged to {name}: {what}; to have "
        f"what environments.yaml says now: opskit monitor {environment}; for that of {name} do it "
        f"from the commit that {name} was built from (opskit deployments {environment})"
    )
