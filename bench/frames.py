"""The client's side of the wire, made for load: cheap masking, a count at the speed of C, a parser.

A swarm on one core must not be slower than the server on another. So most connections never look
at what they receive: they count a mark that each message bears exactly once. A few parse
everything, and prove that the count means what it says.
"""

from __future__ import annotations

import struct
from typing import Final

TEXT: Final = 0x1
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA

_FIN: Final = 0x80
_MASKED: Final = 0x80
_KEY: Final = bytes(4)
"""A masking key of zeros leaves the payload as it is; the server unmasks it like any other.

RFC 6455, 5.3 wants keys that nobody can predict, against caches between the two; here are none.
"""


def masked(opcode: int, payload: bytes) -> bytes:
    """Serialise one whole frame as a client sends it (RFC 6455, 5.2); at most 65,535 bytes."""
    size = len(payload)
    if size < 126:
        return bytes((_FIN | opcode, _MASKED | size)) + _KEY + payload
    return struct.pack("!BBH", _FIN | opcode, _MASKED | 126, size) + _KEY + payload


class FrameError(Exception):
    """The server sent what no server of these sends: a fragment, a masked or a reserved frame."""


class FrameReader:
    """Cuts a stream of bytes into the frames that a server sends, however it arrives."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, received: bytes | bytearray | memoryview) -> list[tuple[int, bytes]]:
        """Take what was received; give each frame that it completes, as opcode and payload.

        Raises:
            FrameError: it is fragmented, masked, or uses an extension.
        """
        buffer = self._buffer
        buffer += received
        frames: list[tuple[int, bytes]] = []
        position, end = 0, len(buffer)
        while end - position >= 2:
            first, size = buffer[position], buffer[position + 1]
            if first & 0xF0 != _FIN or size & _MASKED:
                raise FrameError(f"unexpected frame header {first:#04x} {size:#04x}")
            start = position + 2
            if size >= 126:
                wide = 2 if size == 126 else 8
                start += wide
                if start > end:
                    break
                size = int.from_bytes(buffer[start - wide : start], "big")
            if start + size > end:
                break
            position = start + size
            frames.append((first & 0x0F, bytes(buffer[start:position])))
        del buffer[:position]
        return frames


class MarkCounter:
    """Counts a mark in a stream, also where it is split over two or more pieces.

    The mark must not overlap itself (no proper prefix of it is also a suffix), or a stream that
    is whole would be counted differently from the same stream in pieces.
    """

    __slots__ = ("_mark", "_overlap", "_tail", "count")

    def __init__(self, mark: bytes) -> None:
        if any(mark.startswith(mark[-size:]) for size in range(1, len(mark))):
            raise ValueError(f"the mark {mark!r} overlaps itself")
        self._mark = mark
        self._overlap = len(mark) - 1
        self._tail = b""
        self.count = 0

    def feed(self, buffer: bytes | bytearray, size: int) -> int:
        """Count in the first `size` bytes of a buffer; give how many marks they complete.

        What is kept is shorter than the mark, so nothing is counted twice: a mark found across
        the seam has begun before it and ends after it.
        """
        overlap = self._overlap
        found = buffer.count(self._mark, 0, size)
        if overlap:
            if self._tail:
                found += (self._tail + buffer[: min(overlap, size)]).count(self._mark)
            if size >= overlap:
                self._tail = bytes(buffer[size - overlap : size])
            else:
                self._tail = (self._tail + bytes(buffer[:size]))[-overlap:]
        self.count += found
        return found
