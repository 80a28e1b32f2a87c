"""A frame that departs from the contract is noticed, whatever our own decoder makes of it."""

from __future__ import annotations

import pytest

from chatservice.protocol import (
    Ack,
    Error,
    ErrorCode,
    History,
    Message,
    Person,
    Pong,
    Presence,
    PresenceChange,
    ReadCursor,
    Reconnect,
    ServerFrame,
    Typing,
    Welcome,
    encode,
)
from tests.chaos.contract import departure

MESSAGE = Message(1, "a", "ann", "Ann", "hello", 1)
WELCOME = Welcome("ann", "w", "e", 1, 0, 1, [Person("ann", "Ann")], resumed=False, heartbeat=25.0)


@pytest.mark.parametrize(
    "frame",
    [
        WELCOME,
        MESSAGE,
        Ack("a", 1, 1),
        PresenceChange("ann", "Ann", Presence.ONLINE),
        ReadCursor(1, 0),
        Typing("ann"),
        History([MESSAGE], more=False),
        Pong(1),
        Reconnect(100),
        Error(ErrorCode.BAD_JSON, "the frame is not JSON"),
        Error(ErrorCode.UNAVAILABLE, "later", "a"),
    ],
)
def test_what_the_service_writes_is_of_the_contract(frame: ServerFrame) -> None:
    assert departure(encode(frame).decode()) is None


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (b'{"type":"pong","seq":1}', "a binary frame of 23 bytes"),
        ('{"type":"pong"', "no JSON: "),
        ("[1]", "`type` is not the first field: [1]"),
        ('{"seq":1,"type":"pong"}', "`type` is not the first field: "),
        ('{"type":"poke"}', "an unknown type: "),
        ('{"type":"pong"}', "other fields than seq: "),
        ('{"type":"pong","seq":1,"more":2}', "other fields than seq: "),
        ('{"type":"ack","seq":1,"id":"a","ts":1}', "other fields than id seq ts: "),
    ],
)
def test_a_departure_is_named(payload: str | bytes, why: str) -> None:
    assert (departure(payload) or "").startswith(why)
