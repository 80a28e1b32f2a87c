"""What outlives a crash of the process: a small shared mapping (mmap(2)) of a file in `run_dir`.

systemd keeps the sockets (`descriptor_store`); what is here says whose each is, and whether its
byte streams stood between two frames, with nothing unanswered. A slot a connection:

    in     bytes received up to a moment at which every frame was whole and answered
    out    bytes given to the socket, all of them whole frames
    seq    (of a room) what was published and given to all its members

Each is one aligned word, written in place, for the process may be killed between any two
instructions. Room on the disk is taken before it is written to: where there is none, the kernel
would end the process that writes to a mapping (SIGBUS). What the kernel counted (tcp(7), TCP_INFO)
tells afterwards what really came and went: where that is not what is written here, the stream is in
doubt. What is lost with the process alone, a power cut for one, takes the sockets along.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import socket
import struct
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

MAGIC: Final = b"CHATLIVE"
VERSION: Final = 1
SLOT: Final = 2048
"""Bytes. A token of 1,500 characters fits; who has a longer one is not restored."""
_HEADER: Final = struct.Struct("<8sIIId")
_WORD: Final = struct.Struct("<Q")
_COUNTS: Final = struct.Struct("<QQ")
_LENGTH: Final = struct.Struct("<I")
_IN, _OUT, _BODY = 8, 16, 32
FULL_SECONDS: Final = 1.0
"""How long a disk that had no room is not asked again: each room asks with all it publishes."""
_CHUNK: Final = 2 * 1024 * 1024
"""Bytes of the disk that are taken at once: where one is written to, Linux wants room for all that
it holds in memory as one piece (a large folio), and that may be so much."""
FREE, MEMBER, LEFT, ROOM = 0, 1, 2, 3

TCP_INFO_BYTES: Final = 256
_ACKED_RECEIVED: Final = struct.Struct("=QQ")
_ACKED_AT: Final = 120
"""Where tcpi_bytes_acked and tcpi_bytes_received are in struct tcp_info (linux/tcp.h)."""


class Who(msgspec.Struct, omit_defaults=True):
    """Whose a connection is. `base_in`, `base_out`: what the kernel had counted at 0 of ours."""

    id: str
    user: str
    name: str
    workspace: str
    exp: int
    token: str
    base_in: int
    base_out: int
    origin: str | None = None
    until: float = 0.0


class Where(msgspec.Struct):
    """Which history a room's `seq` belongs to."""

    workspace: str
    epoch: str


class Slot:
    """The slot of one connection."""

    __slots__ = ("_map", "_offset", "number", "received", "written")

    def __init__(self, shared: mmap.mmap, number: int, received: int, written: int) -> None:
        self._map = shared
        self._offset = number * SLOT
        self.number = number
        self.received = received
        self.written = written

    def wrote(self, count: int) -> None:
        """So many bytes more were given to the socket, up to the end of a frame."""
        self.written += count
        _WORD.pack_into(self._map, self._offset + _OUT, self.written)

    def unsettle(self) -> None:
        """Something was received that is not whole."""
        _WORD.pack_into(self._map, self._offset + _IN, 1 << 63)

    def settled(self) -> None:
        """All that was received is whole, and answered."""
        _WORD.pack_into(self._map, self._offset + _IN, self.received)


