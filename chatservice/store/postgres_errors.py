"""What PostgreSQL and the way to it can say, in the store's few kinds."""

from __future__ import annotations

import re
import ssl
from typing import Final
from urllib.parse import urlsplit

import asyncpg

from chatservice.store import StoreError, StoreErrorKind

NO_SUCH_WORKSPACE: Final = "CS001"
"""Raised by the schema's own functions."""

BUSY: Final = (asyncpg.TooManyConnectionsError,)
"""PostgreSQL takes no more connections just now; nothing was asked of it yet."""

TRY_AGAIN: Final = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError, *BUSY)
"""Nothing was stored, as when the transaction met another one: it is simply done again."""

LOST: Final = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # what a call in progress gets when the connection is closed
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
)
"""The connection is gone, or there is none. Whether a commit under way was stored is not known;
doing the batch again finds out, since a message is stored once by its id."""

_KINDS: Final[tuple[tuple[type[BaseException], StoreErrorKind, str], ...]] = (
    (asyncpg.DiskFullError, StoreErrorKind.FULL, "its disk is full: free space there"),
    (
        asyncpg.LockNotAvailableError,
        StoreErrorKind.LOCKED,
        "another session holds a row for too long: look at pg_stat_activity",
    ),
    (
        asyncpg.QueryCanceledError,
        StoreErrorKind.LOCKED,
        "it did not answer in time: look at its load, and at pg_stat_activity",
    ),
    (TimeoutError, StoreErrorKind.LOCKED, "it did not answer in time: look at its load"),
    (
        asyncpg.TooManyConnectionsError,
        StoreErrorKind.IO,
        "it takes no more connections: raise its max_connections, or lower store.connections",
    ),
    (asyncpg.DataCorruptedError, StoreErrorKind.CORRUPT, "it found damaged data: restore a backup"),
    (asyncpg.IndexCorruptedError, StoreErrorKind.CORRUPT, "an index is damaged: REINDEX it"),
    (
        asyncpg.ReadOnlySQLTransactionError,
        StoreErrorKind.IO,
        "it is read-only: a standby? the address must lead to the primary",
    ),
    (
        asyncpg.InvalidAuthorizationSpecificationError,
        StoreErrorKind.IO,
        "it refuses the user or the password: look at the database_url secret",
    ),
    (
        ssl.SSLCertVerificationError,
        StoreErrorKind.IO,
        "its certificate is not trusted: look at its name, at the host in the database_url secret, "
        "and at sslrootcert",
    ),
    (
        FileNotFoundError,
        StoreErrorKind.IO,
        "a file that the database_url secret names is not there: look at sslrootcert",
    ),
    (ssl.SSLError, StoreErrorKind.IO, "TLS failed: look at sslmode in the database_url secret"),
    (
        asyncpg.ClientConfigurationError,
        StoreErrorKind.IO,
        "the address in the database_url secret cannot be used",
    ),
    (asyncpg.InvalidCatalogNameError, StoreErrorKind.IO, "there is no such database: create it"),
)


_NO_TLS: Final = (
    "it offers no TLS: turn that on there, or look at sslmode in the database_url secret"
)


def store_error(error: BaseException, where: str) -> StoreError:
    """Explain an error for an operator; `where` names the server, without its password."""
    if isinstance(error, StoreError):
        return error
    if isinstance(error, asyncpg.PostgresError) and error.sqlstate == NO_SUCH_WORKSPACE:
        return StoreError(StoreErrorKind.STALE, f"{where}: {error}: open it again")
    for kind, verdict, advice in _KINDS:
        if isinstance(error, kind):
            said = " ".join(str(error).split()) or type(error).__name__
            return StoreError(verdict, f"PostgreSQL at {where}: {advice} ({said})")
    if isinstance(error, LOST):
        said = " ".join(str(error).split()) or type(error).__name__
        if "rejected SSL" in said:  # asyncpg has no class of its own for it
            return StoreError(StoreErrorKind.IO, f"PostgreSQL at {where}: {_NO_TLS} ({said})")
        return StoreError(
            StoreErrorKind.IO,
            f"PostgreSQL at {where}: cannot be reached ({said}): is it running, and reachable?",
        )
    return StoreError(
        StoreErrorKind.INTERNAL, f"PostgreSQL at {where}: {type(error).__name__}: {error}"
    )


def describe(dsn: str) -> str:
    """Name the servers and the database of a DSN, without user and password."""
    parts = urlsplit(dsn)
    if "@" in parts.path + parts.query + parts.fragment:
        return "an address that is not well written"  # the rest of a password may be in there
    servers = parts.netloc.rpartition("@")[2] or "a local socket"
    named = (one if re.search(r":\d+$", one) else f"{one}:5432" for one in servers.split(","))
    return ",".join(named) + parts.path
