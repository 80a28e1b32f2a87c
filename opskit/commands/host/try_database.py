"""Try the database that an address names, as a release would; changes nothing.

Runs as `python3 -I -c ... PLACE...` and reads the address on stdin: it is a secret. The PLACEs hold
the chat service and its packages: unlike the other programs here, this one needs more than the
standard library. opskit/database.py reads what it prints.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from typing import Any

SECONDS = 5.0
"""For connecting, and for each question."""

_LOOK = """
SELECT current_user::text AS user, pg_is_in_recovery() AS standby,
  coalesce(has_schema_privilege(current_schema()::text, 'CREATE'), false) AS may_create,
  coalesce((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false) AS tls
"""


async def look(address: str) -> dict[str, Any]:
    """Connect, and give what is there."""
    import asyncpg

    from chatservice.store.postgres_migrate import database_schema

    connection = await asyncpg.connect(address, timeout=SECONDS, command_timeout=SECONDS)
    try:
        [found] = await connection.fetch(_LOOK)
        schema = await database_schema(connection)
    finally:
        await connection.close(timeout=SECONDS)
    there = schema and {"version": schema.version, "readable_from": schema.readable_from}
    return {**found, "schema": there}


def attempt(address: str) -> dict[str, Any]:
    """Give what is there, or `error`: what PostgreSQL or the way to it said."""
    try:
        from chatservice.store.postgres_errors import describe, store_error
    except ImportError as error:
        return {"cannot": str(error)}
    try:
        where = describe(address)
    except ValueError:
        return {"error": "the address cannot be read", "kind": "address"}
    try:
        return {"where": where, **asyncio.run(look(address))}
    except ImportError as error:
        return {"cannot": str(error)}
    except Exception as error:
        return {"error": str(store_error(error, where)), "kind": kind(error), "where": where}


def kind(error: Exception) -> str:
    """Give the SQLSTATE of what PostgreSQL said; `tls` or `file` where it never came so far."""
    if state := getattr(error, "sqlstate", None):
        return str(state)
    if isinstance(error, FileNotFoundError):
        return "file"
    return "tls" if isinstance(error, ssl.SSLError) or "SSL" in str(error) else ""


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    sys.path[:0] = sys.argv[1:]
    json.dump(attempt(sys.stdin.read().strip()), sys.stdout)
