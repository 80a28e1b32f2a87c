"""Runs steps in order; after a failure undoes, in reverse, every one that was begun.

Promises: whatever happens in a step (a failure, Ctrl-C, a bug), each step that was begun is
undone, unless the act is recorded as good: that is the point of no return, and what fails after
it is a warning. While undoing, Ctrl-C is not heard. Nothing is undone without the lease: who
took it over has put everything back already.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from types import FrameType

from opskit.deploy.act import Act, InProgress
from opskit.deploy.step import Step
from opskit.failure import Failure, Misuse, PersonNeeded
from opskit.lock import LeaseLost
from opskit.problems import ConfigError


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
    """Something happened to a step. `seconds`: how long it took so far."""

    kind: Kind
    step: str
    text: str = ""
    seconds: float = 0.0


Observer = Callable[[Event], None]


class Interrupted(Failure):
    """A person pressed Ctrl-C, or the process was told to end."""


def run(act: Act, steps: Sequence[Step], observe: Observer) -> None:
    """Carry out an act.

    Raises:
        Failure: it was not done, and everything was undone.
        PersonNeeded: it was not done, and not everything could be undone.
    """
    begun: list[Step] = []
    try:
        for step in steps:
            _one(act, step, begun, observe)
    except BaseException as error:
        failure = _as_failure(error)
        act.failure = str(failure)
        with _deaf():
            stuck = _undo_all(act, begun, observe)
        if stuck is not None:
            raise PersonNeeded(
                f"{failure}; and undoing it failed too: {stuck}",
                hint=_what_now(act),
                lines=failure.lines + stuck.lines,
            ) from error
        raise failure from (None if isinstance(error, Failure) else error)


def _one(act: Act, step: Step, begun: list[Step], observe: Observer) -> None:
    """Carry out one step; a failure after the point of no return becomes a warning."""
    if reason := step.skip(act):
        observe(Event(Kind.SKIPPED, step.name, reason))
        return
    started = time.monotonic()
    observe(Event(Kind.STARTED, step.name))
    try:
        if act.lease is not None:
            act.lease.check()
        if act.begun and not act.recorded:
            act.mark(step.name)
        begun.append(step)
        done = step.apply(act)
    except BaseException as error:
        failure = _as_failure(error)
        observe(Event(Kind.FAILED, step.name, str(failure), time.monotonic() - started))
        if not act.recorded:
            raise
        act.warnings.append(f"{step.name}: {failure}")
    else:
        observe(Event(Kind.DONE, step.name, done, time.monotonic() - started))


def _undo_all(act: Act, begun: list[Step], observe: Observer) -> Failure | None:
    """Undo in reverse; gives the first failure, and goes on all the same."""
    if act.lease is not None and not _still_ours(act):
        return None
    stuck: Failure | None = None
    for step in reversed(begun):
        started = time.monotonic()
        observe(Event(Kind.UNDOING, step.name))
        try:
            text = step.undo(act)
        except BaseException as error:
            failure = _as_failure(error)
            act.broken = True
            stuck = stuck or failure
            observe(Event(Kind.STUCK, step.name, str(failure), time.monotonic() - started))
        else:
            observe(Event(Kind.UNDONE, step.name, text, time.monotonic() - started))
    return stuck


def _still_ours(act: Act) -> bool:
    """Make sure of the lease before undoing; take it again where nobody else did meanwhile."""
    assert act.lease is not None
    try:
        act.lease.confirm()
    except LeaseLost:
        try:
            act.lease.acquire()
        except Failure:
            return False
    if not act.begun:
        return True
    there = InProgress.parse(act.target.executor.get(act.target.layout.in_progress))
    if there is not None and there.id == act.id:
        return True
    act.lease.release()
    return False


def _what_now(act: Act) -> str:
    """Give the command that a person runs after undoing failed; each of them mends first."""
    environment = act.target.environment.name
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
