"""The lines of the log: what a record may show, and how.

Promises: a line is one event, whatever its values contain; what has the shape of a token never
gets out, nor does a field that is named like a secret or like message text; a line's length is
bounded.

Imports nothing of chatservice.
"""

from __future__ import annotations

import json
import logging
import math
import re
import time
import traceback
from collections.abc import Mapping
from typing import Any, Final

ROOT: Final = "chatservice"
"""The logger above all of the service's own."""
FIELDS: Final = "chatservice_fields"
"""The attribute of a record that holds its fields."""
MAX_VALUE: Final = 4096
"""The longest text of one value, in characters; what is longer is cut."""
MAX_ITEMS: Final = 100
"""The most items of a list or mapping that are shown."""
MAX_TRACEBACK: Final = 16_384
"""The longest traceback, in characters; its end, which says most, is kept."""
HIDDEN: Final = "[hidden]"

_RESERVED: Final = frozenset({"ts", "level", "logger", "msg", "exc", "release"})
_SECRET_FIELDS: Final = frozenset(
    {"authorization", "cookie", "password", "payload", "secret", "text", "token"}
)
_COLOURS: Final = {"debug": "2", "info": "32", "warning": "33", "error": "31", "critical": "1;31"}

# --- what must not get out ----------------------------------------------------------------

_LEAKS: Final = re.compile(
    r"""
      (?-i: \b (?: ey[AJ] | ew[0ko] ) [\w-]{6,} (?: \. [\w-]+ )+ \.? )  # a JWT: '{"' is eyJ
    | (?-i: \b eyJ [\w-]{16,} )                                      # or a part of one
    | (?P<query> token= ) [^\s&#"'<>]+                # ?token=..., access_token=...
    | (?P<quoted> ["'] \w* token ["'] \s* [:=,] \s* ["'] ) [^"']+
    | (?P<bearer> bearer (?: [\s.:=] | %20 )+ ) [^\s,;"')]+
    | (?P<header> authorization ["']? \s* [:=,] \s* ["']? ) [^"'\r\n]+
    """,
    re.VERBOSE | re.IGNORECASE,
)


def scrub(text: str) -> str:
    """Hide whatever has the shape of a token or of the place where one is carried."""
    return _LEAKS.sub(_hide, text)


def _hide(match: re.Match[str]) -> str:
    return (match[match.lastgroup] if match.lastgroup else "") + HIDDEN


def _clean(name: str, value: object, depth: int = 0) -> Any:
    """Make a value fit for a line: JSON's own types, of bounded size, without secrets."""
    if name.lower() in _SECRET_FIELDS:
        return HIDDEN
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else repr(value)
    if depth < 3:
        if isinstance(value, Mapping):
            return {
                scrub(str(key)): _clean(str(key), item, depth + 1)
                for key, item in list(value.items())[:MAX_ITEMS]
            }
        if isinstance(value, list | tuple | set | frozenset):
            return [_clean("", item, depth + 1) for item in list(value)[:MAX_ITEMS]]
    try:
        text = str(value)
    except Exception as error:
        text = f"<{type(value).__name__} whose text fails: {type(error).__name__}>"
    return scrub(
        text if len(text) <= MAX_VALUE else f"{text[:MAX_VALUE]}… ({len(text)} characters)"
    )


def _traceback(error: BaseException) -> str:
    text = "".join(traceback.format_exception(error, limit=-30)).rstrip("\n")
    return scrub(text if len(text) <= MAX_TRACEBACK else f"…{text[-MAX_TRACEBACK:]}")


# --- the lines ----------------------------------------------------------------------------


class _Formatter(logging.Formatter):
    """Turns a record into one line."""

    def fields_of(self, record: logging.LogRecord) -> dict[str, Any]:
        """Give the record's own fields, cleaned, under names that collide with none of ours."""
        fields: Mapping[str, object] = record.__dict__.get(FIELDS, {})
        return {
            (f"{name}_" if name in _RESERVED else name): _clean(name, value)
            for name, value in fields.items()
        }

    def message_of(self, record: logging.LogRecord) -> str:
        """Give the message; a library's wrong arguments must not lose the event."""
        try:
            text = record.getMessage()
        except Exception:
            text = f"{record.msg} {record.args!r}"
        return str(_clean("", text))

    def level_of(self, record: logging.LogRecord) -> str:
        """Give the level's name in lower case."""
        return record.levelname.lower()

    def logger_of(self, record: logging.LogRecord) -> str:
        """Give the logger's name, without the package for the service's own."""
        return record.name.removeprefix(f"{ROOT}.")


class JsonFormatter(_Formatter):
    """One JSON object a line, in ASCII: ts, level, logger, msg, the fields, exc, release."""

    def __init__(self, release: str) -> None:
        super().__init__()
        self._release = release

    def format(self, record: logging.LogRecord) -> str:
        """Format one record."""
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "ts": f"{seconds}.{int(record.created % 1 * 1000):03d}Z",
            "level": self.level_of(record),
            "logger": self.logger_of(record),
            "msg": self.message_of(record),
            **self.fields_of(record),
        }
        if record.exc_info and record.exc_info[1] is not None:
            line["exc"] = _traceback(record.exc_info[1])
        line["release"] = self._release
        return json.dumps(line, separators=(",", ":"), ensure_ascii=True)


class PrettyFormatter(_Formatter):
    """One line for a person; an exception's lines follow, each behind a bar."""

    def __init__(self, *, colour: bool) -> None:
        super().__init__()
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        """Format one record."""
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        level = self.level_of(record)
        line = " ".join(
            [
                self._paint("2", f"{clock}.{int(record.created % 1 * 1000):03d}"),
                self._paint(_COLOURS.get(level, "0"), f"{level:<7}"),
                self._paint("2", f"{self.logger_of(record):<10}"),
                _printable(self.message_of(record)),
                *(
                    self._paint("2", f"{_printable(name)}=") + _pretty_value(value)
                    for name, value in self.fields_of(record).items()
                ),
            ]
        )
        if record.exc_info and record.exc_info[1] is not None:
            bar = self._paint("31", "  | ")
            for text in _traceback(record.exc_info[1]).split("\n"):
                line += f"\n{bar}{_printable(text)}"
        return line

    def _paint(self, colour: str, text: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self._colour else text


def _printable(text: str) -> str:
    """Escape what would move the cursor, start a line or reorder the text."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )


def _pretty_value(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if isinstance(value, str) and (not text or re.search(r'[\s"=]', text)):
        text = f'"{text}"'
    return _printable(text)
