"""websockets' Sans-I/O server protocol, as a connection uses it.

Every failure is closed as 4500 (see `chatservice.protocol`), the place of the last whole frame is
known, and making one costs little.
"""

from __future__ import annotations

import functools
import logging
from typing import Final, cast

from websockets.frames import CloseCode as RfcCloseCode
from websockets.frames import Frame
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.streams import StreamReader
from websockets.typing import Subprotocol

from chatservice.protocol import SUBPROTOCOL, CloseCode

MAX_CLOSE_REASON: Final = 123
"""Bytes of a close reason (RFC 6455, 5.5: 125 for a control frame, 2 of them for the code)."""

_logger = logging.getLogger("websockets.server")


def _select_subprotocol(_: ServerProtocol, offered: object) -> Subprotocol | None:
    """Accept ours, ignore the token beside it, and do without where none was offered."""
    names = cast(list[str], offered)
    return Subprotocol(SUBPROTOCOL) if SUBPROTOCOL in names else None


class WebSocket(ServerProtocol):
    """One connection's protocol; `websocket` makes them."""

    def __init__(self, max_size: int, state: State) -> None:
        self.rest = -1
        """Bytes that were there beyond the last whole frame; -1: there was none."""
        super().__init__(
            state=state,
            max_size=max_size,
            subprotocols=[Subprotocol(SUBPROTOCOL)],
            select_subprotocol=_select_subprotocol,
            logger=_logger,
        )

    def twin(self) -> WebSocket:
        """Give another one in the state of this one, which must not have been used.

        A third of the time of making one anew, and less memory: what never changes is shared, the
        number in the library's own log lines too, which we have no use for.
        """
        twin = object.__new__(WebSocket)
        for name, value in vars(self).items():  # one by one: `update` would cost a dictionary
            setattr(twin, name, value)
        twin.reader = StreamReader()
        twin.events = []
        twin.writes = []
        twin.parser = twin.parse()
        next(twin.parser)
        return twin

    def recv_frame(self, frame: Frame) -> None:
        """Note where the frame ended."""
        self.rest = len(self.reader.buffer)
        super().recv_frame(frame)

    def fail(self, code: RfcCloseCode | int, reason: str = "") -> None:
        """Close with 4500, whatever the library would."""
        if code < 4000 and code != RfcCloseCode.ABNORMAL_CLOSURE:
            code = CloseCode.PROTOCOL_ERROR
        super().fail(code, reason.encode()[:MAX_CLOSE_REASON].decode(errors="ignore"))


@functools.cache
def _pattern(max_size: int, state: State) -> WebSocket:
    """Give the one of which all others are twins."""
    return WebSocket(max_size, state)


def websocket(max_size: int, state: State = State.CONNECTING) -> WebSocket:
    """Make one; OPEN where the handshake was in another process."""
    return _pattern(max_size, state).twin()


CLOSED: Final = WebSocket(0, State.CLOSED)
"""What a closed connection has instead of its own: the timer wheel may hold it for long."""
