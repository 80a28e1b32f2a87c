"""The service's log for people and scripts: filtered, pretty or as it is.

Pure: lines in, lines out. What is no log record (a traceback of an interpreter that could not
start, say) is shown too, unless a filter asks for what only a record can have.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

LEVELS: Final = ("debug", "info", "warning", "error", "critical")
_STYLES: Final = {"debug": "dim", "info": "green", "warning": "yellow"}
_OWN: Final = ("ts", "level", "logger", "msg", "exc", "release")

Paint = Callable[[str, str], str]
"""`paint(style, text)` gives the text in a style."""


@dataclass(frozen=True)
class Filter:
    """Which lines are shown.

    Attributes:
        search: a text that the line holds, whatever its case.
        level: the least severe level shown.
        workspace: only what is about this workspace.
        since: Unix time in seconds; only what was logged then or later.
    """

    search: str = ""
    level: str = ""
    workspace: str = ""
    since: float = 0.0

    def keeps(self, line: str, record: Mapping[str, Any] | None) -> bool:
        """Say whether a line is shown; `record` is None when it is no record."""
        if self.search and self.search.lower() not in line.lower():
            return False
        if record is None:
            return not (self.level or self.workspace or self.since)
        if self.workspace and record.get("workspace") != self.workspace:
            return False
        if self.level and severity(record) < LEVELS.index(self.level):
            return False
        return not self.since or moment(record) >= self.since


def severity(record: Mapping[str, Any]) -> int:
    """Give the rank of a record's level; an unknown one ranks highest."""
    level = record.get("level")
    return LEVELS.index(level) if level in LEVELS else len(LEVELS)


def moment(record: Mapping[str, Any]) -> float:
    """Give when a record was logged, in Unix time; infinity when it does not say."""
    try:
        return datetime.fromisoformat(str(record["ts"])).timestamp()
    except (KeyError, ValueError):
        return float("inf")


def parse(line: str) -> dict[str, Any] | None:
    """Read a line of the log; None when it is no record."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and "msg" in record else None


def pretty(record: Mapping[str, Any], paint: Paint) -> Iterator[str]:
    """Write a record for a person: one line, and one for each line of an exception."""
    level = str(record.get("level", "?"))
    fields = [
        paint("dim", f"{_printable(name)}=") + _value(value)
        for name, value in record.items()
        if name not in _OWN
    ]
    yield " ".join(
        [
            paint("dim", _clock(record)),
            paint(_STYLES.get(level, "red"), f"{level:<7}"),
            paint("dim", f"{record.get('release', '')!s:<4} {record.get('logger', '')!s:<10}"),
            _printable(str(record["msg"])),
            *fields,
        ]
    )
    for line in str(record.get("exc", "")).splitlines():
        yield paint("red", "  | ") + _printable(line)


def _clock(record: Mapping[str, Any]) -> str:
    try:
        at = datetime.fromisoformat(str(record["ts"])).astimezone()
    except (KeyError, ValueError):
        return "?" * 12
    return at.strftime("%H:%M:%S.") + f"{at.microsecond // 1000:03d}"


def _value(value: Any) -> str:
    if isinstance(value, str) and value and not set(value) & set(' "='):
        return _printable(value)
    return _printable(json.dumps(value, ensure_ascii=False))


def _printable(text: str) -> str:
    """Escape what would move the cursor or start a line."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def shown(
    lines: Iterable[str], wanted: Filter, *, as_json: bool, paint: Paint, node: str = ""
) -> Iterator[str]:
    """Give what is shown of a log, line by line; with the node where that is given."""
    for line in lines:
        record = parse(line)
        if not wanted.keeps(line, record):
            continue
        if as_json:
            if node and record is not None:
                line = json.dumps({"source": node, **record}, ensure_ascii=False)
            yield line.encode(errors="replace").decode()
            continue
        before = paint("cyan", f"{node:<10}") + " " if node else ""
        for text in [_printable(line)] if record is None else pretty(record, paint):
            yield before + text


def since(text: str, now: datetime, duration: Callable[[str], float]) -> float:
    """Read `15m` (that long ago) or a moment in ISO 8601 (local time unless it says otherwise).

    Raises:
        ValueError: it is neither.
    """
    try:
        return now.timestamp() - duration(text)
    except ValueError:
        pass
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"{text!r} is neither a duration like 15m nor a moment like 2026-01-31T12:00"
        ) from None
    return at.timestamp()


def utc(seconds: float) -> str:
    """Write a Unix time in UTC, RFC 3339."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
