"""The log, filtered and written for people."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from opskit.durations import BadDuration, parse_duration, short
from opskit.tail import Filter, moment, parse, shown, since


def line(level: str = "info", msg: str = "member joined", **fields: object) -> str:
    record = {"ts": "2026-01-31T12:00:00.123Z", "level": level, "logger": "server", "msg": msg}
    return json.dumps(record | fields | {"release": "v2"})


JOINED = line(workspace="team", user="ada", conn="4e6e-1")
FAILED = line("error", "the store failed", exc="Traceback:\n  boom\x1b[2J", reason="disk full")
RAW = "Traceback (most recent call last):"


def plain(style: str, text: str) -> str:
    return text


def show(*lines: str, as_json: bool = True, **options: Any) -> list[str]:
    wanted = Filter(**options)
    return list(shown(lines, wanted, as_json=as_json, paint=plain))


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({}, [JOINED, FAILED, RAW]),
        ({"search": "STORE"}, [FAILED]),
        ({"search": "traceback"}, [FAILED, RAW]),
        ({"level": "warning"}, [FAILED]),
        ({"level": "debug"}, [JOINED, FAILED]),
        ({"workspace": "team"}, [JOINED]),
        ({"workspace": "tea"}, []),
        ({"since": datetime(2026, 1, 31, 12, tzinfo=UTC).timestamp()}, [JOINED, FAILED]),
        ({"since": datetime(2026, 1, 31, 13, tzinfo=UTC).timestamp()}, []),
        ({"level": "error", "search": "member"}, []),
    ],
)
def test_filters(options: dict[str, Any], kept: list[str]) -> None:
    """A line is shown when it passes all; what is no record only when none asks for a field."""
    assert show(JOINED, FAILED, RAW, **options) == kept


def test_json_is_what_was_logged() -> None:
    """Not a byte is different, so that scripts can rely on it."""
    assert show(JOINED) == [JOINED]


def test_pretty_is_a_line_for_a_record_and_one_for_each_of_its_exception() -> None:
    """Time, level, release, logger, message, fields; escape sequences have no effect."""
    (joined,) = show(JOINED, as_json=False)
    assert joined.endswith(
        "info    v2   server     member joined workspace=team user=ada conn=4e6e-1"
    )
    failed, *exception = show(FAILED, as_json=False)
    assert failed.endswith('the store failed reason="disk full"')
    assert exception == ["  | Traceback:", "  |   boom\\x1b[2J"]
    assert show("\x1b[2Jraw", as_json=False) == ["\\x1b[2Jraw"]


@pytest.mark.parametrize("text", ["", "null", "[]", "{}", "{", '{"level": "info"}', "word"])
def test_what_is_no_record(text: str) -> None:
    """It is shown as it is."""
    assert parse(text) is None
    assert show(text, as_json=False) == [text]


def test_a_record_without_a_time_is_never_too_old() -> None:
    """Better one line too many than one too few."""
    assert moment({}) == float("inf")
    assert moment({"ts": "yesterday"}) == float("inf")


def test_an_unknown_level_is_shown() -> None:
    """It may be worse than all that are known."""
    assert show(line("fatal"), level="error") == [line("fatal")]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("15m", 900.0), ("90", 90.0), ("2h", 7200.0), ("7d", 604800.0), ("1.5s", 1.5)],
)
def test_durations(text: str, seconds: float) -> None:
    """Seconds, minutes, hours and days."""
    assert parse_duration(text) == seconds
    now = datetime(2026, 1, 31, 12, tzinfo=UTC)
    assert since(text, now, parse_duration) == now.timestamp() - seconds


@pytest.mark.parametrize("text", ["", "m", "-5m", "5 minutes", "1e3", "5w"])
def test_what_is_no_duration(text: str) -> None:
    """It is refused, and what is expected is said."""
    with pytest.raises(BadDuration, match="expected one like 90s, 15m, 2h or 7d"):
        parse_duration(text)


def test_since_a_moment() -> None:
    """With a zone it is that moment; without one it is local time."""
    now = datetime.now(UTC)
    at = datetime(2026, 1, 31, 12, tzinfo=UTC)
    assert since("2026-01-31T12:00:00Z", now, parse_duration) == at.timestamp()
    local = datetime(2026, 1, 31, 12).timestamp()
    assert since("2026-01-31 12:00", now, parse_duration) == local
    with pytest.raises(ValueError, match="neither a duration like 15m nor a moment"):
        since("soon", now, parse_duration)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.004, "0.00 s"),
        (3.14159, "3.14 s"),
        (12.3, "12 s"),
        (60, "1 min"),
        (3599, "59 min"),
        (7260, "2 h 1 min"),
        (90_000, "1 d 1 h"),
    ],
)
def test_durations_for_people(seconds: float, text: str) -> None:
    """As exact as a person wants it."""
    assert short(seconds) == text


def test_lines_of_several_nodes_say_whose_they_are() -> None:
    """As JSON under `source`, since a record may speak of a node itself; before the line else."""
    wanted = Filter()
    [as_json] = shown([line(node="x")], wanted, as_json=True, paint=plain, node="chat1")
    assert (json.loads(as_json)["source"], json.loads(as_json)["node"]) == ("chat1", "x")
    [pretty] = shown([line()], wanted, as_json=False, paint=plain, node="chat1")
    assert pretty.startswith("chat1      ")
    assert list(shown([RAW], wanted, as_json=True, paint=plain, node="chat1")) == [RAW]
