"""PostgreSQL for chat services on test hosts: on a host of its own, or on this machine."""

from __future__ import annotations

import asyncio
import secrets

import asyncpg

from tests.hosts.machine import Host
from tests.postgres_server import PostgresServer

GUARDED = "guarded"
"""The one user of the lab's PostgreSQL on this machine who needs a password (see conftest.py)."""

_INSTALL = """
set -eu
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update
apt-get -qq install --yes --no-install-recommends postgresql >/dev/null
directory=$(echo /etc/postgresql/*/main)
echo "listen_addresses = '*'" > "$directory/conf.d/lab.conf"
echo "host chat chat $1 scram-sha-256" >> "$directory/pg_hba.conf"
systemctl restart postgresql
read -r password
su postgres -c psql >/dev/null <<SQL
create role chat login password '$password';
create database chat owner chat;
SQL
"""


def install_postgres(host: Host) -> str:
    """Install PostgreSQL there, and give the address of an empty database in it."""
    password = secrets.token_hex(16)
    host.run(
        "sh", "-c", _INSTALL, "install", host.network.prefix,
        stdin=f"{password}\n".encode(), timeout=300,
    )  # fmt: skip
    return f"postgresql://chat:{password}@{host.address}/chat"


def guard(server: PostgresServer, password: str) -> None:
    """Give `GUARDED` a password; it may do everything."""

    async def change() -> None:
        connection = await asyncpg.connect(f"postgresql://chat@127.0.0.1:{server.port}/postgres")
        try:
            if not await connection.fetch("SELECT FROM pg_roles WHERE rolname = $1", GUARDED):
                await connection.execute(f"CREATE ROLE {GUARDED} SUPERUSER LOGIN")
            await connection.execute(f"ALTER ROLE {GUARDED} PASSWORD '{password}'")
        finally:
            await connection.close()

    asyncio.run(change())