class Survival:
    """The file. Slot 0 is its header.

    Args:
        path: where it is; made where it is not.
        slots: how many connections and rooms it has place for.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(self, path: Path, slots: int) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._taken = 0
        """Bytes from the beginning that the disk is known to have room for."""
        self._full_until = 0.0
        try:
            size = os.fstat(self._descriptor).st_size
            if size < SLOT or not _is_ours(self._descriptor):
                os.ftruncate(self._descriptor, 0)
                size = 0
            self._slots = max(slots + 1, size // SLOT)
            os.ftruncate(self._descriptor, self._slots * SLOT)
            if size == 0:
                self._reach(SLOT)
            self._map = mmap.mmap(self._descriptor, self._slots * SLOT)
        except BaseException:
            os.close(self._descriptor)
            raise
        if size == 0:
            _HEADER.pack_into(self._map, 0, MAGIC, VERSION, SLOT, 0, 0.0)
        self._free: list[int] = []
        self._left: dict[tuple[str, str], list[int]] = {}
        self._open: set[int] = set()
        self._rooms: dict[str, int] = {}
        self.reload()

    def reload(self) -> None:
        """See what is in the file, as another process left it."""
        used = {number for number in self._written() if self._map[number * SLOT]}
        self._free = [number for number in range(self._slots - 1, 0, -1) if number not in used]
        self._rooms = {where.workspace: number for number, where, _ in self.rooms()}
        self._left = {}
        self._open = set()
        for number, who, state in self.members():
            if state == LEFT:
                self._left.setdefault((who.workspace, who.user), []).append(number)
            else:
                self._open.add(number)

    # --- connections ---------------------------------------------------------------------

    def keep(self, who: Who) -> Slot | None:
        """Take a slot for a connection; None where there is none, or it does not fit."""
        number = self._take(MEMBER, msgspec.msgpack.encode(who))
        if not number:
            return None
        self._open.add(number)
        self.offline(who.workspace, who.user)
        return Slot(self._map, number, 0, 0)

    def resume(self, number: int, sock: socket.socket) -> Slot | None:
        """Go on with a slot of another process; None where it is no connection's."""
        if not 0 < number < self._slots or self._map[number * SLOT] != MEMBER:
            return None
        who = self.who(number)
        _, written = _COUNTS.unpack_from(self._map, number * SLOT + _IN)
        return Slot(self._map, number, counted(sock)[0] - who.base_in, written)

    def renew(self, number: int, who: Who) -> bool:
        """Note that somebody showed another token; False where it does not fit."""
        body = msgspec.msgpack.encode(who)
        if len(body) > SLOT - _BODY - _LENGTH.size:
            return False
        self._write(number * SLOT, body)
        return True

    def leave(self, number: int, until: float) -> None:
        """The connection is closed; its user counts as online until then (Unix time), or longer.

        The slot is kept until it is said that they are `offline`.
        """
        who = self.who(number)
        who.until, who.token = until, ""
        self._write(number * SLOT, msgspec.msgpack.encode(who))
        self._map[number * SLOT] = LEFT
        self._left.setdefault((who.workspace, who.user), []).append(number)

    def offline(self, workspace: str, user: str) -> None:
        """A user is back, or all others were told that they are gone."""
        for number in self._left.pop((workspace, user), ()):
            self.release(number)

    def let_go(self, number: int) -> None:
        """Nothing is kept under this number any more."""
        self._open.discard(number)
        if self._map[number * SLOT] == FREE:
            self._free.append(number)

    def release(self, number: int) -> None:
        """Nothing of it matters any more."""
        if self._map[number * SLOT] != FREE:
            self._map[number * SLOT] = FREE
            if number not in self._open:
                self._free.append(number)

    def who(self, number: int) -> Who:
        """Give whose a slot is.

        Raises:
            msgspec.DecodeError: the slot was being written.
        """
        return msgspec.msgpack.decode(self._read(number * SLOT), type=Who)

    def members(self) -> Iterator[tuple[int, Who, int]]:
        """Give every connection, and everybody who had just left: number, who, state."""
        for number in self._written():
            state = self._map[number * SLOT]
            if state in (MEMBER, LEFT):
                try:
                    yield number, self.who(number), state
                except msgspec.DecodeError:
                    continue

    def settled(self, number: int, who: Who, sock: socket.socket) -> tuple[bool, bool]:
        """Say of both directions whether what the kernel counted is what is written here."""
        came, went = counted(sock)
        received, written = _COUNTS.unpack_from(self._map, number * SLOT + _IN)
        return came == who.base_in + received, went == who.base_out + written

    # --- rooms ---------------------------------------------------------------------------

    def publish(self, workspace: str, epoch: str, seq: int) -> None:
        """All members of a room were given everything up to this number."""
        number = self._rooms.get(workspace)
        if number is None:
            body = msgspec.msgpack.encode(Where(workspace, epoch))
            number = self._take(ROOM, body, seq)
            if number:
                self._rooms[workspace] = number
            return
        _WORD.pack_into(self._map, number * SLOT + _IN, seq)

    def forget_room(self, workspace: str) -> None:
        """The room is not in memory any more."""
        number = self._rooms.pop(workspace, None)
        if number is not None:
            self.release(number)

    def rooms(self) -> Iterator[tuple[int, Where, int]]:
        """Give every room: number, which, `seq`."""
        for number in self._written():
            if self._map[number * SLOT] == ROOM:
                body = self._read(number * SLOT)
                (seq,) = _WORD.unpack_from(self._map, number * SLOT + _IN)
                try:
                    yield number, msgspec.msgpack.decode(body, type=Where), seq
                except msgspec.DecodeError:
                    continue

    # --- crashes -------------------------------------------------------------------------

    def crashed(self, within: float) -> int:
        """Count one crash more, and give how many there were, each so soon after the other."""
        magic, version, slot, count, last = _HEADER.unpack_from(self._map)
        now = time.time()
        count = count + 1 if now - last < within else 1
        _HEADER.pack_into(self._map, 0, magic, version, slot, count, now)
        return int(count)

    def clear(self) -> None:
        """Free every slot."""
        for number in self._written():
            if self._map[number * SLOT] != FREE:
                self._map[number * SLOT] = FREE
        self.reload()

    def close(self, *, remove: bool) -> None:
        """Let go of the file; `remove` it where nobody comes after."""
        self._map.close()
        os.close(self._descriptor)
        if remove:
            self.path.unlink(missing_ok=True)

    # --- inside --------------------------------------------------------------------------

    def _written(self) -> Iterator[int]:
        """Give the slots that were ever written to; all others are free.

        In a file system in memory (tmpfs), a mapped page takes room as soon as it is read.
        """
        place, size = 0, self._slots * SLOT
        while place < size:
            try:
                start = os.lseek(self._descriptor, place, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:  # there is only a hole
                    return
                raise
            place = os.lseek(self._descriptor, start, os.SEEK_HOLE)
            yield from range(max(1, -(-start // SLOT)), -(-place // SLOT))

    def _take(self, state: int, body: bytes, first: int = 0) -> int:
        if not self._free or len(body) > SLOT - _BODY - _LENGTH.size:
            return 0
        number = self._free.pop()
        offset = number * SLOT
        try:
            self._reach(offset + SLOT)
        except OSError:  # the disk is full: it is kept when there is room again, or comes back
            self._free.append(number)
            return 0
        _COUNTS.pack_into(self._map, offset + _IN, first, 0)
        self._write(offset, body)
        self._map[offset] = state  # last: a slot counts only when it is whole
        return number

    def _reach(self, end: int) -> None:
        """Make sure that the disk has room for the first bytes; what is written there stays.

        Only for who alone writes to the file.

        Raises:
            OSError: it has none.
        """
        if end <= self._taken:
            return
        if time.monotonic() < self._full_until:
            raise self._no_room()
        end = min(-(-end // _CHUNK) * _CHUNK, self._slots * SLOT)
        try:
            self._rewrite(self._taken, end)
        except OSError:
            self._full_until = time.monotonic() + FULL_SECONDS
            raise
        self._taken = end

    def _no_room(self) -> OSError:
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))

    def _rewrite(self, start: int, end: int) -> None:
        """Write what is there once more, whether it was ever written or not.

        Not fallocate(2): ext4 may still need room when such a place is first written to.
        """
        there = os.pread(self._descriptor, end - start, start)
        if os.pwrite(self._descriptor, there, start) < end - start:
            raise self._no_room()

    def _write(self, offset: int, body: bytes) -> None:
        _LENGTH.pack_into(self._map, offset + _BODY, len(body))
        start = offset + _BODY + _LENGTH.size
        self._map[start : start + len(body)] = body

    def _read(self, offset: int) -> bytes:
        (length,) = _LENGTH.unpack_from(self._map, offset + _BODY)
        start = offset + _BODY + _LENGTH.size
        return self._map[start : start + min(length, SLOT)]


def _is_ours(descriptor: int) -> bool:
    magic, version, slot, _, _ = _HEADER.unpack(os.pread(descriptor, _HEADER.size, 0))
    return bool((magic, version, slot) == (MAGIC, VERSION, SLOT))


def counted(sock: socket.socket) -> tuple[int, int]:
    """Give how many bytes were read from a socket, and written to it, as the kernel counted.

    Raises:
        OSError: it is no TCP socket.
    """
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_BYTES)
    acked, received = _ACKED_RECEIVED.unpack_from(info, _ACKED_AT)
    return received - _queued(sock, termios.FIONREAD), acked + _queued(sock, termios.TIOCOUTQ)


def _queued(sock: socket.socket, which: int) -> int:
    (count,) = struct.unpack("i", fcntl.ioctl(sock.fileno(), which, b"\0\0\0\0"))
    return int(count)
