"""Values as people read them, in the units that the dashboards name as Grafana does."""

from __future__ import annotations

import math
from datetime import datetime

_BINARY = ("B", "KiB", "MiB", "GiB", "TiB")
_SUFFIX = {"reqps": "/s", "cps": "/s", "ops": "/s"}


def shown(value: float, unit: str, decimals: int | None = None) -> str:
    """Write a value with its unit."""
    if not math.isfinite(value):
        return "–"
    if unit == "s":
        return _seconds(value)
    if unit == "percentunit":
        digits = decimals if decimals is not None else (2 if abs(value) < 0.01 else 1)
        return f"{_trimmed(value * 100, digits)} %"
    if unit == "bytes":
        return _bytes(value)
    return _short(value, decimals) + _SUFFIX.get(unit, "")


def _seconds(value: float) -> str:
    size, sign = abs(value), "-" if value < 0 else ""
    if size == 0:
        return "0 s"
    if size < 1e-3:
        return f"{sign}{_significant(size * 1e6)} µs"
    if size < 1:
        return f"{sign}{_significant(size * 1e3)} ms"
    for limit, each, name in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if size < limit:
            return f"{sign}{_significant(size / each)} {name}"
    return f"{sign}{_significant(size / 86_400)} d"


def _bytes(value: float) -> str:
    size = value
    for unit in _BINARY:
        if abs(size) < 1024 or unit == _BINARY[-1]:
            return f"{_significant(size)} {unit}"
        size /= 1024
    raise AssertionError


def _short(value: float, decimals: int | None) -> str:
    if decimals is not None and abs(value) < 1000:
        return _trimmed(value, decimals)
    for limit, sign in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            each = {"G": 1e9, "M": 1e6, "k": 1e3}[sign]
            return f"{_significant(value / each)} {sign}"
    return _significant(value)


def _significant(value: float) -> str:
    """Write three significant digits, and no zeros that say nothing."""
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return _trimmed(value, min(digits, 4))


def _trimmed(value: float, digits: int) -> str:
    text = f"{value:.{digits}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text in ("-0", "") else text


def nice_top(value: float, unit: str) -> float:
    """Give the round number at or above a value where an axis may end."""
    if value <= 0 or not math.isfinite(value):
        return {"percentunit": 0.01, "s": 0.001, "bytes": 1024.0}.get(unit, 1.0)
    bases: tuple[float, ...] = (1, 2, 2.5, 5, 10)
    each = 1.0
    if unit == "bytes":
        each = 1024.0 ** min(4, max(0, math.floor(math.log(value, 1024))))
        bases = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
        return each * next(base for base in bases if each * base >= value * 0.999)
    if unit == "s" and value >= 60:
        steps = (60, 120, 300, 600, 1200, 3600, 7200, 21_600, 43_200, 86_400)
        if value <= steps[-1]:
            return float(next(step for step in steps if step >= value))
        return 86_400.0 * math.ceil(value / 86_400)
    each = 10.0 ** math.floor(math.log10(value))
    return each * next(base for base in bases if each * base >= value * 0.999)


def time_ticks(start: float, end: float, most: int) -> list[tuple[float, str]]:
    """Give round times between two, with what is written at each; local time."""
    spans = (10, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400)
    span = next((one for one in spans if (end - start) / one <= most), 86_400 * 7)
    offset = datetime.fromtimestamp(start).astimezone().utcoffset()
    shift = offset.total_seconds() if offset else 0.0
    first = math.ceil((start + shift) / span) * span - shift
    form = "%H:%M:%S" if span < 60 else "%H:%M" if span < 43_200 else "%d %b"
    ticks, at = [], first
    while at <= end:
        ticks.append((at, datetime.fromtimestamp(at).strftime(form)))
        at += span
    return ticks
