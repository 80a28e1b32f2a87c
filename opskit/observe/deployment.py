"""The monitoring of an environment goes with its releases, where it runs on this machine.

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


def follow(act: Act) -> None:
    """Have the monitoring go with an act that went well; nothing, where none runs from here."""
    environment = act.environment
    if environment.target != "local" or not (environment.root / "monitoring/current").is_dir():
        return
    if act.action is Action.STOP or not act.number:
        return
    from opskit.observe.local import site_of, watch  # here: they load an HTTP client and templates

    site, release = site_of(environment), release_name(act.number)
    try:
        if not site.running:
            return
        if act.action is Action.ROLLBACK and site.restore(release) is not None:
            return
        if act.action is Action.DEPLOY:
            watch(environment, site)
        site.remember(release)
    except (Failure, ConfigError) as failure:
        again = f"opskit monitor {environment.name}"
        act.warnings.append(f"the monitoring stays as it was: {failure}; mend it, then {again}")
