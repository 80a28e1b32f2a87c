"""PostgreSQL on a test host, for chat services on others."""

from __future__ import annotations

import secrets

from tests.hosts.machine import Host

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
