"""What deploying, rolling back and stopping consist of."""

from __future__ import annotations

from collections.abc import Sequence

from opskit.deploy.begin import Begin
from opskit.deploy.build import BuildRelease
from opskit.deploy.health import Health
from opskit.deploy.install import Install, LayerBuilder
from opskit.deploy.lock import Lock
from opskit.deploy.mend import Mend
from opskit.deploy.migrate import Migrate
from opskit.deploy.move import Move
from opskit.deploy.preflight import Preflight
from opskit.deploy.prune import Prune
from opskit.deploy.record import RecordIt
from opskit.deploy.secrets import Secrets
from opskit.deploy.select import Select
from opskit.deploy.silence import Silence
from opskit.deploy.smoke import SmokeTest
from opskit.deploy.step import Step
from opskit.deploy.stop import Stop
from opskit.deploy.switch import Switch
from opskit.deploy.unlock import Unlock


def deploy_steps(build_layer: LayerBuilder) -> Sequence[Step]:
    """Give the steps of a deploy, in order."""
    return (
        Preflight(),
        Lock(),
        Mend(),
        BuildRelease(),
        Begin(),
        Install(build_layer),
        Secrets(),
        Migrate(),
        Silence(),
        Move(),
        Switch(),
        Health(),
        SmokeTest(),
        RecordIt(),
        Prune(),
        Unlock(),
    )


def rollback_steps() -> Sequence[Step]:
    """Give the steps of a rollback, in order."""
    return (
        Lock(),
        Mend(),
        Select(),
        Begin(),
        Silence(),
        Switch(),
        Health(),
        SmokeTest(),
        RecordIt(),
        Prune(),
        Unlock(),
    )


def stop_steps(*, drain: bool = False) -> Sequence[Step]:
    """Give the steps of stopping the service, in order; with `drain`, slowly."""
    return (Lock(), Mend(serve=False), Stop(drain=drain), Unlock())
