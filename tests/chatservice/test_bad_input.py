"""Whatever a client sends, the answer is an error frame or a close code, and nobody else's trouble.

In each of these tests two members chat in the same workspace; they must get every message in
order, and afterwards no connection, count, descriptor or traceback is left: see `bystanders`.
"""

from __future__ import annotations

import contextlib
import json
import struct

import pytest

from tests.chatservice.wire import (
    BINARY,
    CLOSE,
    CONT,
    PING,
    PONG,
    TEXT,
    Wire,
    cpu_seconds,
    frame,
    metrics,
    resident_bytes,
    text,
)
from tests.service_process import Overrides, ServiceProcess

FRAME_BYTES = 65_536
UNSENT_BYTES = 262_144
RATE = 100
BURST = 40

pytestmark = pytest.mark.usefixtures("bystanders")


@pytest.fixture(scope="module")
def module_overrides() -> Overrides:
    return {
        "limits": {
            "frame_bytes": FRAME_BYTES,
            "unsent_bytes": UNSENT_BYTES,
            "rate": RATE,
            "burst": BURST,
        },
        "timing": {"presence_grace": 0.0},
    }


def name_of(value: object) -> str:
    """Name a parameter of a test, in short."""
    return ascii(value)[:32] if value is not None else ""


# --- frames that are answered with an error; the connection stays open --------------------


@pytest.mark.parametrize(
    ("payload", "code", "message"),
    [
        ("", "bad_json", "the frame is not JSON"),
        ("nope", "bad_json", "the frame is not JSON"),
        ('{"type":"ping"', "bad_json", "the frame is not JSON"),
        ('{"type":"ping"}}', "bad_json", "the frame is not JSON"),
        ('{"type":"ping"}' * 2, "bad_json", "the frame is not JSON"),
        ('{"type":"send","id":"1","text":"\\ud800"}', "bad_json", "the frame is not JSON"),
        ('{"type":"send","id":"\\udfff","text":"x"}', "bad_json", "the frame is not JSON"),
        ('{"type":"send","id":"1","text":"a\nb"}', "bad_json", "the frame is not JSON"),
        ("[" * 60_000, "unknown_type", None),
        ('{"type":"send","id":' + "[" * 60_000, "bad_json", None),
        ('{"type":"ping","x":' + '{"x":' * 10_000 + "1" + "}" * 10_001, "bad_json", None),
        ('{"x":' + "[" * 30_000 + "]" * 30_000 + ',"type":"ping"}', "bad_json", None),
        ('{"type":"nope","x":' + "[" * 30_000 + "]" * 30_000 + "}", "bad_json", None),
        ("null", "unknown_type", 'the frame has no text field "type"'),
        ("[]", "unknown_type", 'the frame has no text field "type"'),
        ("1e999", "unknown_type", None),
        ('"ping"', "unknown_type", 'the frame has no text field "type"'),
        ("{}", "unknown_type", 'the frame has no text field "type"'),
        ('{"type":null}', "unknown_type", 'the frame has no text field "type"'),
        ('{"type":["ping"]}', "unknown_type", 'the frame has no text field "type"'),
        (
            '{"type":"welcome"}',
            "unknown_type",
            "unknown type; known are auth, history, ping, read, send, typing",
        ),
        ('{"type":"send"}', "bad_frame", "send: Object missing required field `id`"),
        ('{"type":"send","id":"1"}', "bad_frame", "send: Object missing required field `text`"),
        ('{"type":"send","id":1,"text":"x"}', "bad_frame", None),
        ('{"type":"send","id":"","text":"x"}', "bad_frame", None),
        ('{"type":"send","id":"' + "i" * 65 + '","text":"x"}', "bad_frame", None),
        ('{"type":"send","id":"1","text":["x"]}', "bad_frame", None),
        ('{"type":"send","id":"1","text":""}', "bad_frame", "send: `text` is empty"),
        ('{"type":"send","id":"1","text":"a\\u0000b"}', "bad_frame", "send: U+0000 is not text"),
        ('{"type":"send","id":"\\u0000","text":"x"}', "bad_frame", "send: U+0000 is not text"),
        (
            json.dumps({"type": "send", "id": "1", "text": "\N{PARTY POPPER}" * 4001}),
            "too_long",
            "the text has 4001 characters; the limit is 4000",
        ),
        ('{"type":"read"}', "bad_frame", "read: Object missing required field `seq`"),
        ('{"type":"read","seq":"1"}', "bad_frame", None),
        ('{"type":"read","seq":1.5}', "bad_frame", None),
        ('{"type":"read","seq":-1}', "bad_frame", None),
        ('{"type":"read","seq":' + "9" * 400 + "}", "bad_frame", None),
        ('{"type":"read","seq":' + "9" * 5000 + "}", "bad_frame", None),
        ('{"type":"read","seq":true}', "bad_frame", None),
        ('{"type":"history","before":0}', "bad_frame", None),
        ('{"type":"history","before":1,"limit":0}', "bad_frame", None),
        ('{"type":"history","before":1,"limit":-5}', "bad_frame", None),
        ('{"type":"auth"}', "bad_frame", None),
        ('{"type":"auth","token":""}', "auth_failed", None),
        ('{"type":"auth","token":"a.b.c"}', "auth_failed", "the token is no JWT"),
        ('{"type":"auth","token":"' + "x" * 60_000 + '"}', "auth_failed", "the token is no JWT"),
    ],
    ids=name_of,
)
def test_a_frame_that_makes_no_sense_is_answered_with_an_error(
    module_service: ServiceProcess, payload: str, code: str, message: str | None
) -> None:
    with Wire.join(module_service) as wire:
        wire.write(text(payload))
        error = wire.until("error")
        assert error["code"] == code
        if message is not None:
            assert error["message"] == message
        wire.send("ping")
        assert wire.until("pong")


