"""What a check is: a small function with a name, a title, and what it needs beforehand."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

StageT = TypeVar("StageT")


class CheckFailed(Exception):
    """The service did not do what it promises: what was expected, what was seen, and by whom."""


class CheckSkipped(Exception):
    """The check does not apply to this target; the message says why."""


@dataclass(frozen=True)
class Found:
    """What a check that passed has to say. `measured` maps `name_unit` to numbers."""

    detail: str
    measured: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Check(Generic[StageT]):
    """One check.

    Attributes:
        name: a stable slug.
        title: what is promised, as a plain sentence.
        run: looks at the service; raises `CheckFailed` or `CheckSkipped`.
        needs: the names of checks without which this one means nothing.
        look_at: where a person finds the cause when it fails.
    """

    name: str
    title: str
    run: Callable[[StageT], Awaitable[Found]]
    needs: tuple[str, ...]
    look_at: str


def check(
    name: str, title: str, *, needs: tuple[str, ...] = (), look_at: str
) -> Callable[[Callable[[StageT], Awaitable[Found]]], Check[StageT]]:
    """Make a check of a function."""

    def make(run: Callable[[StageT], Awaitable[Found]]) -> Check[StageT]:
        return Check(name, title, run, needs, look_at)

    return make


@dataclass(frozen=True)
class Group(Generic[StageT]):
    """Checks that share a stage: a workspace of their own and the connections in it.

    Attributes:
        name: a stable slug; the workspace's name ends with it.
        stage: makes the stage; called with the run and this name.
        checks: in the order in which they run.
        needs: the names of checks without which none of these is tried.
        at_once: whether the checks leave each other alone, and so may run at the same time.
        after: the name of a group that makes its connections first: one that must let time pass
            then, which this one can use. Whether that went well does not matter to it.
    """

    name: str
    stage: Callable[[Any, str], AbstractAsyncContextManager[StageT]]
    checks: tuple[Check[StageT], ...]
    needs: tuple[str, ...] = ()
    at_once: bool = False
    after: str = ""
