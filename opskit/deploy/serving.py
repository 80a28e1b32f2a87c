"""Making one release serve, whatever serves now."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from opskit.commands import files, service
from opskit.deploy.act import Act
from opskit.failure import Failure
from opskit.layout import release_name
from opskit.tail import LEVELS, parse, severity

LOG_LINES = 20
_COMPLAINT = "chatservice: "
_REFUSED = "the running process "
"""How the last words of a process begin that could not take over (chatservice/takeover.py)."""


@dataclass(frozen=True)
class Started:
    """A process that was started, and where the log ended before it."""

    pid: int
    offset: int


@dataclass(frozen=True)
class Waited:
    """What became of waiting for a release. `state`: serving, unready, silent or exited."""

    state: str
    reason: str
    pid: int
    seconds: float


def point(act: Act, number: int) -> None:
    """Point `current` at a release, and read it back.

    Raises:
        Failure: it points elsewhere.
    """
    target = f"releases/{release_name(number)}"
    said = act.target.executor.check(files.link(target, act.target.layout.current)).strip()
    if said != target and act.target.executor.host and said:
        raise Failure(f"{act.target.executor.host}: current points at {said}, not at {target}")


def start(act: Act, number: int, *, take_over: bool = True) -> Started:
    """Start a release; it takes over from whoever serves, or starts cold."""
    command = service.start(
        act.target.layout, number, python=act.target.python, take_over=take_over
    )
    said = act.target.executor.check(command).split()
    if len(said) != 2 or not all(part.isdigit() for part in said):
        raise Failure(f"{act.target.executor.host}: starting {release_name(number)} said {said}")
    return Started(int(said[0]), int(said[1]))


def wait(act: Act, number: int, pid: int, *, seconds: float | None = None) -> Waited:
    """Wait until a release (this process of it) serves and is ready, or has ended."""
    command = service.wait(
        act.target.layout,
        number,
        pid,
        python=act.target.python,
        seconds=act.timing.start if seconds is None else seconds,
    )
    said = json.loads(act.target.executor.check(command))
    return Waited(said["state"], said["reason"], said["pid"] or 0, said["seconds"])


def serve(act: Act, number: int) -> Waited:
    """Start a release and wait until it serves and is ready.

    A running process that cannot hand over (it hangs, or speaks another version of the
    conversation) is stopped in order, and the release started cold: its members reconnect.

    Raises:
        Failure: it ended, or was not ready in time; its last log lines come with it.
    """
    started = start(act, number)
    waited = wait(act, number, started.pid)
    name = release_name(number)
    if waited.state == "exited" and (why := refusal(log_lines(act, number, started.offset))):
        act.note(f"the running process does not hand over ({why}): stopping it, starting {name}")
        end(act, [one.pid for one in act.target.survey().processes])
        started = start(act, number, take_over=False)
        waited = wait(act, number, started.pid)
    if waited.state == "serving":
        return waited
    if waited.state == "exited":
        why = f"{name} ended while it was starting"
    elif waited.state == "unready":
        why = f"{name} serves but is not ready: {waited.reason}"
    else:
        why = f"{name} did not serve within {act.timing.start:g} s: {waited.reason}"
    raise Failure(why, lines=log_lines(act, number, started.offset))


def refusal(lines: Sequence[str]) -> str:
    """Give the reason why a process could not take over, if that is what ended it."""
    last = lines[-1] if lines else ""
    return last.removeprefix(_COMPLAINT) if last.startswith(_COMPLAINT + _REFUSED) else ""


def log_size(act: Act) -> int:
    """Give how long the log is now, in bytes."""
    said = act.target.executor.check(service.log_size(act.target.layout.log)).strip()
    return int(said) if said.isdigit() else 0


def log_lines(
    act: Act, number: int, offset: int, *, least: str = "debug", lines: int = LOG_LINES
) -> list[str]:
    """Give the last lines that a release logged after an offset; none if they cannot be read."""
    command = service.log_since(act.target.layout.log, offset, 100 * lines)
    try:
        text = act.target.executor.check(command)
    except Failure:
        return []
    return of_release(text.splitlines(), release_name(number), least)[-lines:]


def of_release(lines: Sequence[str], name: str, least: str) -> list[str]:
    """Give what a release wrote into a log, from a level on; what is no record may be its, too."""
    kept = []
    for line in lines:
        record = parse(line)
        if record is None or (
            record.get("release", name) == name and severity(record) >= LEVELS.index(least)
        ):
            kept.append(line)
    return kept


def end(act: Act, pids: Sequence[int]) -> dict[int, str]:
    """End processes of this environment, and say what became of each.

    They are given the time that they take to send their members away in order.
    """
    if not pids:
        return {}
    timing = act.target.environment.settings.timing
    seconds = act.timing.end + timing.drain + timing.reconnect_spread
    command = service.end(act.target.root, pids, python=act.target.python, seconds=seconds)
    said = json.loads(act.target.executor.check(command))
    return {int(pid): outcome for pid, outcome in said.items()}


def put_back(act: Act, number: int, *, not_pid: int = 0) -> str:
    """Make a release serve that served before, by force if need be.

    Args:
        act: the act under way.
        number: the release.
        not_pid: a process that shall not go on serving, though it may be of this release.

    Raises:
        Failure: it does not serve.
    """
    point(act, number)
    facts = act.target.survey()
    serving = facts.serving.pid if facts.serving else 0
    others = [one.pid for one in facts.processes if one.pid != serving]
    end(act, others)  # one that is still starting could take over in a moment
    name = release_name(number)
    if facts.serving and facts.serving.release == number and serving != not_pid:
        return _verified(act, number, serving, f"{name} has been serving all the time")
    try:
        started = start(act, number)
        done = _verified(act, number, started.pid, f"{name} serves again")
    except Failure:
        # It could not take over: whatever is in its way has to go first.
        end(act, [one.pid for one in act.target.survey().processes])
        started = start(act, number, take_over=False)
        try:
            return _verified(act, number, started.pid, f"{name} serves again, after a cold start")
        except Failure as failure:
            lines = log_lines(act, number, started.offset)
            raise Failure(str(failure), hint=failure.hint, lines=lines) from None
    if serving:
        end(act, [serving])
    return done


def _verified(act: Act, number: int, pid: int, done: str) -> str:
    """Make sure that a release serves; one that was not ready before need not be ready now."""
    waited = wait(act, number, pid, seconds=min(act.timing.start, 15.0))
    if waited.state == "serving":
        return done
    if waited.state == "unready":
        return f"{done}, but it is not ready: {waited.reason}"
    ended = "it ended" if waited.state == "exited" else waited.reason
    raise Failure(f"{release_name(number)} does not serve: {ended}")


def stop_all(act: Act) -> str:
    """End whatever serves this environment, orderly, and by force if need be."""
    ended = end(act, [one.pid for one in act.target.survey().processes])
    if not ended:
        return "nothing was running"
    return ", ".join(f"pid {pid} {outcome}" for pid, outcome in sorted(ended.items()))


def remove_current(act: Act) -> None:
    """Let `current` point at nothing."""
    act.target.executor.check(files.remove(act.target.layout.current))