def test_an_error_names_the_send_that_it_answers(module_service: ServiceProcess) -> None:
    with Wire.join(module_service) as wire:
        wire.send("send", id="mine", text="")
        assert wire.until("error")["id"] == "mine"
        wire.write(text("nope"))
        assert "id" not in wire.until("error")


@pytest.mark.parametrize(
    "value",
    [
        "\x01\x1b[31m\x7f\x85",
        "\u202e\u2028\ufeff\uffff",
        "\N{PARTY POPPER}" * 4000,
        "'; DROP TABLE messages; --",
        '{"type":"message"}',
        " ",
    ],
    ids=name_of,
)
def test_a_text_of_any_characters_is_delivered_as_it_is(
    module_service: ServiceProcess, value: str
) -> None:
    with Wire.join(module_service, user="odd") as wire:
        id = value[:20]
        wire.send("send", id=id, text=value)
        message = wire.until("message", user="odd")
        assert (message["id"], message["text"]) == (id, value)
        assert wire.until("ack")["seq"] == message["seq"]
        wire.send("history", before=message["seq"] + 1, limit=1)
        assert wire.until("history")["messages"] == [message]


def test_unknown_fields_are_ignored(module_service: ServiceProcess) -> None:
    with Wire.join(module_service) as wire:
        wire.write(text('{"later":[1],"type":"ping","more":{"a":null}}'))
        assert wire.until("pong")


# --- frames that end the connection -------------------------------------------------------

