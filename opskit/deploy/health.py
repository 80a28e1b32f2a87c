"""Looks at the new release from the inside, before anybody talks to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opskit.deploy.act import Part
from opskit.deploy.serving import log_lines
from opskit.deploy.step import Step
from opskit.deployments import Moved
from opskit.failure import Failure
from opskit.layout import release_name


class Health(Step):
    """The right process serves the right release, is ready, and can be asked and measured."""

    name = "health"

    def describe(self, part: Part) -> str:
        """Say what the step does."""
        return "see that it is ready, is what was built, and answers on its control socket"

    def apply(self, part: Part) -> str:
        """Look at /version, /readyz, /metrics and the control socket."""
        try:
            return self._look(part)
        except Failure as failure:
            lines = log_lines(part, part.number, part.log_mark, least="warning")
            raise Failure(str(failure), hint=failure.hint, lines=lines) from None

    def _look(self, part: Part) -> str:
        part.after = facts = part.target.survey()
        serving = facts.serving
        if serving is None:
            raise Failure(f"{part.name} does not answer on /version")
        if serving.release != part.number or serving.pid != part.pid:
            raise Failure(
                f"{release_name(serving.release)} (pid {serving.pid}) serves, and not {part.name} "
                f"(pid {part.pid})"
            )
        if facts.current != part.number:
            raise Failure(f"current does not point at {part.name}")
        full = serving.full and part.act.takes_a_full_disk
        if serving.unready and not full:
            raise Failure(f"{part.name} is not ready: {serving.unready}")
        if part.manifest and serving.commit not in ("", part.manifest.commit):
            raise Failure(f"{part.name} says it is commit {serving.commit}")
        if not serving.metrics:
            host, port = part.target.admin_address
            raise Failure(f"{part.name} does not give its metrics at {host}:{port}")
        part.port = serving.port
        if (status := facts.control) is None or status.get("pid") != part.pid:
            raise Failure(f"{part.name} does not answer on its control socket")
        if part.switched:
            part.connections = how_it_went(status)
        said = "reads only: its disk is full" if full else "ready"
        said += f", {status.get('connections', 0)} connections"
        if part.connections and part.connections.how == "handover":
            pause = f" in {part.connections.pause_ms:.0f} ms" if part.connections.pause_ms else ""
            said += f" ({part.connections.moved} moved{pause})"
        return said


def how_it_went(status: Mapping[str, Any]) -> Moved | None:
    """Read what a process says of its start; None when it says nothing, as older releases do."""
    try:
        said = status["last_start"]
        return Moved(
            str(said["started"]),
            int(said["moved"]),
            int(said["drained"]),
            int(said["dropped"]),
            None if said.get("pause_ms") is None else round(float(said["pause_ms"]), 1),
        )
    except (KeyError, TypeError, ValueError):
        return None
