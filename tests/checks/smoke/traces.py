"""What a run of the smoke test left in the service."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing

from tests.service_process import ServiceProcess


def workspaces_of(service: ServiceProcess) -> list[str]:
    """Read from the database itself which workspaces there are."""
    with closing(sqlite3.connect(service.settings.database)) as database:
        rows = database.execute("SELECT DISTINCT name FROM workspaces").fetchall()
    return [name for (name,) in rows]


async def connections_gone(service: ServiceProcess) -> None:
    """Wait until the service counts no connection."""
    async with asyncio.timeout(20):
        while "\nchat_connections 0.0\n" not in service.get("/metrics", admin=True)[1]:
            await asyncio.sleep(0.02)
