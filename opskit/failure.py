"""What can go wrong, as one family of exceptions; each knows the exit status that it means.

A message says what was wrong and where; `hint` says what to do next. The command line shows
both, and never a traceback.
"""

from __future__ import annotations

from collections.abc import Sequence


class Failure(Exception):
    """It was not done; nothing changed, or everything was undone. Exit status 1.

    Args:
        message: what was wrong and where, in one line.
        hint: what to do next, as a sentence or a command.
        lines: what a person wants to see below it, such as the last lines of a log.
    """

    status = 1

    def __init__(self, message: str, *, hint: str = "", lines: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.hint = hint
        self.lines = tuple(lines)


class Unreachable(Failure):
    """The host was not reached, or is not any more: what became of it there is unknown."""


class Misuse(Failure):
    """The command or the configuration is wrong. Exit status 2."""

    status = 2


class PersonNeeded(Failure):
    """It failed, and undoing it failed too. `hint` is the exact command to run next. Exit 3."""

    status = 3
