"""The swarm's framing: however a stream is cut, the count and the frames are the same."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from bench.dialects import MARK, own_mark
from bench.frames import TEXT, FrameError, FrameReader, MarkCounter, masked

streams = st.lists(st.sampled_from([MARK, b"~", b"#", b"x", b"~#7", b"\x81\x05"])).map(b"".join)


def pieces(stream: bytes, cuts: list[int]) -> list[bytes]:
    """Cut a stream at positions, taken modulo its length."""
    at = sorted({cut % (len(stream) + 1) for cut in cuts} | {0, len(stream)})
    return [stream[a:b] for a, b in itertools.pairwise(at)]


@given(streams, st.lists(st.integers(0, 1000)), st.sampled_from([MARK, b"~#7;", b"#"]))
def test_a_mark_is_counted_once_wherever_the_stream_is_cut(
    stream: bytes, cuts: list[int], mark: bytes
) -> None:
    counter = MarkCounter(mark)
    found = 0
    for piece in pieces(stream, cuts):
        found += counter.feed(piece + b"garbage behind what was received ~#7;", len(piece))
    assert (found, counter.count) == (stream.count(mark), stream.count(mark))


def test_a_mark_split_over_three_reads_is_counted() -> None:
    counter = MarkCounter(b"~#7;")
    assert [counter.feed(piece, len(piece)) for piece in (b"{~", b"#", b"7;}")] == [0, 0, 1]


@pytest.mark.parametrize("mark", [b"aa", b"aba", b"~#~"])
def test_a_mark_that_overlaps_itself_is_refused(mark: bytes) -> None:
    with pytest.raises(ValueError, match="overlaps itself"):
        MarkCounter(mark)


def test_one_publishers_mark_is_not_part_of_anothers() -> None:
    assert own_mark(1) not in own_mark(11)
    assert own_mark(1) not in own_mark(21)


@given(st.lists(st.binary(max_size=70_000), max_size=4), st.lists(st.integers(0, 100_000)))
def test_frames_are_read_wherever_the_stream_is_cut(payloads: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(
        Frame(Opcode.TEXT, payload).serialize(mask=False, extensions=[]) for payload in payloads
    )
    reader = FrameReader()
    frames = [frame for piece in pieces(stream, cuts) for frame in reader.feed(piece)]
    assert frames == [(TEXT, payload) for payload in payloads]


@pytest.mark.parametrize("header", [b"\x01\x00", b"\xc1\x00", b"\x81\x80"])
def test_a_fragment_an_extension_and_a_mask_are_errors(header: bytes) -> None:
    with pytest.raises(FrameError):
        FrameReader().feed(header)


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535])
def test_a_server_reads_what_a_client_masks(size: int) -> None:
    payload = b"x" * size
    server = ServerProtocol(state=OPEN)
    server.receive_data(masked(TEXT, payload))
    (frame,) = server.events_received()
    assert isinstance(frame, Frame)
    assert (frame.opcode, bytes(frame.data), frame.fin) == (Opcode.TEXT, payload, True)
