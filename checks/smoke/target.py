"""What is tested, and the addresses that follow from it."""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode, urlsplit
from urllib.request import getproxies, proxy_bypass

WORKSPACE_PREFIX: Final = "smoke-"
"""Workspaces whose id starts so belong to the checks; only these may be forgotten."""


@dataclass(frozen=True)
class SmokeTarget:
    """One running chat service, how to get into it, and what it was configured to do.

    Attributes:
        base_url: `http(s)://host[:port]`; WebSocket addresses are derived from it.
        sign: `sign(user=, workspaces=[...], name=, ttl=)` gives a token that the service takes;
            `ttl` in seconds, and negative for a token that has expired.
        sign_bad: the same with a key that the service does not know.
        origins: the origins that the service allows; empty when it allows any.
        presence_grace: seconds after which someone who left counts as offline.
        history_keep: how many messages of a workspace are kept.
        text_limit: how many characters a message may have.
        certificates: PEM of authorities to trust beside the known ones; empty for none.
        cleanup: forgets the workspace with that name; None where the caller cannot.
    """

    base_url: str
    sign: Callable[..., str]
    sign_bad: Callable[..., str]
    origins: tuple[str, ...]
    presence_grace: float
    history_keep: int
    text_limit: int
    cleanup: Callable[[str], Awaitable[None]] | None
    certificates: str = ""

    def __post_init__(self) -> None:
        check_base_url(self.base_url)


def check_base_url(base_url: str) -> None:
    """Refuse what is no base URL.

    Raises:
        ValueError: it is not of the form `http(s)://host[:port]`.
    """
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(f"{base_url!r} is no base URL; expected http(s)://host[:port]")


def http_url(base_url: str, path: str, **query: str | int | None) -> str:
    """Give the address of a path; query parameters that are None are left out."""
    given = {name: value for name, value in query.items() if value is not None}
    return base_url.rstrip("/") + path + (f"?{urlencode(given)}" if given else "")


def websocket_url(base_url: str, path: str, **query: str | int | None) -> str:
    """Give the ws(s) address of a path; query parameters that are None are left out."""
    return "ws" + http_url(base_url, path, **query).removeprefix("http")


def workspace_path(workspace: str, place: str) -> str:
    """Give the path of `connect`, `messages` or `members` of a workspace."""
    return f"/api/chat/workspace/{workspace}/{place}"


def is_loopback(base_url: str) -> bool:
    """Whether the address names this very machine, which no proxy is asked for."""
    host = urlsplit(base_url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def through_proxy(url: str) -> str:
    """Say that an address is reached through a proxy, and how it is not; empty where it is not.

    Which proxy is not said: there may be a password in its address.
    """
    parts = urlsplit(url)
    name, proxies = parts.hostname or "", getproxies()
    if is_loopback(url) or proxy_bypass(name):
        return ""
    named = next((one for one in (parts.scheme, "all") if one in proxies), None)
    if named is None:
        return ""
    return f" through the proxy of {named.upper()}_PROXY (with NO_PROXY={name} none is asked)"
