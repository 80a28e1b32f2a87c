"""Makes the new release serve."""

from __future__ import annotations

from opskit.deploy.act import Part
from opskit.deploy.serving import point, put_back, remove_current, serve, stop_all
from opskit.deploy.step import Order, Step
from opskit.layout import release_name


class Switch(Step):
    """Points `current` at the release and starts it; it takes over from the one that serves."""

    name = "switch"
    order = Order.IN_TURN

    def describe(self, part: Part) -> str:
        """Say what the step does."""
        return "point current at the release, start it, and wait until it has taken over"

    def skip(self, part: Part) -> str:
        """What serves already needs no switch."""
        serving = part.looked.serving
        if part.unchanged and serving and serving.release == part.number:
            part.pid = serving.pid
            return f"{part.name} serves already"
        return ""

    def apply(self, part: Part) -> str:
        """Switch, and wait until the release serves and is ready."""
        part.log_mark = part.target.supervisor.log_mark(part.target.executor)
        part.switched = True
        point(part, part.number)
        waited = serve(part, part.number)
        part.pid = waited.pid
        return f"{part.name} serves after {waited.seconds:.2f} s (pid {waited.pid})"

    def undo(self, part: Part) -> str:
        """Have the release before serve again, or nothing, where nothing did."""
        if not part.switched:
            return ""
        if part.unchanged:
            return f"nothing served before: {stop_all(part)}"
        if part.before is None:
            said = stop_all(part)
            remove_current(part)
            return f"{part.name} was the first release: {said}"
        part.note(f"{release_name(part.before)} takes over again")
        restarted = part.before == part.number
        return put_back(part, part.before, not_pid=self._serving(part) if restarted else 0)

    def _serving(self, part: Part) -> int:
        serving = part.target.survey().serving
        return serving.pid if serving and serving.pid != self._before(part) else 0

    def _before(self, part: Part) -> int:
        """Give the process that served before the switch; it had the old secrets."""
        return part.looked.serving.pid if part.looked.serving else 0
