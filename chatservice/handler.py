"""What a connection needs of the server: what bounds it, and whom it tells what happens to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from websockets.http11 import Request

from chatservice.limits import TokenBucket

if TYPE_CHECKING:
    from chatservice.connection import Connection


class Handler(Protocol):
    """A server of connections. None of these may raise.

    Timeouts and the heartbeat are in seconds, limits in bytes.
    """

    handshake_timeout: float
    heartbeat: float
    close_timeout: float
    unsent_limit: int
    frame_limit: int

    def new_bucket(self) -> TokenBucket:
        """Give the rate limit of one connection."""

    def schedule(self, connection: Connection, when: float) -> None:
        """Call `connection.on_timer` at `when`, in seconds of the loop's clock."""

    def connected(self, connection: Connection) -> None:
        """A socket was accepted; nothing is known of it."""

    def requested(self, connection: Connection, request: Request) -> None:
        """It asks for something over HTTP; reading is paused until `respond`."""

    def answered(self, connection: Connection) -> None:
        """It got an answer that is no upgrade, and is to go."""

    def received(self, connection: Connection, text: str) -> None:
        """A member sent a text message."""

    def flooded(self, connection: Connection, text: str | None) -> None:
        """A member sent a frame past its rate limit."""

    def expired(self, connection: Connection) -> None:
        """The member's token has expired."""

    def closed(self, connection: Connection, reason: str) -> None:
        """It will send and receive no more; called once."""

    def disconnected(self, connection: Connection) -> None:
        """Its socket is closed; called once, last."""
