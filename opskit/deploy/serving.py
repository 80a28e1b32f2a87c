"""Making one release serve, whatever serves now."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from opskit.commands import files, service
from opskit.deploy.act import LONGEST_START, Part
from opskit.failure import Failure
from opskit.layout import release_name
from opskit.patience import if_slow
from opskit.supervision import REFUSED, Started
from opskit.tail import LEVELS, parse, severity

LOG_LINES = 20
_COMPLAINT = "chatservice: "
_TAKEN = re.compile(r"cannot listen on (\S+):(\d+): Address already in use")


@dataclass(frozen=True)
class Waited:
    """What became of waiting for a release. `state`: serving, full, unready, silent or exited."""

    state: str
    reason: str
    pid: int
    seconds: float


def point(part: Part, number: int) -> None:
    """Point `current` at a release, and read it back.

    Raises:
        Failure: it points elsewhere.
    """
    target = f"releases/{release_name(number)}"
    said = part.target.executor.check(files.link(target, part.target.layout.current)).strip()
    if said != target and part.target.executor.host and said:
        raise Failure(f"{part.target.executor.host}: current points at {said}, not at {target}")


def start(part: Part, number: int, *, take_over: bool = True) -> Started:
    """Start a release, to which `current` points; it takes over from whoever serves."""
    target, seconds = part.target, part.act.timing.start
    return target.supervisor.start(target.executor, number, seconds=seconds, take_over=take_over)


def wait(part: Part, number: int, pid: int, *, seconds: float | None = None) -> Waited:
    """Wait until a release (this process of it) serves, or has ended.

    It serves when it is ready; one whose store has no room is not waited for either.
    """
    command = service.wait(
        part.target.layout,
        number,
        pid,
        python=part.target.python,
        seconds=part.act.timing.start if seconds is None else seconds,
    )
    said = json.loads(part.target.executor.check(command))
    return Waited(said["state"], said["reason"], said["pid"] or 0, said["seconds"])


def serve(part: Part, number: int) -> Waited:
    """Start a release and wait until it serves and is ready.

    A running process that cannot hand over (it hangs, speaks another version of the conversation,
    or has the port at an address that changes) is stopped in order, and the release started cold:
    its members reconnect.

    Raises:
        Failure: it ended, or was not ready in time, or has no room to write where that does not
            do; its last log lines come with it.
    """
    name = release_name(number)
    started = start(part, number)
    waited = _wait_for(part, number, started)
    why = started.refused
    if waited.state == "exited" and not started.failed:
        last = log_lines(part, number, started.mark)[-1:]
        why = refusal(last) or _in_its_way(part, *last)
    elif started.failed and not why:
        why = _in_its_way(part, started.failed)
    if why:
        part.note(f"the running process does not hand over ({why}): stopping it, starting {name}")
        end(part, [one.pid for one in part.target.survey().processes])
        started = start(part, number, take_over=False)
        waited = _wait_for(part, number, started)
    if waited.state == "serving" or (waited.state == "full" and part.act.takes_a_full_disk):
        return waited
    lines = log_lines(part, number, started.mark) or [started.failed]
    if waited.state == "exited":
        why = f"{name} ended while it was starting{_last_words(lines)}"
    elif waited.state in ("unready", "full"):
        why = f"{name} serves but is not ready: {waited.reason}"
    else:
        seconds = part.act.timing.start
        why = f"{name} did not serve within {seconds:g} s: {waited.reason}"
        if part.target.environment.target == "ssh" and seconds < LONGEST_START:
            why += if_slow("command_timeout", seconds)
    raise Failure(why, lines=[line for line in lines if line])


def _last_words(lines: Sequence[str]) -> str:
    """Give what a process said at its end, unless that was a log record like any other."""
    last = lines[-1].removeprefix(_COMPLAINT).strip() if lines else ""
    return f": {last}" if last and parse(last) is None else ""


def _wait_for(part: Part, number: int, started: Started) -> Waited:
    """Wait for what was started, unless it is known to have failed, or was waited for."""
    if started.failed:
        return Waited("exited", started.failed, 0, 0.0)
    if started.late:
        return wait(part, number, 0, seconds=0.0)
    return wait(part, number, started.pid)


def refusal(lines: Sequence[str]) -> str:
    """Give the reason why a process could not take over, if that is what ended it."""
    last = lines[-1] if lines else ""
    return last.removeprefix(_COMPLAINT) if last.startswith(_COMPLAINT + REFUSED) else ""


def _in_its_way(part: Part, words: str = "") -> str:
    """Give what keeps a release from listening, if that is the process that it is to relieve.

    An address moves with the connections, unless it is another one at the same port: the new
    process cannot listen on 0.0.0.0:8766 as long as the old one does on 127.0.0.1:8766.
    """
    if (found := _TAKEN.search(words)) is None:
        return ""
    port, facts = int(found[2]), part.target.survey()
    listener = facts.listener(port)
    if listener is None or listener.pid not in {one.pid for one in facts.processes}:
        return ""
    return f"it has port {port} at another address than {found[1]}"


def log_lines(
    part: Part, number: int, mark: str, *, least: str = "debug", lines: int = LOG_LINES
) -> list[str]:
    """Give the last lines that a release logged after a mark; none if they cannot be read."""
    found = part.target.supervisor.log_since(part.target.executor, mark, 100 * lines)
    return of_release(found, release_name(number), least)[-lines:]


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


def end(part: Part, pids: Sequence[int]) -> dict[int, str]:
    """End processes of this environment, and say what became of each.

    They are given the time that they take to send their members away in order.
    """
    if not pids:
        return {}
    target, timing = part.target, part.target.environment.settings.timing
    seconds = part.act.timing.end + timing.drain + timing.reconnect_spread
    return target.supervisor.end(target.executor, pids, seconds=seconds)


def put_back(part: Part, number: int, *, not_pid: int = 0) -> str:
    """Make a release serve that served before, by force if need be.

    Args:
        part: the act on this node.
        number: the release.
        not_pid: a process that shall not go on serving, though it may be of this release.

    Raises:
        Failure: it does not serve.
    """
    point(part, number)
    facts = part.target.survey()
    serving = facts.serving.pid if facts.serving else 0
    others = [one.pid for one in facts.processes if one.pid != serving]
    end(part, others)  # one that is still starting could take over in a moment
    name = release_name(number)
    if facts.serving and facts.serving.release == number and serving != not_pid:
        there = Started(serving, "")
        return _verified(part, number, there, f"{name} has been serving all the time")
    try:
        started = start(part, number)
        done = _verified(part, number, started, f"{name} serves again")
    except Failure:
        # It could not take over: whatever is in its way has to go first.
        end(part, [one.pid for one in part.target.survey().processes])
        started = start(part, number, take_over=False)
        try:
            return _verified(part, number, started, f"{name} serves again, after a cold start")
        except Failure as failure:
            lines = log_lines(part, number, started.mark)
            raise Failure(str(failure), hint=failure.hint, lines=lines) from None
    if serving:
        end(part, [serving])
    return done


def _verified(part: Part, number: int, started: Started, done: str) -> str:
    """Make sure that a release serves; one that was not ready before need not be ready now."""
    if started.failed:
        raise Failure(f"{release_name(number)} does not serve: {started.failed}")
    pid = 0 if started.late else started.pid
    waited = wait(part, number, pid, seconds=min(part.act.timing.start, 15.0))
    if waited.state == "serving":
        return done
    if waited.state in ("unready", "full"):
        return f"{done}, but it is not ready: {waited.reason}"
    ended = "it ended" if waited.state == "exited" else waited.reason
    raise Failure(f"{release_name(number)} does not serve: {ended}")


def stop_all(part: Part) -> str:
    """End whatever serves this environment, orderly, and by force if need be."""
    ended = end(part, [one.pid for one in part.target.survey().processes])
    if not ended:
        return "nothing was running"
    return ", ".join(f"pid {pid} {outcome}" for pid, outcome in sorted(ended.items()))


def remove_current(part: Part) -> None:
    """Let `current` point at nothing."""
    part.target.executor.check(files.remove(part.target.layout.current))