UTF8_CUT = "ü".encode()[:1]


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (frame(BINARY, b"x"), "expected text frames, got a binary one"),
        (frame(BINARY, b""), "expected text frames, got a binary one"),
        (frame(BINARY, b"x", fin=False), "expected text frames, got a binary one"),
        (frame(TEXT, b'{"type":"\xff"}'), "invalid UTF-8 at byte 9"),
        (frame(TEXT, b"\xed\xa0\x80"), "invalid UTF-8 at byte 0"),
        (frame(TEXT, b'"' + UTF8_CUT), "invalid UTF-8 at byte 1"),
        (
            frame(TEXT, b'"' + UTF8_CUT, fin=False) + frame(CONT, b'"'),
            "invalid UTF-8 at byte 1",
        ),
        (frame(TEXT, b"{}", masked=False), "incorrect masking"),
        (frame(PING, b"", masked=False), "incorrect masking"),
        (frame(CONT, b"x"), "unexpected continuation frame"),
        (frame(CONT, b"x", fin=False), "unexpected continuation frame"),
        (
            frame(TEXT, b"a", fin=False) + frame(TEXT, b"b"),
            "expected a continuation frame",
        ),
        (
            frame(TEXT, b"a", fin=False) + frame(CLOSE, b"\x03\xe8"),
            "incomplete fragmented message",
        ),
        *((frame(opcode, b""), "invalid opcode") for opcode in (3, 7, 11, 15)),
        *((frame(TEXT, b"{}", rsv=rsv), "reserved bits must be 0") for rsv in (1, 2, 4, 7)),
        (frame(PING, b"x" * 126), "control frame too long"),
        (frame(PONG, b"x" * 126), "control frame too long"),
        (frame(CLOSE, b"x" * 126), None),
        (frame(PING, b"x", fin=False), "fragmented control frame"),
        (frame(CLOSE, b"x"), "close frame too short"),
        (frame(CLOSE, b"\x03\xe8\xff"), None),
        (frame(CLOSE, struct.pack("!H", 1005)), "invalid status code"),
        (frame(CLOSE, struct.pack("!H", 0)), "invalid status code"),
        (frame(CLOSE, struct.pack("!H", 999)), "invalid status code"),
        (frame(TEXT, b"x" * (FRAME_BYTES + 1)), None),
        (frame(TEXT, b"", length=FRAME_BYTES + 1), None),
        (frame(TEXT, b"", length=2**31), None),
        (frame(TEXT, b"", length=2**63 - 1), None),
        (frame(TEXT, b"", length=2**63), None),
        (frame(TEXT, b"", length=2**64 - 1), None),
        (frame(PING, b"", length=2**63), None),
        (
            frame(TEXT, b"x" * FRAME_BYTES, fin=False) + frame(CONT, b"x"),
            None,
        ),
        (
            frame(TEXT, b"x" * 1000, fin=False) + frame(CONT, b"", length=FRAME_BYTES - 999),
            None,
        ),
        (b"GET / HTTP/1.1\r\n\r\n", None),
        (bytes(range(256)), None),
    ],
    ids=name_of,
)
def test_a_frame_that_is_no_chat_v1_is_closed_with_4500(
    module_service: ServiceProcess, sent: bytes, reason: str | None
) -> None:
    with Wire.join(module_service) as wire:
        wire.write(sent)
        ended = wire.end()
        assert ended.code == 4500
        assert ended.reason
        if reason is not None:
            assert ended.reason == reason
        assert wire.hung_up()


def test_fragments_are_put_together_with_control_frames_between(
    module_service: ServiceProcess,
) -> None:
    payload = json.dumps({"type": "send", "id": "parts", "text": "grüße"}, ensure_ascii=False)
    data = payload.encode()
    with Wire.join(module_service) as wire:
        wire.write(frame(TEXT, data[:1], fin=False))
        wire.write(frame(PING, b"between"))
        for index in range(1, len(data) - 1, 7):  # cuts the umlauts, too
            wire.write(frame(CONT, data[index : min(index + 7, len(data) - 1)], fin=False))
        wire.write(frame(CONT, b"", fin=False) + frame(PONG, b"unasked"))
        wire.write(frame(CONT, data[-1:]))
        while (received := wire.frame())[0] != PONG:
            assert received[0] == TEXT
        assert received == (PONG, b"between")
        assert wire.until("message", user="ann")["text"] == "grüße"
        assert wire.until("ack", id="parts")


def test_a_frame_as_large_as_allowed_is_read(module_service: ServiceProcess) -> None:
    with Wire.join(module_service) as wire:
        padding = " " * (FRAME_BYTES - len('{"type":"ping"}'))
        wire.write(text('{"type":"ping"' + padding + "}"))
        assert wire.until("pong")


