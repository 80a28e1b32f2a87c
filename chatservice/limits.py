"""Limits: how fast one connection may send, and how many connections there may be.

Promises: constant time and memory each; nothing is remembered of users and workspaces that have
no connection. No clock of its own: time is passed in.

Imports nothing of chatservice but `config`.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from chatservice.config import LimitSettings

_SLACK: Final = 1e-6
"""Seconds. Sums of float intervals drift by less: a sender at exactly its rate is not refused."""

FULL_RETRY_AFTER: Final = 5
"""Seconds after which a client turned away by a full process may look for room again."""
CROWDED_RETRY_AFTER: Final = 10
"""The same for a user or a workspace with too many connections: somebody must leave first."""


class TokenBucket:
    """Lets `burst` frames through at once, and `rate` a second from then on.

    Kept as one number, the time at which the bucket will be full again (the generic cell rate
    algorithm, ITU-T I.371, Annex A), so a check is a comparison and an addition.
    """

    __slots__ = ("_full_at", "_interval", "_tolerance", "refused")

    def __init__(self, rate: float, burst: int) -> None:
        self._interval = 1.0 / rate
        self._tolerance = (burst - 1) * self._interval + _SLACK
        self._full_at = float("-inf")
        self.refused = 0
        """How many were refused in a row since the last that was let through."""

    def take(self, now: float) -> bool:
        """Ask to let one through at `now` (seconds of any monotonic clock)."""
        full_at = self._full_at
        if full_at < now:
            full_at = now
        elif full_at - now > self._tolerance:
            self.refused += 1
            return False
        self._full_at = full_at + self._interval
        self.refused = 0
        return True

    def ahead(self, now: float) -> float:
        """Seconds at `now` until the bucket is full again."""
        return max(0.0, self._full_at - now)

    def restore(self, ahead: float, refused: int, now: float) -> None:
        """Go on from what `ahead` and `refused` were in another process."""
        self._full_at = now + ahead
        self.refused = refused


class Refusal(NamedTuple):
    """Why a connection is not admitted: the HTTP answer, and `Retry-After` in seconds."""

    status: int
    message: str
    retry_after: int


class ConnectionCounts:
    """Counts the connections of the process, of each user, and of each workspace."""

    def __init__(self, limits: LimitSettings) -> None:
        self._limits = limits
        self._users: dict[str, int] = {}
        self._workspaces: dict[str, int] = {}
        self.total = 0
        """The connections of the process."""

    def admit(self, user: str, workspace: str) -> Refusal | None:
        """Count one more connection, or say why not; then nothing is counted."""
        limits = self._limits
        if self.total >= limits.connections:
            return Refusal(503, "the service is full", FULL_RETRY_AFTER)
        if self.of_user(user) >= limits.connections_per_user:
            return Refusal(429, "too many connections of this user", CROWDED_RETRY_AFTER)
        if self.in_workspace(workspace) >= limits.connections_per_workspace:
            return Refusal(429, "too many connections in this workspace", CROWDED_RETRY_AFTER)
        self.adopt(user, workspace)
        return None

    def adopt(self, user: str, workspace: str) -> None:
        """Count a connection that exists already, whatever the limits."""
        self.total += 1
        self._users[user] = self.of_user(user) + 1
        self._workspaces[workspace] = self.in_workspace(workspace) + 1

    def release(self, user: str, workspace: str) -> None:
        """Count one connection less.

        Raises:
            ValueError: there is none of this user, or none in this workspace, to release.
        """
        if not self.of_user(user) or not self.in_workspace(workspace):
            raise ValueError("released a connection that was not admitted")
        self.total -= 1
        _decrement(self._users, user)
        _decrement(self._workspaces, workspace)

    def of_user(self, user: str) -> int:
        """Count the connections of a user, in all workspaces."""
        return self._users.get(user, 0)

    def in_workspace(self, workspace: str) -> int:
        """Count the connections in a workspace, of all users."""
        return self._workspaces.get(workspace, 0)


def _decrement(counts: dict[str, int], key: str) -> None:
    """Count one less, and forget the key at none."""
    if counts[key] == 1:
        del counts[key]
    else:
        counts[key] -= 1
