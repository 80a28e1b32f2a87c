"""A line of the log is one event, is bounded, and never shows a secret."""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatservice.auth import sign
from chatservice.log_format import (
    FIELDS,
    MAX_ITEMS,
    MAX_TRACEBACK,
    MAX_VALUE,
    JsonFormatter,
    PrettyFormatter,
    scrub,
)

SECRET = "0123456789abcdef0123456789abcdef"
TOKEN = sign(SECRET, user="canary", workspaces=["w"], ttl=60, now=1_700_000_000)
HEADER, PAYLOAD, SIGNATURE = TOKEN.split(".")


def record(
    msg: str = "m",
    fields: dict[str, Any] | None = None,
    *,
    args: tuple[Any, ...] = (),
    name: str = "chatservice.server",
    level: int = logging.INFO,
    exc: BaseException | None = None,
) -> logging.LogRecord:
    info = (type(exc), exc, exc.__traceback__) if exc else None
    made = logging.LogRecord(name, level, "f.py", 1, msg, args, info)
    if fields is not None:
        made.__dict__[FIELDS] = fields
    return made


def line(*args: Any, **kwargs: Any) -> str:
    return JsonFormatter("v12").format(record(*args, **kwargs))


def parsed(*args: Any, **kwargs: Any) -> dict[str, Any]:
    text = line(*args, **kwargs)
    assert "\n" not in text
    decoded = json.loads(text)
    assert isinstance(decoded, dict)
    return decoded


def pretty(*args: Any, colour: bool = False, **kwargs: Any) -> str:
    return PrettyFormatter(colour=colour).format(record(*args, **kwargs))


def raised(message: str) -> BaseException:
    """Give an exception with a traceback."""
    try:
        raise ValueError(message)
    except ValueError as error:
        return error


# --- JSON ---------------------------------------------------------------------------------


def test_a_line_has_its_keys_in_a_fixed_order() -> None:
    made = record("member joined", {"conn": "c1", "users": 3, "ok": True, "none": None})
    made.created = 1_700_000_000.0426
    assert JsonFormatter("v12").format(made) == (
        '{"ts":"2023-11-14T22:13:20.042Z","level":"info","logger":"server",'
        '"msg":"member joined","conn":"c1","users":3,"ok":true,"none":null,"release":"v12"}'
    )


def test_loggers_of_libraries_keep_their_full_name() -> None:
    assert parsed("m", name="websockets.server")["logger"] == "websockets.server"
    assert parsed("%s of %d", args=("a", 2))["msg"] == "a of 2"


def test_wrong_arguments_of_a_library_do_not_lose_the_line() -> None:
    assert parsed("%d %d", args=("a",))["msg"] == "%d %d ('a',)"


def test_an_exception_is_one_field() -> None:
    decoded = parsed("failed", {"n": 1}, exc=raised("why"))
    assert decoded["exc"].startswith("Traceback (most recent call last):\n")
    assert decoded["exc"].endswith("\nValueError: why")
    assert list(decoded) == ["ts", "level", "logger", "msg", "n", "exc", "release"]


def test_a_field_cannot_take_the_place_of_a_key() -> None:
    decoded = parsed("m", {"level": "x", "ts": 1, "msg": "y", "release": "z", "exc": "e"})
    assert (decoded["level"], decoded["msg"], decoded["release"]) == ("info", "m", "v12")
    assert (decoded["level_"], decoded["ts_"], decoded["msg_"]) == ("x", 1, "y")


def test_numbers_that_json_does_not_know_become_text() -> None:
    decoded = parsed("m", {"a": float("nan"), "b": float("-inf"), "c": 1.5})
    assert (decoded["a"], decoded["b"], decoded["c"]) == ("nan", "-inf", 1.5)


def test_nested_values_stay_json() -> None:
    decoded = parsed("m", {"v": {"list": [1, (2, {"deep": [3]})]}, "e": ValueError("x")})
    assert decoded["v"] == {"list": [1, [2, "{'deep': [3]}"]]}
    assert decoded["e"] == "x"


