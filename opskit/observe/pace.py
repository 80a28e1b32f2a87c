"""How fast the clock of the rules goes: as written for people, shortened for tests."""

from __future__ import annotations

import re
from dataclasses import dataclass

from opskit.durations import parse_duration

_SHORTEST = 4.0
"""Seconds of the shortest window: a rate takes two samples, and tests take one a second."""


@dataclass(frozen=True)
class Pace:
    """Turns the times in templates into those of Prometheus.

    `speed` 1 leaves them as they are; 60 makes of five minutes five seconds, so that the very same
    rules can be seen to fire and to resolve within a test.
    """

    speed: float = 1.0

    def window(self, text: str) -> str:
        """Give the range that a rate or a maximum is taken over."""
        if self.speed == 1.0:
            return text
        return milliseconds(max(_SHORTEST, parse_duration(text) / self.speed))

    def hold(self, text: str) -> str:
        """Give how long something must last before it counts."""
        return text if self.speed == 1.0 else milliseconds(parse_duration(text) / self.speed)

    def seconds(self, text: str) -> str:
        """Give a time as a number for arithmetic."""
        return f"{parse_duration(text) / self.speed:g}"


def milliseconds(seconds: float) -> str:
    """Write a duration as Prometheus reads it, `1h` or `1500ms`."""
    whole = round(seconds * 1000)
    return f"{whole // 1000}s" if whole % 1000 == 0 else f"{whole}ms"


def percent(ratio: float) -> str:
    """Write a ratio for people: `5 %`, `99.9 %`."""
    return f"{ratio * 100:.4g} %"


def size(number: int) -> str:
    """Write a number of bytes for people, as `1 GB`."""
    amount = float(number)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if amount < 1000 or unit == "TB":
            return f"{amount:.3g} {unit}"
        amount /= 1000
    raise AssertionError


def is_duration(text: str) -> bool:
    """Say whether Prometheus takes a text for a duration."""
    return re.fullmatch(r"(\d+(ms|[smhdwy]))+", text) is not None
