"""The real service as a target of the smoke test."""

from __future__ import annotations

import asyncio
import secrets
from functools import partial
from typing import Any, Final

from chatservice.auth import sign
from chatservice.control import ask
from checks.smoke import SmokeTarget
from tests.service_process import ServiceProcess

ORIGINS: Final = ("https://chat.example", "http://localhost:3000")
SETTINGS: Final[dict[str, dict[str, Any]]] = {
    "auth": {"origins": list(ORIGINS)},
    "timing": {"presence_grace": 1.0},
}
"""With a grace period that a reconnect fits into even on a busy machine."""


def target_of(service: ServiceProcess, **changes: Any) -> SmokeTarget:
    """Describe a service as it is configured now, whatever it does, or is told later."""
    settings, path = service.settings, service.settings.control_socket

    async def forget(workspace: str) -> None:
        await asyncio.to_thread(ask, path, "forget", workspace=workspace)

    given: dict[str, Any] = {
        "base_url": service.url,
        "sign": partial(sign, service.secret),
        "sign_bad": partial(sign, secrets.token_hex(32)),
        "origins": tuple(settings.auth.origins),
        "presence_grace": settings.timing.presence_grace,
        "history_keep": settings.history.keep,
        "text_limit": settings.limits.text,
        "cleanup": forget,
    }
    return SmokeTarget(**given | changes)
