"""What the checker may find wrong, and the verdict that it comes to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

SHOWN: Final = 25


class Fault(StrEnum):
    """A broken promise. Each has a test in which a history breaks it in just that way."""

    LOST = "lost"
    """Acknowledged, and not stored."""
    MISNUMBERED = "misnumbered"
    """Acknowledged under another number or time than it is stored under."""
    DUPLICATE = "duplicate"
    """One send, stored more than once."""
    INVENTED = "invented"
    """Stored, and sent by nobody."""
    ALTERED = "altered"
    """Stored or delivered otherwise than it was sent, or than others saw it."""
    REFUSED = "refused"
    """Refused for good, and stored all the same."""
    HOLE = "hole"
    """The stored numbers are not 1, 2, 3 ... without a gap."""
    REORDERED = "reordered"
    """Sent after another one was acknowledged, and numbered before it."""
    DISAGREEMENT = "disagreement"
    """Two ways to read the store give different answers."""
    GAP = "gap"
    """A device was given a number, and not the one before it."""
    REPEAT = "repeat"
    """A device was given a number twice."""
    SWAP = "swap"
    """A device was given a number after a higher one."""
    TAIL = "tail"
    """A device was not given the last messages."""
    PHANTOM = "phantom"
    """A device was given, or told of, a number that is not stored."""
    FOREIGN = "foreign"
    """Something of another workspace, or of a stranger, showed up."""
    RESET = "reset"
    """A device had to start afresh, although all that it missed was kept."""
    REWOUND = "rewound"
    """The newest number, as a device was told it, went back."""
    EPOCH = "epoch"
    """The history has another identity than before."""
    MISADDRESSED = "misaddressed"
    """A device was told what was meant for another."""
    MALFORMED = "malformed"
    """What came over the wire is not chat.v1."""
    ERROR = "error"
    """An error frame that nothing in the run explains."""
    CLOSED = "closed"
    """A device that had not left was not connected at the end."""
    GHOST = "ghost"
    """A user was shown as online, and was not."""
    ABSENT = "absent"
    """A user was shown as offline, or not at all, and was online."""
    NOISE = "noise"
    """A presence frame that changes nothing."""
    UNREAD = "unread"
    """A count of unread messages is wrong."""
    CURSOR = "cursor"
    """A read cursor was lost, went back, or stands where nobody put it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault: where it shows (a workspace or a device), and what exactly is wrong."""

    fault: Fault
    where: str
    detail: str

    def __str__(self) -> str:
        return f"{self.fault}: {self.where}: {self.detail}"


@dataclass(frozen=True)
class Verdict:
    """All findings, and how much was looked at: a verdict over nothing proves nothing."""

    findings: tuple[Finding, ...]
    looked_at: Counter[str]

    @property
    def clean(self) -> bool:
        """Whether every promise was kept."""
        return not self.findings

    @property
    def faults(self) -> set[Fault]:
        """The kinds of faults found."""
        return {finding.fault for finding in self.findings}

    def of(self, fault: Fault) -> list[Finding]:
        """Give the findings of one kind."""
        return [finding for finding in self.findings if finding.fault is fault]

    def __str__(self) -> str:
        """Show the first findings of every kind."""
        over = ", ".join(f"{count} {what}" for what, count in self.looked_at.items())
        if self.clean:
            return f"clean, over {over}"
        kinds = Counter(finding.fault for finding in self.findings)
        each = max(1, SHOWN // len(kinds))
        shown = [line for fault in kinds for line in _first(self.of(fault), each)]
        heading = ", ".join(f"{fault} {count}x" for fault, count in kinds.most_common())
        return "\n  ".join([f"NOT clean, over {over}: {heading}", *shown])


def _first(findings: list[Finding], count: int) -> Iterable[str]:
    yield from (str(finding) for finding in findings[:count])
    if len(findings) > count:
        yield f"{findings[0].fault}: ... and {len(findings) - count} more"
