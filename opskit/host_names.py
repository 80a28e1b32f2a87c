"""How environments.yaml names a host: `[user@]name[:port]`, or an address."""

from __future__ import annotations

import re
from typing import Final

HIGHEST_PORT: Final = 65_535


def checked(text: str) -> str:
    """Give the text back if it names a host.

    Raises:
        ValueError: it does not.
    """
    user, name, port = (
        r"([a-z_][a-z0-9_-]*@)?",
        r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?",
        ":[0-9]+",
    )
    ipv6 = r"[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*:[0-9A-Fa-f.]*"
    if not re.fullmatch(rf"{user}({name}({port})?|{ipv6}|\[{ipv6}\]({port})?)", text):
        raise ValueError("expected a host as [user@]name[:port], or its address")
    port = text.rpartition(":")[2] if text.count(":") == 1 or "]:" in text else "22"
    if not 1 <= int(port) <= HIGHEST_PORT:
        raise ValueError(f"expected [user@]name[:port], the port from 1 to {HIGHEST_PORT}")
    return text


def all_different(hosts: list[str]) -> list[str]:
    """Give the hosts back if none is there twice: a deployment would find it locked, by itself.

    Raises:
        ValueError: one is.
    """
    seen: set[str] = set()
    for host in hosts:
        machine = host.rpartition("@")[2].removesuffix(":22").strip("[]").lower()
        if machine in seen:
            raise ValueError(f"{host} is there twice: expected each host once")
        seen.add(machine)
    return hosts


def name_of(text: str) -> str:
    """Give the name or address alone: no user, no port of SSH, no brackets."""
    rest = text.rpartition("@")[2]
    if rest.startswith("["):
        return rest[1:].partition("]")[0]
    return rest.partition(":")[0] if rest.count(":") == 1 else rest
