"""Fan-out: what a room has to say, gathered into one buffer per member.

A frame for everybody is serialised once and joined once for the whole room; a member for whom
there is nothing of its own gets that very buffer, so that a batch costs one write a member and no
copy. Frames reach each member in the order in which they were put in.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Generic, TypeVar

from websockets.frames import Frame, Opcode

from chatservice.protocol import ServerFrame, encode

Key = TypeVar("Key", bound=Hashable)


def text_frame(frame: ServerFrame) -> bytes:
    """Serialise a frame as an unmasked, unfragmented WebSocket text frame (RFC 6455, 5.2)."""
    return Frame(Opcode.TEXT, encode(frame)).serialize(mask=False, extensions=[])


class Outbox(Generic[Key]):
    """The frames of one batch of one room.

    Shared frames form segments; a frame for one member, or one that somebody is left out of,
    ends a segment, so that its place among the shared ones is kept.
    """

    __slots__ = ("_left_out", "_own", "_run", "_segments", "_start")

    def __init__(self) -> None:
        self._segments: list[bytes] = []
        self._run: list[bytes] = []
        self._own: dict[Key, list[tuple[int, bytes]]] = {}
        self._left_out: dict[Key, set[int]] = {}
        self._start: dict[Key, int] = {}

    def __bool__(self) -> bool:
        return bool(self._segments or self._run or self._own)

    def to_all(self, frame: bytes, but: Iterable[Key] = ()) -> None:
        """Add a frame for every member except `but`."""
        left_out = list(but)
        if not left_out:
            self._run.append(frame)
            return
        index = self._end_run()
        self._segments.append(frame)
        for key in left_out:
            self._left_out.setdefault(key, set()).add(index)

    def to_member(self, key: Key, frame: bytes) -> None:
        """Add a frame for one member."""
        self._own.setdefault(key, []).append((self._end_run(), frame))

    def admit(self, key: Key) -> None:
        """A member arrives: of the shared frames it gets those that are added from now on."""
        self._start[key] = self._end_run()

    def _end_run(self) -> int:
        """Close the run of shared frames; give the number of segments so far."""
        if self._run:
            self._segments.append(b"".join(self._run))
            self._run.clear()
        return len(self._segments)

    def flush(self, members: Iterable[Key], write: Callable[[Key, bytes], None]) -> int:
        """Write each member its buffer, once; give how many got one. The outbox is empty then.

        Args:
            members: those who get the shared frames. Frames for one member are written whether
                or not it is among them.
            write: called with a member and a non-empty buffer; must not raise.
        """
        end = self._end_run()
        shared = b"".join(self._segments)
        special = self._own.keys() | self._left_out.keys() | self._start.keys()
        buffers = {key: self._assemble(key, end) for key in special}
        own = self._own
        self._clear()
        written = 0
        for key in members:
            buffer = shared
            if special and key in buffers:
                buffer = buffers[key]
                own.pop(key, None)
            if buffer:
                write(key, buffer)
                written += 1
        for key, frames in own.items():
            write(key, b"".join(frame for _, frame in frames))
            written += 1
        return written

    def _assemble(self, key: Key, end: int) -> bytes:
        """Join what one member gets, its own frames in their places."""
        left_out = self._left_out.get(key, ())
        parts: list[bytes] = []
        position = self._start.get(key, 0)
        for index, frame in [*self._own.get(key, ()), (end, b"")]:
            parts.extend(self._segments[i] for i in range(position, index) if i not in left_out)
            position = max(position, index)
            parts.append(frame)
        return b"".join(parts)

    def _clear(self) -> None:
        self._segments = []
        self._own = {}
        self._left_out = {}
        self._start = {}
