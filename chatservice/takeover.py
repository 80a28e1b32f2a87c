"""Taking over: a new process relieves the running one on the same listening sockets.

Two-phase, so that a bad release costs nothing. The new process asks only when all that can fail
alone has succeeded. The old one reads nothing more, sees what it read through to the disk and to
its members, and passes the listeners (SCM_RIGHTS, unix(7)). The new one confirms, and serves from
then on; only then does the old one dismiss its members and exit. Without a confirmation it reads
on. At no moment do both serve: each would be ignorant of what the other stores.

Version 1 of the conversation, a line of JSON each:

    new -> old   {"order": "take-over", "version": 1}
    old -> new   {"ok": true, "listeners": ["public", "admin"]}   with the descriptors
    new -> old   {"confirmed": true}
    old -> new   {"ok": true}
"""

from __future__ import annotations

import array
import asyncio
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from chatservice.control import MAX_LINE, ControlError, connect, read_line

VERSION: Final = 1
CONFIRM_SECONDS: Final = 10.0
"""How long the old process waits, reading nothing, for the new one to confirm."""
ASK_SECONDS: Final = 15.0
"""How long the new process waits for the old one to finish what is under way."""


class _Reply(msgspec.Struct):
    ok: bool
    listeners: list[str] = []
    error: str = ""


class Claim:
    """The new process's side, in the middle of a take-over: it has the listeners."""

    def __init__(self, peer: socket.socket, listeners: Mapping[str, socket.socket]) -> None:
        self._peer = peer
        self.listeners = listeners

    def confirm(self) -> None:
        """Tell the old process that this one serves.

        Raises:
            ControlError: it is too late; the old one serves on, so this one must not.
        """
        try:
            self._peer.sendall(b'{"confirmed":true}\n')
            with self._peer.makefile("rb") as lines:
                line = lines.readline()
            reply = msgspec.json.decode(line, type=dict[str, Any])
        except (OSError, msgspec.DecodeError) as error:
            raise ControlError(
                f"the running process did not take the confirmation: {error}"
            ) from None
        finally:
            self._peer.close()
        if not reply.get("ok"):
            raise ControlError(f"the running process serves on: {reply.get('error')}")

    def abandon(self) -> None:
        """Let the old process serve on, at once."""
        self._peer.close()
        for listener in self.listeners.values():
            listener.close()


def claim(path: Path) -> Claim | None:
    """Ask the running process for its listeners; None when nobody runs.

    Raises:
        ControlError: it does not answer, or refuses.
    """
    peer = connect(path, ASK_SECONDS)
    if peer is None:
        return None
    descriptors: list[int] = []
    try:
        peer.sendall(msgspec.json.encode({"order": "take-over", "version": VERSION}) + b"\n")
        line = _receive(peer, descriptors)
        reply = msgspec.json.decode(line, type=_Reply)
        if not reply.ok:
            raise ControlError(f"the running process refused: {reply.error}")
        names = reply.listeners
        if len(names) != len(descriptors):
            raise ControlError(f"{len(names)} listeners were named, {len(descriptors)} passed")
    except TimeoutError:
        _close(peer, descriptors)
        raise ControlError(
            f"the running process did not answer in {ASK_SECONDS:g} s; it may hang. "
            f"Stop it with `ctl stop`, or kill it, and start this one again"
        ) from None
    except (OSError, msgspec.DecodeError) as error:
        _close(peer, descriptors)
        raise ControlError(f"the running process did not answer as one: {error}") from None
    except ControlError:
        _close(peer, descriptors)
        raise
    return Claim(
        peer, {name: socket.socket(fileno=fd) for name, fd in zip(names, descriptors, strict=True)}
    )


def _close(peer: socket.socket, descriptors: list[int]) -> None:
    peer.close()
    for descriptor in descriptors:
        os.close(descriptor)


def _receive(peer: socket.socket, descriptors: list[int]) -> bytes:
    """Read one line, and add the descriptors that come with it to `descriptors`."""
    line = b""
    space = socket.CMSG_SPACE(8 * array.array("i").itemsize)
    while not line.endswith(b"\n"):
        data, ancillary, _, _ = peer.recvmsg(4096, space)
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                numbers = array.array("i")
                numbers.frombytes(payload[: len(payload) - len(payload) % numbers.itemsize])
                descriptors.extend(numbers)
        if not data:
            raise ControlError("the running process hung up")
        line += data
        if len(line) > MAX_LINE:
            raise ControlError("the running process sends a line without an end")
    return line


async def hand_over(peer: socket.socket, listeners: Mapping[str, socket.socket]) -> None:
    """The old process's side, once it is quiet: pass the listeners and await the confirmation.

    Raises:
        ControlError: the new process did not confirm; go on serving.
    """
    header = msgspec.json.encode({"ok": True, "listeners": list(listeners)}) + b"\n"
    try:
        socket.send_fds(peer, [header], [listener.fileno() for listener in listeners.values()])
        async with asyncio.timeout(CONFIRM_SECONDS):
            reply = msgspec.json.decode(await read_line(peer), type=dict[str, Any])
    except TimeoutError:
        raise ControlError(f"no confirmation came in {CONFIRM_SECONDS:g} s") from None
    except (OSError, msgspec.DecodeError) as error:
        raise ControlError(f"the new process went away: {error}") from None
    if reply.get("confirmed") is not True:
        raise ControlError("the new process did not confirm")


def check_version(order: Mapping[str, Any]) -> None:
    """Refuse a conversation that this release does not speak, before anything has moved.

    Raises:
        ControlError: the version is another.
    """
    if order.get("version") != VERSION:
        raise ControlError(
            f"take-over version {order.get('version')!r} is not known here, only {VERSION}"
        )
