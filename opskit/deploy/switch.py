"""Makes the new release serve."""

from __future__ import annotations

from opskit.deploy.act import Act
from opskit.deploy.serving import log_size, point, put_back, remove_current, serve, stop_all
from opskit.deploy.step import Step
from opskit.layout import release_name


class Switch(Step):
    """Points `current` at the release and starts it; it takes over from the one that serves."""

    name = "switch"

    def describe(self, act: Act) -> str:
        """Say what the step does."""
        return "point current at the release, start it, and wait until it has taken over"

    def skip(self, act: Act) -> str:
        """What serves already needs no switch."""
        serving = act.looked.serving
        if act.unchanged and serving and serving.release == act.number:
            act.pid = serving.pid
            return f"{act.name} serves already"
        return ""

    def apply(self, act: Act) -> str:
        """Switch, and wait until the release serves and is ready."""
        act.log_offset = log_size(act)
        act.switched = True
        point(act, act.number)
        waited = serve(act, act.number)
        act.pid = waited.pid
        return f"{act.name} serves after {waited.seconds:.2f} s (pid {waited.pid})"

    def undo(self, act: Act) -> str:
        """Have the release before serve again, or nothing, where nothing did."""
        if not act.switched:
            return ""
        if act.unchanged:
            return f"nothing served before: {stop_all(act)}"
        if act.before is None:
            said = stop_all(act)
            remove_current(act)
            return f"{act.name} was the first release: {said}"
        act.note(f"{release_name(act.before)} takes over again")
        restarted = act.before == act.number
        return put_back(act, act.before, not_pid=self._serving(act) if restarted else 0)

    def _serving(self, act: Act) -> int:
        serving = act.target.survey().serving
        return serving.pid if serving and serving.pid != self._before(act) else 0

    def _before(self, act: Act) -> int:
        """Give the process that served before the switch; it had the old secrets."""
        return act.looked.serving.pid if act.looked.serving else 0
