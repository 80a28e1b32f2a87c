"""What a client raises."""

from __future__ import annotations


class Refused(Exception):
    """The server answered the upgrade request with this HTTP status instead of a WebSocket.

    `retry_after` is in seconds, where the server gave it.
    """

    def __init__(self, status: int, message: str, retry_after: float | None = None) -> None:
        super().__init__(f"refused with {status}: {message}")
        self.status = status
        self.message = message
        self.retry_after = retry_after

    @property
    def final(self) -> bool:
        """Whether asking again with the same workspace and token is of no use."""
        return self.status in (400, 401, 403)


class RequestRefused(Exception):
    """The server did not do what was asked for, and would not at a second try either."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class SendRefused(RequestRefused):
    """A message was refused for good, and is stored nowhere."""


class ClosedForGood(Exception):
    """The connection was closed with a code after which a client must not come back."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"closed for good with {code}: {reason}")
        self.code = code
        self.reason = reason


class ClosedHere(ClosedForGood):
    """The program closed its client itself."""

    def __init__(self) -> None:
        super().__init__(1000, "this client was closed")


class NotConnected(TimeoutError):
    """There was no connection in time; the message says what went wrong last."""
