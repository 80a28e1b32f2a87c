"""Frames look on the wire as the contract says, and nothing else is taken for one."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatservice.protocol import (
    Ack,
    Authenticate,
    Authenticated,
    ClientFrame,
    CloseCode,
    Error,
    ErrorCode,
    FrameError,
    History,
    Message,
    Person,
    Ping,
    Pong,
    Presence,
    PresenceChange,
    Read,
    ReadCursor,
    ReadHistory,
    Reconnect,
    Send,
    ServerFrame,
    StartTyping,
    Typing,
    Welcome,
    decode_client,
    decode_server,
    encode,
)

MESSAGE = Message(seq=7, id="m1", user="ada", name="Ada", text="hé 💬", ts=1_700_000_000_123)
MESSAGE_JSON = (
    '{"type":"message","seq":7,"id":"m1","user":"ada","name":"Ada","text":"hé 💬",'
    '"ts":1700000000123}'
)

SERVER: list[tuple[ServerFrame, str]] = [
    (
        Welcome("ada", "w", "e1", 7, 3, 4, [Person("ada", "Ada")], True, 25.0),
        '{"type":"welcome","user":"ada","workspace":"w","epoch":"e1","seq":7,"read":3,"unread":4,'
        '"online":[{"user":"ada","name":"Ada"}],"resumed":true,"heartbeat":25.0}',
    ),
    (MESSAGE, MESSAGE_JSON),
    (Ack("m1", 7, 12), '{"type":"ack","id":"m1","seq":7,"ts":12}'),
    (
        PresenceChange("ada", "Ada", Presence.OFFLINE),
        '{"type":"presence","user":"ada","name":"Ada","state":"offline"}',
    ),
    (ReadCursor(7, 0), '{"type":"read","seq":7,"unread":0}'),
    (Typing("ada"), '{"type":"typing","user":"ada"}'),
    (
        History([MESSAGE], True),
        f'{{"type":"history","messages":[{MESSAGE_JSON}],"more":true}}',
    ),
    (Pong(7), '{"type":"pong","seq":7}'),
    (Authenticated(1_700_000_000), '{"type":"auth","exp":1700000000}'),
    (Reconnect(1500), '{"type":"reconnect","in_ms":1500}'),
    (Error(ErrorCode.BAD_JSON, "m"), '{"type":"error","code":"bad_json","message":"m"}'),
    (
        Error(ErrorCode.TOO_LONG, "m", "m1"),
        '{"type":"error","code":"too_long","message":"m","id":"m1"}',
    ),
]
CLIENT: list[tuple[ClientFrame, str]] = [
    (Send("m1", "hé 💬"), '{"type":"send","id":"m1","text":"hé 💬"}'),
    (Read(7), '{"type":"read","seq":7}'),
    (StartTyping(), '{"type":"typing"}'),
    (ReadHistory(8, 20), '{"type":"history","before":8,"limit":20}'),
    (Ping(), '{"type":"ping"}'),
    (Authenticate("t"), '{"type":"auth","token":"t"}'),
]


@pytest.mark.parametrize(("frame", "text"), SERVER)
def test_server_frames_on_the_wire(frame: ServerFrame, text: str) -> None:
    assert encode(frame).decode() == text
    assert decode_server(text) == frame
    assert decode_server(text.encode()) == frame


@pytest.mark.parametrize(("frame", "text"), CLIENT)
def test_client_frames_on_the_wire(frame: ClientFrame, text: str) -> None:
    assert encode(frame).decode() == text
    assert decode_client(text) == frame


def test_every_kind_of_frame_is_covered_above() -> None:
    assert {type(frame) for frame, _ in SERVER} == set(get_args(ServerFrame))
    assert {type(frame) for frame, _ in CLIENT} == set(get_args(ClientFrame))


def test_history_has_a_default_limit() -> None:
    assert decode_client('{"type":"history","before":8}') == ReadHistory(8, 50)


def test_the_order_of_fields_and_unknown_fields_do_not_matter() -> None:
    assert decode_client('{"text":"x","new":[{}],"id":"m","type":"send"}') == Send("m", "x")
    assert decode_server('{"seq":7,"new":1,"type":"pong"}') == Pong(7)


def test_a_client_passes_over_frames_that_it_does_not_know() -> None:
    assert decode_server('{"type":"reaction","seq":1}') is None


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        ("", "bad_json", "the frame is not JSON"),
        ("hello", "bad_json", "the frame is not JSON"),
        ('{"type":"ping"', "bad_json", "the frame is not JSON"),
        ('{"type":"ping"} x', "bad_json", "the frame is not JSON"),
        ('{"type":"ping","new":' + "[" * 60_000, "bad_json", "the frame is not JSON"),
        ('{"type":"send","id":7,"new":' + "[" * 60_000, "bad_json", "the frame is not JSON"),
        ('{"type":"send","id":"\\ud800","text":"x"}', "bad_json", "the frame is not JSON"),
        ("[]", "unknown_type", 'the frame has no text field "type"'),
        ("7", "unknown_type", 'the frame has no text field "type"'),
        ("{}", "unknown_type", 'the frame has no text field "type"'),
        ('{"type":7}', "unknown_type", 'the frame has no text field "type"'),
        ('{"type":null}', "unknown_type", 'the frame has no text field "type"'),
        (
            '{"type":"welcome"}',
            "unknown_type",
            "unknown type; known are auth, history, ping, read, send, typing",
        ),
        (
            '{"type":"send","id":"m"}',
            "bad_frame",
            "send: Object missing required field `text`",
        ),
        (
            '{"type":"send","id":"m","text":7}',
            "bad_frame",
            "send: Expected `str`, got `int` - at `$.text`",
        ),
        (
            '{"type":"read","seq":1.5}',
            "bad_frame",
            "read: Expected `int`, got `float` - at `$.seq`",
        ),
        (
            '{"type":"read","seq":"7"}',
            "bad_frame",
            "read: Expected `int`, got `str` - at `$.seq`",
        ),
        (
            '{"type":"history","before":true}',
            "bad_frame",
            "history: Expected `int`, got `bool` - at `$.before`",
        ),
        (
            '{"type":"auth","token":null}',
            "bad_frame",
            "auth: Expected `str`, got `null` - at `$.token`",
        ),
    ],
)
def test_what_is_no_client_frame_says_what_is_wrong(text: str, code: str, message: str) -> None:
    with pytest.raises(FrameError) as caught:
        decode_client(text)
    assert (caught.value.code, str(caught.value)) == (code, message)


def test_an_error_quotes_nothing_of_what_was_sent() -> None:
    canary = "eyJhbGciOiJIUzI1NiJ9.canary"
    for text in (
        canary,
        json.dumps({"type": canary}),
        json.dumps({"type": "auth", "token": [canary]}),
        json.dumps({"type": "send", "id": {canary: canary}, "text": canary}),
    ):
        with pytest.raises(FrameError) as caught:
            decode_client(text)
        assert "canary" not in str(caught.value)


_json: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "id", "text", "seq", "before", "token"]), inner)
    ),
    max_leaves=8,
)
_shaped = st.builds(
    lambda kind, rest: json.dumps({"type": kind} | rest),
    st.sampled_from(["send", "read", "typing", "history", "ping", "auth", "x"]),
    st.dictionaries(st.sampled_from(["id", "text", "seq", "before", "limit", "token"]), _json),
)


@given(st.text() | _json.map(json.dumps) | _shaped)
def test_whatever_comes_is_a_frame_or_a_frame_error(text: str) -> None:
    with suppress(FrameError):
        frame = decode_client(text)
        assert decode_client(encode(frame).decode()) == frame


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("x", "bad_json"),
        (b"\xff", "bad_json"),
        ('{"type":"pong","new":' + "[" * 60_000, "bad_json"),
        ('{"type":"pong"}', "bad_frame"),
        ('{"type":"pong","seq":"1"}', "bad_frame"),
    ],
)
def test_what_is_no_server_frame_is_an_error(text: str | bytes, code: str) -> None:
    with pytest.raises(FrameError) as caught:
        decode_server(text)
    assert caught.value.code == code


def test_which_close_codes_are_final() -> None:
    final = {code for code in CloseCode if not code.reconnect}
    assert final == {CloseCode.NORMAL, CloseCode.PROTOCOL_ERROR, CloseCode.FORBIDDEN}
    assert sorted(CloseCode) == [1000, 1012, 4401, 4408, 4429, 4500, 4503]