def test_long_values_lists_and_tracebacks_are_cut() -> None:
    decoded = parsed(
        "x" * 10_000, {"v": "y" * 10_000, "l": list(range(1000))}, exc=raised("z" * 50_000)
    )
    assert decoded["msg"] == "x" * MAX_VALUE + "… (10000 characters)"
    assert decoded["v"] == "y" * MAX_VALUE + "… (10000 characters)"
    assert decoded["l"] == list(range(MAX_ITEMS))
    assert len(decoded["exc"]) == MAX_TRACEBACK + 1
    assert parsed("x" * MAX_VALUE)["msg"] == "x" * MAX_VALUE


def test_a_value_whose_text_fails_does_not_lose_the_line() -> None:
    class Bad:
        def __str__(self) -> str:
            raise RuntimeError

    assert parsed("m", {"v": Bad()})["v"] == "<Bad whose text fails: RuntimeError>"


@given(st.text(), st.text(), st.dictionaries(st.text(min_size=1), st.text() | st.floats()))
def test_whatever_is_logged_is_one_line_of_ascii_json(
    msg: str, error: str, fields: dict[str, Any]
) -> None:
    text = line(msg, fields, exc=raised(error))
    assert text.isascii()
    assert text.isprintable()
    assert isinstance(json.loads(text), dict)


# --- pretty -------------------------------------------------------------------------------


def test_a_pretty_line_is_for_people() -> None:
    text = pretty("member joined", {"conn": "c1", "why": "a b", "n": 3, "empty": ""})
    assert re.fullmatch(
        r'\d\d:\d\d:\d\d\.\d{3} info    server     member joined conn=c1 why="a b" n=3 empty=""',
        text,
    )


def test_a_pretty_line_tells_the_local_time_to_the_millisecond() -> None:
    made = record("m")
    made.created = 1_700_000_000.0426
    local = time.strftime("%H:%M:%S", time.localtime(made.created))
    assert PrettyFormatter(colour=False).format(made).startswith(f"{local}.042 info ")


def test_colour_is_added_around_and_nothing_else() -> None:
    coloured = pretty("m", {"k": "v"}, colour=True, level=logging.ERROR)
    assert "\x1b[31merror  \x1b[0m" in coloured
    plain = re.sub(r"\x1b\[[\d;]+m", "", coloured)
    assert plain[12:] == pretty("m", {"k": "v"}, level=logging.ERROR)[12:]


def test_an_exception_follows_behind_a_bar() -> None:
    first, *rest = pretty("failed", exc=raised("one\ntwo")).split("\n")
    assert first.endswith("failed")
    assert all(text.startswith("  | ") for text in rest)
    assert rest[-2:] == ["  | ValueError: one", "  | two"]


@given(st.text(), st.dictionaries(st.text(min_size=1), st.text()))
def test_no_value_can_forge_a_line_or_move_the_cursor(msg: str, fields: dict[str, str]) -> None:
    assert pretty(msg, fields).isprintable()


def test_forged_lines_stay_inside_their_value() -> None:
    attack = 'x"\n{"level":"info","msg":"forged"}\r\x1b[2K\u2028\u202e'
    assert line("m", {"user": attack}).count("\n") == 0
    assert parsed("m", {"user": attack})["user"] == attack
    assert r"x\"\n{\"level\"" in line("m", {"user": attack})
    assert r"\n" in pretty("m", {"user": attack})


# --- secrets ------------------------------------------------------------------------------

