"""One connection by itself: what it tells the server, when, and how often.

What it makes of bytes is proven on real sockets, in `test_bad_input` and `test_server_handshakes`.
"""

from __future__ import annotations

import pytest

from chatservice.connection import LATE_FRAMES, PING
from chatservice.protocol import CloseCode
from chatservice.routes import json_response
from tests.chatservice.loopback import Handler, Loopback
from tests.chatservice.wire import CLOSE, PONG, connect_path, frame, request, text, upgrade_headers
from tests.chatservice.wire import PING as PING_OPCODE


@pytest.fixture
def member() -> Loopback:
    return Loopback().upgrade()


# --- the end is told once, and first ------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (lambda c: c.close(CloseCode.RESTART, "why", reason="restart"), "restart"),
        (lambda c: c.fail("why"), "protocol_error"),
        (lambda c: c.abort("heartbeat"), "heartbeat"),
        (lambda c: c.eof_received(), "lost"),
        (lambda c: c.data_received(frame(CLOSE, b"\x03\xe8")), "client"),
        (lambda c: c.data_received(b"\xff\xff"), "protocol_error"),
    ],
)
def test_an_end_is_told_once_and_the_closing_of_the_socket_after_it(
    member: Loopback, end: object, reason: str
) -> None:
    assert callable(end)
    end(member.connection)
    assert member.handler.told == [("closed", reason)]
    assert member.connection.gone
    assert not member.connection.open
    written = list(member.transport.writes)
    member.connection.write(b"too late")
    member.connection.close(CloseCode.TOO_SLOW, "", reason="too_slow")
    member.connection.fail("again")
    assert member.transport.writes == written
    member.connection.abort("timeout")
    member.connection.connection_lost(None)
    assert member.handler.told == [("closed", reason), ("disconnected",)]


def test_who_is_cut_off_before_its_answer_is_gone_at_once() -> None:
    """Between the cut and its notice, the answer made a member of it that nobody could reach."""
    visitor = Loopback()
    visitor.connection.data_received(request(connect_path("w"), upgrade_headers("token")))
    response = visitor.connection.accept(visitor.handler.requests.pop())
    visitor.connection.abort("timeout")
    assert visitor.connection.gone
    visitor.connection.respond(response)
    assert visitor.transport.writes == []
    assert not visitor.connection.open


def test_reading_is_paused_between_a_request_and_its_answer() -> None:
    visitor = Loopback()
    visitor.connection.data_received(request("/healthz"))
    assert not visitor.transport.reading
    visitor.connection.respond(json_response({}))
    assert visitor.transport.reading
    assert visitor.transport.ended
    assert visitor.handler.told == [("connected",), ("closed", "lost"), ("answered",)]
    visitor.connection.data_received(b"more" * 100)
    assert len(visitor.transport.writes) == 1


# --- who does not read, and who does not stop ---------------------------------------------


def test_a_member_may_leave_so_much_unread_and_one_buffer_of_any_size(member: Loopback) -> None:
    transport, connection = member.transport, member.connection
    transport.room = 0
    connection.write(b"x" * 900)
    connection.write(b"x" * 5000)
    connection.write(b"x" * 100)
    assert member.handler.told == []
    connection.write(b"x")
    assert member.handler.told == [("closed", "too_slow")]


def test_who_takes_a_large_buffer_in_the_end_is_as_any_other(member: Loopback) -> None:
    transport, connection = member.transport, member.connection
    for _ in range(3):
        transport.room = 0
        connection.write(b"x" * 50_000)
        transport.drained()
    transport.room = 0
    for _ in range(11):
        connection.write(b"x" * 100)
    assert member.handler.told == []
    connection.write(b"x" * 100)
    assert member.handler.told == [("closed", "too_slow")]


def test_a_client_that_floods_on_while_it_is_being_closed_is_cut(member: Loopback) -> None:
    connection = member.connection
    connection.close(CloseCode.TOKEN_EXPIRED, "", reason="token_expired")
    connection.data_received(frame(PING_OPCODE) * 40)  # within its rate
    connection.data_received(frame(PONG) * LATE_FRAMES)  # on their way when it was told
    assert not member.transport.aborted
    connection.data_received(frame(PONG))
    assert member.transport.aborted
    assert member.handler.told == [("closed", "token_expired")]


def test_a_close_frame_among_late_frames_still_ends_it_properly(member: Loopback) -> None:
    member.connection.close(CloseCode.RESTART, "", reason="restart")
    late = text({"type": "ping"}) * 20
    member.connection.data_received(late + frame(CLOSE, b"\x03\xf4"))
    assert member.transport.ended
    assert not member.transport.aborted
    member.connection.eof_received()
    assert member.transport.closing
    assert member.handler.told == [("closed", "restart")]


# --- time ---------------------------------------------------------------------------------


def tick(member: Loopback, seconds: float) -> float | None:
    member.loop.now += seconds
    return member.connection.on_timer(member.loop.now)


def test_a_silent_member_is_pinged_once_and_then_cut(member: Loopback) -> None:
    assert tick(member, 25) == member.loop.now + 25
    assert member.transport.writes == [PING]
    assert tick(member, 25) is None
    assert member.transport.aborted
    assert member.handler.told == [("closed", "heartbeat")]


def test_a_member_that_is_not_read_from_is_not_taken_for_silent(member: Loopback) -> None:
    member.connection.pause()
    for _ in range(5):
        assert tick(member, 25) is not None
    member.connection.unpause()
    assert tick(member, 25) is not None
    assert not member.transport.aborted


def test_a_call_that_comes_before_its_time_does_nothing(member: Loopback) -> None:
    """As the entries do that deadlines left in the wheel when they moved."""
    assert tick(member, 25) is not None
    for _ in range(100):
        assert tick(member, 0.1) is None
    assert member.transport.writes == [PING]


def test_the_end_of_a_token_comes_between_pings(member: Loopback) -> None:
    member.connection.expire_at(member.loop.now + 30)
    assert member.handler.scheduled == []  # the ping comes first
    assert tick(member, 25) == member.loop.now + 5
    assert tick(member, 5) is None
    assert member.handler.told == [("expired",)]


def test_a_token_that_ends_before_the_next_ping_is_scheduled_for_itself(
    member: Loopback,
) -> None:
    member.connection.expire_at(member.loop.now + 3)
    assert member.handler.scheduled == [member.loop.now + 3]
    member.connection.expire_at(member.loop.now + 300)  # renewed
    assert tick(member, 3) == member.loop.now + 25
    assert member.handler.told == []


def test_a_handshake_has_one_deadline_whatever_trickles_in() -> None:
    handler = Handler()
    visitor = Loopback(handler)
    assert handler.scheduled == [1010.0]
    for byte in b"GET / HT":
        visitor.loop.now += 1
        visitor.connection.data_received(bytes([byte]))
    assert tick(visitor, 2) is None
    assert handler.told == [("connected",), ("closed", "timeout")]


def test_a_client_has_a_while_to_close_its_socket(member: Loopback) -> None:
    member.connection.fail("why")
    assert member.handler.scheduled == [member.loop.now + 5]
    assert tick(member, 4) is None
    assert not member.transport.aborted
    assert tick(member, 1) is None
    assert member.transport.aborted
    assert member.handler.told == [("closed", "protocol_error")]
