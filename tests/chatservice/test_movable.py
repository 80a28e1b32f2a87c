"""What a connection takes along to another process: where its byte streams stand, and its limits.

That real sockets move is proven in `test_handover`; here a stream is cut at every byte.
"""

from __future__ import annotations

import asyncio
from typing import cast

import msgspec
import pytest

from chatservice.connection import PING, Connection
from chatservice.handover_format import Stream
from chatservice.movable import BACKLOG_BUFFERS, BACKLOG_BYTES
from tests.chatservice.loopback import Handler, Loopback
from tests.chatservice.wire import CONT, PONG, TEXT, connect_path, frame, request, upgrade_headers
from tests.chatservice.wire import PING as PING_OPCODE


@pytest.fixture
def member() -> Loopback:
    return Loopback().upgrade()


def elsewhere(before: Loopback) -> Handler:
    """Give the server of another process, at the same time and with the same limits."""
    handler = Handler()
    handler.loop.now = before.loop.now
    handler.frame_limit = before.handler.frame_limit
    return handler


def moved(before: Loopback, *, attach: bool = True) -> Loopback:
    """Have a member go on in another process, as far as the wire between both tells of it."""
    handler, now = elsewhere(before), before.loop.now
    told = msgspec.msgpack.encode(before.connection.captured(now))
    connection = Connection.restore(
        handler,
        cast(asyncio.AbstractEventLoop, handler.loop),
        msgspec.msgpack.decode(told, type=Stream),
        id=before.connection.id,
        now=now,
    )
    after = Loopback(handler, connection)
    if attach:
        after.attach()
    return after


def visiting(before: Loopback) -> Loopback:
    """Have a connection go on in another process that has not said what it wants."""
    handler, now = elsewhere(before), before.loop.now
    connection = Connection.visit(
        handler,
        cast(asyncio.AbstractEventLoop, handler.loop),
        id=before.connection.id,
        head=before.connection.unparsed,
        left=before.connection.left(now),
        now=now,
    )
    after = Loopback(handler, connection)
    after.attach()
    return after


def written(*sides: Loopback) -> bytes:
    return b"".join(data for side in sides for data in side.transport.writes)


def test_a_connection_is_slots_alone(member: Loopback) -> None:
    """A class in between that forgot them would cost each connection a dictionary."""
    assert not hasattr(member.connection, "__dict__")


# --- what comes in ------------------------------------------------------------------------


SAID = b"".join(
    (
        frame(TEXT, b"short"),
        frame(TEXT, b"a first half, ", fin=False),
        frame(PING_OPCODE, b"in between"),
        frame(CONT, b"a second one, ", fin=False),
        frame(CONT, "and “the rest”".encode()),
        frame(TEXT, b"with a longer header: " + b"x" * 130),
        frame(PONG),
    )
)


def test_what_is_received_is_the_same_wherever_the_stream_is_cut(member: Loopback) -> None:
    member.connection.data_received(SAID)
    whole, answers = member.handler.told, written(member)
    assert len(whole) == 3
    assert whole[1] == ("received", "a first half, a second one, and “the rest”")
    for cut in range(len(SAID) + 1):
        before = Loopback().upgrade()
        before.connection.data_received(SAID[:cut])
        after = moved(before)
        after.connection.data_received(SAID[cut:])
        assert before.handler.told + after.handler.told == whole
        assert written(before, after) == answers


def test_what_comes_in_pieces_can_be_cut_in_each(member: Loopback) -> None:
    """As on a line that gives a byte at a time, through a process for each."""
    member.connection.data_received(SAID)
    sides = [Loopback().upgrade()]
    for byte in SAID:
        sides[-1].connection.data_received(bytes([byte]))
        sides.append(moved(sides[-1]))
    assert [told for side in sides for told in side.handler.told] == member.handler.told
    assert written(*sides) == written(member)


