"""File descriptors: as many as the system allows, and limits that fit into them.

A process that runs out can accept nobody, not even on its control socket, and cannot open the
database's files. So clients are turned away before that, with a 503.
"""

from __future__ import annotations

import resource
from typing import Final

import msgspec

from chatservice.config import LimitSettings
from chatservice.logs import get_logger

log = get_logger("descriptors")

SPARE: Final = 64
"""Those that are not clients': listeners, the database, the log, the control socket, metrics."""


def raise_limit(wanted: int) -> int:
    """Allow this process so many descriptors, or as many as the system lets it; give how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return max(soft, allowed)


def room() -> int:
    """Give how many sockets of clients this process may hold."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(0, soft - SPARE)


def fit(limits: LimitSettings, descriptors: int) -> LimitSettings:
    """Lower the limits of clients so far that their sockets fit into so many descriptors."""
    room = max(8, descriptors - SPARE)
    if limits.connections + limits.handshakes <= room:
        return limits
    handshakes = min(limits.handshakes, room // 4)
    return msgspec.structs.replace(
        limits, handshakes=handshakes, connections=min(limits.connections, room - handshakes)
    )


def claim(limits: LimitSettings) -> LimitSettings:
    """Get the descriptors that the limits need, or the limits that fit those there are."""
    wanted = limits.connections + limits.handshakes + SPARE
    allowed = raise_limit(wanted)
    fitting = fit(limits, allowed)
    if fitting != limits:
        log.warning(
            "too few file descriptors for limits.connections, which is lowered; "
            "raise LimitNOFILE or ulimit -Hn",
            allowed=allowed, wanted=wanted, connections=fitting.connections,
        )  # fmt: skip
    return fitting
