"""Looks at the new release from the inside, before anybody talks to it."""

from __future__ import annotations

from opskit.deploy.act import Act
from opskit.deploy.serving import log_lines
from opskit.deploy.step import Step
from opskit.failure import Failure
from opskit.layout import release_name


class Health(Step):
    """The right process serves the right release, is ready, and can be asked and measured."""

    name = "health"

    def describe(self, act: Act) -> str:
        """Say what the step does."""
        return "see that it is ready, is what was built, and answers on its control socket"

    def apply(self, act: Act) -> str:
        """Look at /version, /readyz, /metrics and the control socket."""
        try:
            return self._look(act)
        except Failure as failure:
            lines = log_lines(act, act.number, act.log_offset, least="warning")
            raise Failure(str(failure), hint=failure.hint, lines=lines) from None

    def _look(self, act: Act) -> str:
        facts = act.target.survey()
        serving = facts.serving
        if serving is None:
            raise Failure(f"{act.name} does not answer on /version")
        if serving.release != act.number or serving.pid != act.pid:
            raise Failure(
                f"{release_name(serving.release)} (pid {serving.pid}) serves, and not {act.name} "
                f"(pid {act.pid})"
            )
        if facts.current != act.number:
            raise Failure(f"current does not point at {act.name}")
        if serving.unready:
            raise Failure(f"{act.name} is not ready: {serving.unready}")
        if act.manifest and serving.commit not in ("", act.manifest.commit):
            raise Failure(f"{act.name} says it is commit {serving.commit}")
        if not serving.metrics:
            raise Failure(f"{act.name} does not give its metrics on port {act.target.admin_port}")
        act.port = serving.port
        status = act.target.ask(act.number, "ctl", "status")
        return f"ready, {status.get('connections', 0)} connections"
