"""Durations as people write and read them."""

from __future__ import annotations

import re

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class BadDuration(ValueError):
    """A text is no duration."""


def parse_duration(text: str) -> float:
    """Read `90`, `90s`, `15m`, `2h` or `7d`, in seconds.

    Raises:
        BadDuration: it is none of these.
    """
    if not (match := re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smhd]?)", text.strip())):
        raise BadDuration(f"{text!r} is no duration; expected one like 90s, 15m, 2h or 7d")
    return float(match[1]) * _UNITS[match[2] or "s"]


def short(seconds: float) -> str:
    """Write a duration for people, in its two largest units."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = int(seconds) // 60
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // 1440} d {minutes // 60 % 24} h"
