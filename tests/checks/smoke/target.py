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
PRESENCE_GRACE: Final = 0.6

SETTINGS: Final[dict[str, dict[str, Any]]] = {
    "auth": {"origins": list(ORIGINS)},
    "timing": {"presence_grace": PRESENCE_GRACE},
}
"""What the service is configured with; the target promises the same."""


def target_of(service: ServiceProcess, **changes: Any) -> SmokeTarget:
    """Describe a service as it was meant to be configured, whatever it does."""
    path = service.settings.control_socket

    async def forget(workspace: str) -> None:
        await asyncio.to_thread(ask, path, "forget", workspace=workspace)

    given: dict[str, Any] = {
        "base_url": service.url,
        "sign": partial(sign, service.secret),
        "sign_bad": partial(sign, secrets.token_hex(32)),
        "origins": ORIGINS,
        "presence_grace": PRESENCE_GRACE,
        "history_keep": 1000,
        "text_limit": 4000,
        "cleanup": forget,
    }
    return SmokeTarget(**given | changes)
