"""Frames in a few words, for people who read why a check failed."""

from __future__ import annotations

from collections.abc import Sequence

from chatservice.protocol import (
    Ack,
    ClientFrame,
    Error,
    Message,
    PresenceChange,
    ReadCursor,
    ServerFrame,
    Typing,
)


def type_of(frame: ServerFrame | ClientFrame) -> str:
    """Give the name by which the wire knows a frame."""
    return str(frame.__struct_config__.tag)


def describe(frame: ServerFrame) -> str:
    """Say what a frame is in a few words."""
    match frame:
        case Message():
            return f"message {frame.seq} of {frame.user}"
        case PresenceChange():
            return f"{frame.user} {frame.state.value}"
        case Error():
            return f"error {frame.code.value} ({frame.message})"
        case ReadCursor():
            return f"read {frame.seq} with {frame.unread} unread"
        case Ack():
            return f"ack {frame.seq}"
        case Typing():
            return f"{frame.user} typing"
        case _:
            return type_of(frame)


def listed(parts: Sequence[str], *, limit: int = 12) -> str:
    """Join parts with commas, and only count those past the limit."""
    shown = ", ".join(parts[:limit])
    return shown + (f" and {len(parts) - limit} more" if len(parts) > limit else "")