def test_a_frame_that_comes_byte_by_byte_is_read(module_service: ServiceProcess) -> None:
    with Wire.join(module_service) as wire:
        for byte in text({"type": "ping"}):
            wire.write(bytes([byte]))
        assert wire.until("pong")


def test_frames_after_a_close_frame_are_ignored(module_service: ServiceProcess) -> None:
    with Wire.join(module_service) as wire:
        wire.write(frame(CLOSE, b"\x03\xe8bye") + text({"type": "send", "id": "1", "text": "x"}))
        ended = wire.end()
        assert (ended.code, ended.reason) == (1000, "bye")
        assert wire.hung_up()


# --- floods, and clients that do not read -------------------------------------------------


@pytest.mark.parametrize(
    "kind",
    [text({"type": "ping"}), frame(PING, b"x" * 125), frame(PONG), text(""), text("nope")],
    ids=["pings of chat.v1", "pings", "pongs", "empty frames", "no JSON"],
)
def test_a_flood_is_refused_and_then_closed_with_4429(
    module_service: ServiceProcess, kind: bytes
) -> None:
    with Wire.join(module_service) as wire:
        wire.write(kind * (3 * BURST))
        ended = wire.end()
        assert (ended.code, ended.reason) == (4429, "too many frames")
        assert wire.hung_up()


def test_a_send_flood_is_told_which_sends_were_dropped(module_service: ServiceProcess) -> None:
    with Wire.join(module_service, user="flooder") as wire:
        sends = [{"type": "send", "id": str(n), "text": "x"} for n in range(BURST + 10)]
        wire.write(b"".join(text(send) for send in sends))
        answered: dict[str, str] = {}
        while len(answered) < len(sends):
            received = wire.next()
            if received["type"] == "ack":
                answered[received["id"]] = "ack"
            elif received["type"] == "error":
                answered[received["id"]] = received["code"]
        verdicts = [answered[str(n)] for n in range(len(sends))]
        stored = verdicts.count("ack")
        assert BURST <= stored < len(sends)
        assert verdicts == ["ack"] * stored + ["rate_limited"] * (len(sends) - stored)


def test_endless_tiny_fragments_are_a_flood(module_service: ServiceProcess) -> None:
    with Wire.join(module_service) as wire:
        wire.write(frame(TEXT, b"", fin=False) + frame(CONT, b"", fin=False) * (3 * BURST))
        assert wire.end().code == 4429


def test_a_flood_of_small_frames_does_not_keep_the_service_busy(
    module_service: ServiceProcess,
) -> None:
    """Parsing all of it would take the service 5 s, in which nobody else would be answered."""
    with Wire.join(module_service) as wire:
        before = cpu_seconds(module_service)
        wire.write(frame(PING) * 350_000)
        assert wire.end().code == 4429
        assert wire.hung_up()
        assert cpu_seconds(module_service) - before < 1.5


def test_no_pongs_pile_up_for_who_sends_pings_and_reads_nothing(
    module_service: ServiceProcess,
) -> None:
    """Answers to all of them would be 130 MB."""
    before = resident_bytes(module_service)
    with Wire.join(module_service) as wire:
        for _ in range(2000):
            wire.write(frame(PING, b"x" * 125) * 500)
        assert resident_bytes(module_service) - before < 32 * 1024 * 1024
        assert wire.end().code == 4429


def test_a_member_that_never_reads_is_closed_with_4408(module_service: ServiceProcess) -> None:
    with Wire.join(module_service, receive_buffer=4096) as deaf:
        before = resident_bytes(module_service)
        with contextlib.ExitStack() as talking:
            names = [f"talker-{number}" for number in range(8)]
            talkers = [
                talking.enter_context(Wire.join(module_service, user=name)) for name in names
            ]
            for number in range(100):
                for talker in talkers:
                    talker.send("send", id=str(number), text="\N{PARTY POPPER}" * 4000)
                    talker.until("ack")
                if metrics(module_service)["chat_slow_members_total"]:
                    break
        assert resident_bytes(module_service) - before < 64 * 1024 * 1024
        ended = deaf.end()
        assert (ended.code, ended.reason) in [(4408, "too many unread bytes"), (0, ended.reason)]
