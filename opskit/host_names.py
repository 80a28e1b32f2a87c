"""How environments.yaml names a host: `[user@]name[:port]`, or an address."""

from __future__ import annotations

import re


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
    return text


def name_of(text: str) -> str:
    """Give the name or address alone: no user, no port of SSH, no brackets."""
    rest = text.rpartition("@")[2]
    if rest.startswith("["):
        return rest[1:].partition("]")[0]
    return rest.partition(":")[0] if rest.count(":") == 1 else rest
