"""The files that provisioning brings, rendered. Pure: no secret is in any of them."""

from __future__ import annotations

import ipaddress
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from opskit.environment import Environment
from opskit.render import templates

USER = "chat"
"""The user that the service runs as."""
_INTERNAL = ("local", "internal", "lan", "home.arpa", "test", "localhost", "invalid", "example")
"""Ends of names that no public authority certifies (RFC 6761, RFC 6762, RFC 8375)."""
_KEEPS_STREAMS = (2, 7)
"""The first version of Caddy that can leave WebSockets open when its configuration changes."""


def python_of(environment: Environment) -> str:
    """Give the interpreter on a host."""
    return f"/usr/bin/python{environment.python}"


def unit(environment: Environment) -> str:
    """Render the service's unit of systemd."""
    settings, layout = environment.settings, environment.layout
    timing = settings.timing
    return (
        templates()
        .get_template("systemd/chatservice.service.j2")
        .render(
            environment=environment.name,
            unit=environment.unit,
            user=USER,
            python=python_of(environment),
            current=layout.current,
            state=layout.state,
            run=layout.run,
            low_port=min(settings.service.port, settings.service.admin_port) < 1024,
            # Every member's socket and the listeners, twice: while one process relieves another.
            descriptors=2 * (settings.limits.connections + settings.limits.handshakes) + 1024,
            stored=settings.limits.connections + settings.limits.handshakes + 64,
            stop_seconds=round(timing.drain + timing.reconnect_spread + timing.close + 15),
        )
    )


def site(environment: Environment, host: str, caddy: tuple[int, ...]) -> str:
    """Render the proxy's site.

    Args:
        environment: what is served.
        host: the name or address of the host, as clients could reach it.
        caddy: the version of Caddy there.
    """
    bound = environment.settings.service
    upstream = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(  # noqa: S104 - recognised, not bound
        bound.host, bound.host
    )
    return (
        templates()
        .get_template("caddy/site.caddy.j2")
        .render(
            environment=environment.name,
            addresses=addresses(environment, host),
            internal=is_internal(environment),
            upstream=f"[{upstream}]:{bound.port}"
            if ":" in upstream
            else f"{upstream}:{bound.port}",
            keeps_streams=caddy >= _KEEPS_STREAMS,
        )
    )


def caddyfile(sites: PurePosixPath) -> str:
    """Render Caddy's main file: what holds for all sites, and where they are."""
    template = templates().get_template("caddy/Caddyfile.j2")
    return template.render(sites=sites)


def addresses(environment: Environment, host: str) -> list[str]:
    """Give the addresses that the proxy answers to.

    Where its own authority certifies, the host's own is one of them, so that each host can be
    reached by itself.
    """
    url = urlsplit(environment.base_url)
    found = [environment.base_url]
    if is_internal(environment):
        name = f"[{host}]" if ":" in host else host
        port = f":{url.port}" if url.port else ""
        found.append(f"{url.scheme}://{name}{port}")
    return list(dict.fromkeys(found))


def is_internal(environment: Environment) -> bool:
    """Say whether no public authority certifies the environment's name: Caddy's own does then."""
    url = urlsplit(environment.base_url)
    name = url.hostname or ""
    if url.scheme != "https":
        return False
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return "." not in name or name.endswith(tuple(f".{end}" for end in _INTERNAL))
    return True
