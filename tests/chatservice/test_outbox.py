"""The outbox gives each member one buffer, its frames in the order in which they were put in."""

from __future__ import annotations

from websockets.frames import Opcode
from websockets.protocol import SERVER, Protocol

from chatservice.outbox import Outbox, text_frame
from chatservice.protocol import Pong


def flushed(outbox: Outbox[str], *members: str) -> dict[str, bytes]:
    written: dict[str, bytes] = {}

    def write(key: str, data: bytes) -> None:
        assert key not in written, "written to twice"
        written[key] = data

    assert outbox.flush(members, write) == len(written)
    assert not outbox
    return written


def test_shared_frames_are_one_buffer_and_the_same_for_all() -> None:
    outbox: Outbox[str] = Outbox()
    outbox.to_all(b"1")
    outbox.to_all(b"2")
    written = flushed(outbox, "a", "b")
    assert written == {"a": b"12", "b": b"12"}
    assert written["a"] is written["b"]


def test_own_frames_keep_their_place_among_the_shared_ones() -> None:
    outbox: Outbox[str] = Outbox()
    outbox.to_all(b"1")
    outbox.to_member("a", b"x")
    outbox.to_all(b"2")
    outbox.to_member("a", b"y")
    outbox.to_member("b", b"z")
    assert flushed(outbox, "a", "b", "c") == {"a": b"1x2y", "b": b"12z", "c": b"12"}


def test_somebody_can_be_left_out() -> None:
    outbox: Outbox[str] = Outbox()
    outbox.to_all(b"1")
    outbox.to_all(b"t", but=("a",))
    outbox.to_all(b"2")
    assert flushed(outbox, "a", "b") == {"a": b"12", "b": b"1t2"}


def test_who_is_admitted_gets_only_what_comes_after() -> None:
    outbox: Outbox[str] = Outbox()
    outbox.to_all(b"1")
    outbox.admit("a")
    outbox.to_member("a", b"w")
    outbox.to_all(b"2")
    assert flushed(outbox, "a", "b") == {"a": b"w2", "b": b"12"}


def test_a_member_without_frames_is_not_written_to() -> None:
    outbox: Outbox[str] = Outbox()
    outbox.to_member("a", b"x")
    assert flushed(outbox, "a", "b") == {"a": b"x"}


def test_who_is_no_member_gets_its_own_frames_only() -> None:
    outbox: Outbox[str] = Outbox()
    outbox.to_all(b"1")
    outbox.to_member("leaving", b"x")
    assert flushed(outbox, "a") == {"a": b"1", "leaving": b"x"}


def test_an_empty_outbox_writes_nothing() -> None:
    assert flushed(Outbox(), "a") == {}


def test_a_text_frame_is_what_the_library_would_send() -> None:
    frame = Pong(70_000)
    protocol = Protocol(SERVER)
    protocol.send_text(b'{"type":"pong","seq":70000}')
    assert text_frame(frame) == b"".join(protocol.data_to_send())
    assert text_frame(frame)[0] == 0x80 | Opcode.TEXT
