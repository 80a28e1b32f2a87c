"""What the running process is asked on its control socket: state and workspaces.

The orders that end its service are in `relief`.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any

from chatservice.config import CHECKS_PREFIX
from chatservice.control import ControlError, Order, Reply, uptime
from chatservice.rooms import RoomBusyError
from chatservice.server import ChatServer
from chatservice.store import StoreError


class Orders:
    """Answers orders about a server.

    Args:
        server: the server.
        more: gives what else `status` tells.
    """

    def __init__(self, server: ChatServer, more: Callable[[], Reply]) -> None:
        self._server = server
        self._more = more
        self._started = time.time()

    def all(self) -> dict[str, Order]:
        """Give each order's name, and what carries it out."""
        return {"status": self._status, "forget": self._forget, "sweep": self._sweep}

    async def _status(self, _: Mapping[str, Any], __: socket.socket) -> Reply:
        server = self._server
        reason = "draining" if server.admission.draining else server.health.reason
        return {
            "ok": True,
            **server.admission.version(),
            "uptime": uptime(self._started),
            "ready": not reason,
            "reason": reason,
            "connections": server.admission.counts.total,
            "rooms": len(server.rooms),
            "database_bytes": await self._database_bytes(),
            **self._more(),
        }

    async def _database_bytes(self) -> int | None:
        try:
            return await self._server.store.size_bytes()
        except StoreError:
            return None

    async def _forget(self, order: Mapping[str, Any], _: socket.socket) -> Reply:
        workspace = str(order.get("workspace", ""))
        if not workspace.startswith(CHECKS_PREFIX):
            raise ControlError(f"only workspaces named {CHECKS_PREFIX}... can be forgotten")
        try:
            return {"ok": True, "forgotten": await self._server.rooms.forget(workspace)}
        except RoomBusyError:
            raise ControlError(f"{workspace} has members; close their connections first") from None
        except StoreError as error:
            raise ControlError(str(error)) from None

    async def _sweep(self, order: Mapping[str, Any], _: socket.socket) -> Reply:
        seconds = order.get("seconds")
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or seconds < 0:
            raise ControlError("sweep needs a number of seconds")
        before = int(max(0.0, time.time() - seconds) * 1000)
        forgotten = []
        try:
            for workspace in await self._server.store.idle_workspaces(CHECKS_PREFIX, before):
                with contextlib.suppress(RoomBusyError):
                    if await self._server.rooms.forget(workspace):
                        forgotten.append(workspace)
        except StoreError as error:
            raise ControlError(str(error)) from None
        return {"ok": True, "forgotten": forgotten}
