"""Keeps alerts about connections silent for the minutes of a deployment."""

from __future__ import annotations

import socket

from opskit.deploy.act import Part
from opskit.deploy.step import Order, Step
from opskit.failure import Failure

SECONDS = 300.0
"""How long: as far as the alerts look back. It ends by itself, whatever becomes of opskit."""
_CONNECT = 0.5


class Silence(Step):
    """Tells the Alertmanager that watches the environment, here or on its monitoring host.

    There is nothing to undo: a deployment that failed has moved connections, too.
    """

    name = "silence"
    order = Order.ONCE

    def describe(self, part: Part) -> str:
        """Say what the step does."""
        return f"keep alerts about connections silent for {SECONDS:.0f} s, where Alertmanager runs"

    def skip(self, part: Part) -> str:
        """Where no Alertmanager runs, and nothing changes, there is nobody to tell."""
        if part.act.unchanged:
            return "nothing changes"
        if part.act.environment.monitoring.host:
            return ""
        port = part.act.environment.monitoring.alertmanager_port
        try:
            socket.create_connection(("127.0.0.1", port), timeout=_CONNECT).close()
        except OSError:
            return "no Alertmanager runs here"
        return ""

    def apply(self, part: Part) -> str:
        """Tell it; a deployment goes on without."""
        from opskit.observe.reach import reached  # here: they load an HTTP client
        from opskit.observe.silence import NotWatched, silence

        act, environment = part.act, part.act.environment
        url = f"http://127.0.0.1:{environment.monitoring.alertmanager_port}"
        why = f"{act.action.value} {act.name}"
        try:
            with reached(environment) as transport:
                silence(
                    url, SECONDS, environment=environment.name, who=act.person.who, why=why,
                    transport=transport,
                )  # fmt: skip
        except NotWatched:
            return "no Alertmanager runs there"
        except Failure as failure:
            act.warnings.append(str(failure))
            return "not heard; see the warning"
        return f"alerts about connections are silent for {SECONDS:.0f} s"
