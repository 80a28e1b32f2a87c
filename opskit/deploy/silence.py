"""Keeps alerts about connections silent for the minutes of a deployment."""

from __future__ import annotations

import socket

from opskit.deploy.act import Part
from opskit.deploy.step import Order, Step
from opskit.failure import Failure

SECONDS = 180.0
"""How long: it ends by itself, whatever becomes of opskit."""
_CONNECT = 0.5


class Silence(Step):
    """Tells the Alertmanager on this machine, where one watches the environment.

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
        port = part.act.environment.monitoring.alertmanager_port
        try:
            socket.create_connection(("127.0.0.1", port), timeout=_CONNECT).close()
        except OSError:
            return "no Alertmanager runs here"
        return ""

    def apply(self, part: Part) -> str:
        """Tell it; a deployment goes on without."""
        from opskit.observe.silence import silence  # here: it loads an HTTP client

        act = part.act
        url = f"http://127.0.0.1:{act.environment.monitoring.alertmanager_port}"
        why = f"{act.action.value} {act.name}"
        try:
            silence(url, SECONDS, environment=act.environment.name, who=act.person.who, why=why)
        except Failure as failure:
            act.warnings.append(str(failure))
            return "not heard; see the warning"
        return f"alerts about connections are silent for {SECONDS:.0f} s"
