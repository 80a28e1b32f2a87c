"""What is wrong with what an operator wrote: where, which key, why, and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from opskit.failure import Misuse


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    `where` is `file:line`, `key` the dotted key (`environments.dev.chat.limits.text`), `why`
    says what was wrong and what to do next; none of them ever holds a secret's value.
    """

    where: str
    key: str
    why: str

    def __str__(self) -> str:
        """Give the one line that a person reads."""
        return ": ".join(part for part in (self.where, self.key, self.why) if part)


class ConfigError(Misuse):
    """What was configured cannot work. Holds every problem that was found; exit status 2."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))