def test_a_message_in_fragments_has_one_limit_in_both_processes() -> None:
    handler = Handler()
    handler.frame_limit = 1000
    before = Loopback(handler).upgrade()
    before.connection.data_received(frame(TEXT, b"x" * 600, fin=False))
    after = moved(before)
    after.connection.data_received(frame(CONT, b"x" * 401))
    assert after.handler.told == [("closed", "protocol_error")]


def test_a_request_is_the_same_wherever_it_is_cut() -> None:
    said = request(connect_path("w"), upgrade_headers("token"))
    for cut in range(len(said)):
        before = Loopback()
        before.loop.now += 3
        before.connection.data_received(said[:cut])
        after = visiting(before)
        assert after.handler.scheduled == [before.loop.now + 7]
        after.connection.data_received(said[cut:])
        (asked,) = after.handler.requests
        assert asked.path == connect_path("w")
        assert after.connection.accept(asked).status_code == 101


# --- what goes out ------------------------------------------------------------------------


@pytest.mark.parametrize("room", [0, 1, 4, 399, 400, 799, 800])
def test_what_the_socket_had_not_taken_is_written_by_the_other_process(
    member: Loopback, room: int
) -> None:
    said = [b"%03d," % number for number in range(200)]
    assert len(said) > 2 * BACKLOG_BUFFERS
    member.transport.room = room
    for each in said:
        member.connection.write(each)
    after = moved(member)
    assert written(after) == b"".join(said)[room:]


def test_of_a_large_buffer_and_what_follows_only_the_rest_is_written(member: Loopback) -> None:
    large = bytes(range(256)) * (BACKLOG_BYTES // 256 + 1)
    member.transport.room = 10
    for each in (large, b"one", b"two"):
        member.connection.write(each)
    after = moved(member)
    assert written(after) == large[10:] + b"onetwo"


def test_what_is_written_while_it_has_no_socket_follows_what_waited(member: Loopback) -> None:
    member.transport.room = 2
    member.connection.write(b"before ")
    after = moved(member, attach=False)
    for each in (b"meanwhile, ", b"and again"):
        after.connection.write(each)
    assert after.connection.unsent_bytes == len(b"fore meanwhile, and again")
    assert after.transport.writes == []
    after.attach()
    assert written(after) == b"fore meanwhile, and again"


def test_who_is_cut_while_it_has_no_socket_is_cut_when_it_gets_one(member: Loopback) -> None:
    after = moved(member, attach=False)
    after.connection.abort("restart")
    after.attach()
    assert after.transport.aborted
    assert after.handler.told == [("closed", "restart")]


# --- time ---------------------------------------------------------------------------------


def test_silence_and_keep_alive_count_on(member: Loopback) -> None:
    member.loop.now += 10
    after = moved(member)
    assert after.handler.scheduled == [member.loop.now + 15]
    after.loop.now += 15
    assert after.connection.on_timer(after.loop.now) == after.loop.now + 25
    assert after.transport.writes == [PING]
    after.loop.now += 25
    assert after.connection.on_timer(after.loop.now) is None
    assert after.handler.told == [("closed", "heartbeat")]


def test_as_much_as_may_wait_beside_a_large_buffer_may_still(member: Loopback) -> None:
    large = b"x" * 5000
    member.transport.room = 0
    member.connection.write(large)
    after = moved(member, attach=False)
    after.transport.room = 0
    after.attach()
    after.connection.write(b"x" * 1000)
    assert after.handler.told == []
    after.connection.write(b"x")
    assert after.handler.told == [("closed", "too_slow")]


def test_frames_past_the_rate_are_refused_in_both_processes_together(member: Loopback) -> None:
    member.connection.data_received(frame(TEXT, b"x") * 41)
    after = moved(member)
    after.connection.data_received(frame(TEXT, b"x"))
    told = [name for name, *_ in member.handler.told + after.handler.told]
    assert told == ["received"] * 40 + ["flooded"] * 2
    assert after.connection.bucket.refused == 2
