"""Who was online when a process ended, for the one that comes after it.

Where members have to come back, the next process counts them as online until they had the time
to: so nobody who does is seen to leave and to return. A crash leaves no such word.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from chatservice.handover_format import Workspace
from chatservice.logs import get_logger

log = get_logger("farewell")


class Farewell(msgspec.Struct):
    """`at`: seconds of the Unix clock. `within`: by when everybody was told to be back."""

    at: float
    within: float
    workspaces: list[Workspace]


def say_farewell(path: Path, workspaces: Sequence[Workspace], *, within: float) -> None:
    """Leave word of who is online; whoever comes after has to do without it where that fails."""
    farewell = Farewell(time.time(), within, list(workspaces))
    temporary = path.with_name(f".{path.name}")
    try:
        temporary.touch(mode=0o600)
        temporary.write_bytes(msgspec.msgpack.encode(farewell))
        temporary.rename(path)
    except OSError as error:
        log.warning("who was online cannot be written down", path=path, reason=str(error))


def take_farewell(path: Path) -> Farewell | None:
    """Take the word that the process before left, once; None where there is none."""
    try:
        content = path.read_bytes()
        path.unlink()
        farewell = msgspec.msgpack.decode(content, type=Farewell)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        log.warning("who was online before cannot be read", path=path, reason=str(error))
        return None
    return farewell if farewell.at <= time.time() else None