CARRIERS = [
    TOKEN,
    f"{HEADER}.{PAYLOAD}",
    f"token {TOKEN}, and more",
    f"({TOKEN})",
    f"GET /api/chat/workspace/w/connect?after=3&token={TOKEN}&epoch=x HTTP/1.1",
    f"Authorization: Bearer {TOKEN}",
    f"Sec-WebSocket-Protocol: chat.v1, bearer.{TOKEN}",
    f'{{"type":"auth","token":"{TOKEN}"}}',
    PAYLOAD,
    f"cut off in the middle: {TOKEN[: len(HEADER) + 20]}",
    f"{TOKEN}\n{TOKEN}",
    TOKEN + "." + TOKEN,
]
OPAQUE = "c4n4ry-0paque+/=~"
OPAQUE_CARRIERS = [
    f"/connect?token={OPAQUE}&a=1",
    f"/connect?access_token={OPAQUE}",
    f"TOKEN={OPAQUE}",
    f"Bearer {OPAQUE}",
    f"bearer.{OPAQUE}",
    f"BEARER%20{OPAQUE}",
    f"Authorization: Basic {OPAQUE}",
    f"authorization={OPAQUE}",
    f"('Authorization', 'Digest x={OPAQUE}')",
    f'{{"token": "{OPAQUE}"}}',
    f"{{'refresh_token': '{OPAQUE}'}}",
    f"Headers([('Host', 'x'), ('Authorization', 'Bearer {OPAQUE}')])",
]


@pytest.mark.parametrize("text", CARRIERS + OPAQUE_CARRIERS)
@pytest.mark.parametrize("place", ["msg", "args", "field", "nested", "key", "exc", "cause"])
def test_no_token_gets_out_by_any_way(text: str, place: str) -> None:
    """Canaries in every place of a record, in both formats."""
    exc: BaseException | None = None
    if place == "exc":
        exc = raised(text)
    elif place == "cause":
        exc = raised("outer")
        exc.__cause__ = raised(text)
    made = record(
        text if place == "msg" else "%s" if place == "args" else "m",
        {
            "a": text if place == "field" else 1,
            "b": [{"c": (text,)}] if place == "nested" else {text: 1} if place == "key" else 1,
        },
        args=(text,) if place == "args" else (),
        exc=exc,
    )
    for formatter in (JsonFormatter("v1"), PrettyFormatter(colour=True)):
        made.exc_text = None
        shown = formatter.format(made)
        assert "[hidden]" in shown
        for canary in (SIGNATURE[:12], PAYLOAD[4:24], PAYLOAD[-12:], "c4n4ry", "0paque"):
            assert canary not in shown


@pytest.mark.parametrize(
    "name",
    ["token", "Token", "text", "authorization", "Authorization", "secret", "password", "cookie"],
)
def test_fields_named_like_secrets_or_message_text_are_hidden(name: str) -> None:
    decoded = parsed("m", {name: "canary", "frame": {name: ["canary"]}})
    assert decoded[name] == "[hidden]"
    assert decoded["frame"] == {name: "[hidden]"}


@pytest.mark.parametrize(
    "text",
    [
        "the token expired",
        "the key set is loaded",
        "chatservice.connection.websocket_protocol.receive failed",
        "https://id.example.com/.well-known/jwks.json",
        "File \"/opt/releases/v12/code/chatservice/server.py\", line 3, in eyewitness_report.run",
        "user=ada workspace=w epoch=3f0c9d1e5f7a4b2c8d6e9f0a1b2c3d4e",
        "a bearer",
    ],
)  # fmt: skip
def test_what_is_no_secret_is_left_alone(text: str) -> None:
    assert scrub(text) == text


def test_what_surrounds_a_token_is_kept() -> None:
    assert (
        scrub(f"GET /x?a=1&token={TOKEN}&b=2 HTTP/1.1") == "GET /x?a=1&token=[hidden]&b=2 HTTP/1.1"
    )


def test_scrubbing_hostile_text_takes_linear_time() -> None:
    """No pattern backtracks: a long text takes milliseconds, where quadratic took minutes."""
    for hostile in ("eyJ" * 400_000, "token=" * 200_000, "bearer " * 200_000, "a." * 600_000,
                    '"token" ' * 150_000, "authorization: " * 80_000):  # fmt: skip
        scrub(hostile)


def test_the_interpreter_keeps_no_formatted_exception_on_the_record() -> None:
    """The library caches the unscrubbed traceback in `exc_text` when its own formatter is used."""
    made = record("m", exc=raised(TOKEN))
    JsonFormatter("v1").format(made)
    assert made.exc_text is None
    assert sys.exc_info() == (None, None, None)
