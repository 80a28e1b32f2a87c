"""Runs steps in order over all nodes; after a failure undoes, in reverse, all that was begun.

Promises: whatever happens in a step (a failure, Ctrl-C, a bug), each step that was begun is
undone on every node where it was, unless the act is recorded as good: that is the point of no
return, and what fails after it is a warning. While undoing, Ctrl-C is not heard. Nothing is
undone on a node without its lease: who took that over has put everything back already.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from types import FrameType

from opskit.deploy.act import Act, InProgress, Part
from opskit.deploy.step import Order, Step
from opskit.deployments import Action
from opskit.failure import Failure, Misuse, PersonNeeded, Unreachable
from opskit.layout import release_name
from opskit.lock import LeaseLost, LockHeld
from opskit.problems import ConfigError
from opskit.transport import signals_deferred


class Kind(StrEnum):
    """What happened to a step."""

    STARTED = "started"
    DONE = "done"
    SKIPPED = "skipped"
    FAILED = "failed"
    UNDOING = "undoing"
    UNDONE = "undone"
    STUCK = "stuck"
    """It could not be undone."""
    NOTE = "note"
    """It says something before it is done."""


@dataclass(frozen=True)
class Event:
    """Something happened to a step.

    Attributes:
        kind: what.
        step: to which.
        text: what there is to say about it.
        seconds: how long it took so far.
        node: on which node; empty where there is one, or for all of them.
    """

    kind: Kind
    step: str
    text: str = ""
    seconds: float = 0.0
    node: str = ""


Observer = Callable[[Event], None]


class Interrupted(Failure):
    """A person pressed Ctrl-C, or the process was told to end."""


def run(act: Act, steps: Sequence[Step], observe: Observer) -> None:
    """Carry out an act.

    Raises:
        Failure: it was not done, and everything was undone.
        PersonNeeded: it was not done, and not everything could be undone.
    """
    begun: list[tuple[Step, Part]] = []
    try:
        for step in steps:
            _one_or_warn(act, step, begun, observe)
    except BaseException as error:
        failure = _as_failure(error)
        act.failure = str(failure)
        with _deaf():
            stuck = _undo_all(act, begun, observe)
        if stuck is not None:
            raise PersonNeeded(
                f"{failure}; and undoing it failed too: {stuck}{_where_it_stands(act)}",
                hint=_what_now(act),
                lines=failure.lines + stuck.lines,
            ) from error
        failure.hint = failure.hint or _then(act)
        raise failure from (None if isinstance(error, Failure) else error)


def _one_or_warn(act: Act, step: Step, begun: list[tuple[Step, Part]], observe: Observer) -> None:
    """Carry out one step; what comes after the point of no return, Ctrl-C too, is a warning."""
    try:
        _one(act, step, begun, observe)
    except BaseException as error:
        if not act.recorded:
            raise
        act.warnings.append(f"{step.name}: {_as_failure(error)}")


def _one(act: Act, step: Step, begun: list[tuple[Step, Part]], observe: Observer) -> None:
    """Carry out one step on every node that needs it.

    Raises:
        Failure: it failed somewhere; where nodes are done in turn, the next were not touched.
    """
    parts = []
    for part in act.parts[:1] if step.order is Order.ONCE else act.parts:
        if reason := step.skip(part):
            observe(Event(Kind.SKIPPED, step.name, reason, node=_shown(step, part)))
        else:
            parts.append(part)
    if step.order is Order.TOGETHER and len(parts) > 1:
        with ThreadPoolExecutor(len(parts), thread_name_prefix=step.name) as pool:
            try:
                with signals_deferred():  # so that the pool knows of every thread that it began
                    waiting = [pool.submit(_part, step, part, begun, observe) for part in parts]
                wait(waiting)
            except BaseException:
                with _deaf():  # nothing is undone where it may still be under way
                    pool.shutdown()
                raise
        for one in waiting:
            one.result()
        return
    for part in parts:
        _part(step, part, begun, observe)


def _part(step: Step, part: Part, begun: list[tuple[Step, Part]], observe: Observer) -> None:
    """Carry out one step on one node; a failure after the point of no return is a warning."""
    started, node = time.monotonic(), _shown(step, part)
    observe(Event(Kind.STARTED, step.name, node=node))
    try:
        if part.lease is not None:
            part.lease.check()
        if part.begun and not part.act.recorded:
            part.mark(step.name)
        begun.append((step, part))
        done = step.apply(part)
    except BaseException as error:
        failure = _as_failure(error)
        seconds = time.monotonic() - started
        observe(Event(Kind.FAILED, step.name, str(failure), seconds, node))
        named = _on("" if step.order is Order.ONCE else _called(part), failure)
        if not part.act.recorded:
            part.act.failed_step = part.act.failed_step or step.name
            raise named from error if failure is not error else None
        part.act.warnings.append(f"{step.name}: {named}")
    else:
        observe(Event(Kind.DONE, step.name, done, time.monotonic() - started, node))


def _shown(step: Step, part: Part) -> str:
    """Give the node that an event is about; empty where that goes without saying."""
    return "" if step.order is Order.ONCE else part.node


def _called(part: Part) -> str:
    """Give what a failure is said to be on: a host always, a node where there are several."""
    return part.node or (part.target.name if part.target.supervisor.unit else "")


def _on(node: str, failure: Failure) -> Failure:
    """Say on which node something failed, where that is not said yet."""
    if not node or str(failure).startswith(f"{node}: "):
        return failure
    named = Failure(f"{node}: {failure}", hint=failure.hint, lines=failure.lines)
    named.status = failure.status
    return named


def _undo_all(act: Act, begun: list[tuple[Step, Part]], observe: Observer) -> Failure | None:
    """Undo in reverse; gives the first failure, and goes on all the same."""
    stuck: Failure | None = None
    gone: list[Part] = []
    for part, ours in _ours_of(act):
        if isinstance(ours, Failure):
            part.broken = True
            stuck = stuck or ours
            observe(Event(Kind.STUCK, "lock", str(ours), node=part.node))
        if ours is not True:
            gone.append(part)
    for step, part in reversed(begun):
        if part in gone:
            continue
        started, node = time.monotonic(), _shown(step, part)
        observe(Event(Kind.UNDOING, step.name, node=node))
        try:
            text = step.undo(part)
        except BaseException as error:
            failure = _on(_called(part), _as_failure(error))
            part.broken = True
            stuck = stuck or failure
            seconds = time.monotonic() - started
            observe(Event(Kind.STUCK, step.name, str(failure), seconds, node))
            if isinstance(error, Unreachable):  # the next step would wait for it as long
                gone.append(part)
        else:
            observe(Event(Kind.UNDONE, step.name, text, time.monotonic() - started, node))
    for part in gone:
        if part.lease is not None:
            part.lease.abandon()
    return stuck


def _ours_of(act: Act) -> list[tuple[Part, bool | Failure]]:
    """Make sure of every lease at once: a node that is silent holds up no other for longer."""
    held = [part for part in act.parts if part.lease is not None]
    if not held:
        return []
    with ThreadPoolExecutor(len(held), thread_name_prefix="undo") as pool:
        return list(zip(held, pool.map(_ours_or_why_not, held), strict=True))


def _ours_or_why_not(part: Part) -> bool | Failure:
    try:
        return _still_ours(part)
    except BaseException as error:
        return _on(_called(part), _as_failure(error))


def _still_ours(part: Part) -> bool:
    """Make sure of the lease before undoing; take it again where nobody else did meanwhile.

    Raises:
        Failure: the node cannot be reached, so nothing is known of it.
    """
    assert part.lease is not None
    try:
        part.lease.confirm()
    except LeaseLost:
        try:
            part.lease.acquire()
        except LockHeld:
            return False
    if not part.begun:
        return True
    there = InProgress.parse(part.target.executor.get(part.target.layout.in_progress))
    if there is not None and there.id == part.act.id:
        return True
    part.lease.release()
    return False


def _then(act: Act) -> str:
    """Say what a person does after a failure, where that does not go without saying."""
    if act.action is Action.STOP:
        return ""
    serves = f"{release_name(act.before)} serves as before; " if act.before else ""
    again = f"opskit deploy {act.environment.name}"
    again += " --move-data" * act.move_data + " --leave-data" * act.leave_data
    if act.action is Action.ROLLBACK:
        again = f"opskit rollback {act.name if act.number else ''}".rstrip()
        again += f" --env {act.environment.name}" + " --leave-data" * act.leave_data
    empty = "give it an empty database, " * act.moving  # what was copied there grows old
    return f"{serves}put that right, {empty}then: {again}"


def _where_it_stands(act: Act) -> str:
    """Say on which nodes all was put back, and on which not, where there are several."""
    if len(act.parts) == 1:
        return ""
    back = ", ".join(part.node for part in act.parts if not part.broken)
    left = ", ".join(part.node for part in act.parts if part.broken)
    before = f"{release_name(act.before)} serves" if act.before else "nothing serves"
    return f"\nput back on {back or 'none'}, where {before}; not on {left}" if back else ""


def _what_now(act: Act) -> str:
    """Give the command that a person runs after undoing failed; each of them mends first."""
    environment = act.environment.name
    if act.before:
        return f"opskit rollback v{act.before} --env {environment}"
    return f"opskit stop {environment}"


def _as_failure(error: BaseException) -> Failure:
    if isinstance(error, Failure):
        return error
    if isinstance(error, ConfigError):
        return Misuse(str(error))
    if isinstance(error, KeyboardInterrupt):
        return Interrupted("interrupted")
    return Failure(f"internal error: {type(error).__name__}: {error}", hint="see it with: --debug")


@contextmanager
def _deaf() -> Iterator[None]:
    """Hear no Ctrl-C, hang-up or termination meanwhile."""

    def ignore(number: int, frame: FrameType | None) -> None:
        """Go on undoing."""

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [(number, signal.signal(number, ignore)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler or signal.SIG_DFL)
