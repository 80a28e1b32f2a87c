"""One run of the smoke test: what is fixed for all its checks, and how they reach the service.

What a run asks of the service is never broken off, but seen through: a request whose sender went
away is carried out all the same, may be after its workspace was forgotten, and makes it anew.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidHandshake, InvalidStatus
from websockets.typing import Origin, Subprotocol

from chatservice.client import ChatClient, NotConnected
from chatservice.protocol import SUBPROTOCOL, TOKEN_SUBPROTOCOL_PREFIX
from checks.smoke.check import CheckFailed
from checks.smoke.device import CLOSE_TIMEOUT, Device
from checks.smoke.target import (
    SmokeTarget,
    is_loopback,
    through_proxy,
    websocket_url,
    workspace_path,
)

MAX_FRAME: Final = 16 * 1024 * 1024
"""Bytes; the longest page of history fits."""

T = TypeVar("T")


class TurnedAway(Exception):
    """The upgrade was answered with another status than 101."""

    def __init__(self, status: int, body: str) -> None:
        super().__init__(f"{status} {body}".strip())
        self.status = status


@dataclass
class Run:
    """One run of the smoke test: what is fixed for all its checks.

    Attributes:
        target: the service.
        users: how many users talk to each other.
        delivery_bound: seconds within which a message must have reached everybody.
        nodes: base URLs to spread the connections over.
        patience: seconds to wait for what has no bound of its own.
        workspace: what all workspaces of the run begin with.
        touched: the workspaces that may exist now, and must be forgotten afterwards.
        devices: every device that is connected, or was.
    """

    target: SmokeTarget
    users: int
    delivery_bound: float
    nodes: tuple[str, ...]
    patience: float
    workspace: str
    touched: dict[str, None] = field(default_factory=dict)
    devices: list[Device] = field(default_factory=list)

    def __post_init__(self) -> None:
        secure = any(node.startswith("https") for node in self.nodes)
        self.tls = ssl.create_default_context() if secure else None
        if self.tls is not None and self.target.certificates:
            self.tls.load_verify_locations(cadata=self.target.certificates)
        self._stack = AsyncExitStack()
        self._joined = 0
        self._clients: dict[bool, httpx.AsyncClient] = {}
        self._abandoned: dict[asyncio.Task[Any], str] = {}

    async def close(self, seconds: float) -> list[str]:
        """Wait for answers that are still to come, then close every connection that there is.

        Where this is cancelled it can be called again.

        Args:
            seconds: how long to wait; each answer is waited for `patience` at most in any case.

        Returns:
            What was asked and not answered, and may be carried out later.
        """
        if self._abandoned:
            await asyncio.wait(self._abandoned, timeout=seconds)
        unanswered = [what for task, what in self._abandoned.items() if _unanswered(task)]
        for task in self._abandoned:
            task.cancel()
        await asyncio.gather(*self._abandoned, return_exceptions=True)
        self._abandoned.clear()
        await self._stack.aclose()
        return unanswered

    async def _see_through(self, what: str, work: Coroutine[Any, Any, T]) -> T:
        """Await something that the service may be acting on; `close` does where nobody else does.

        Args:
            what: what is asked of the service, for people.
            work: asks it, and ends by itself within `patience`.
        """
        task = asyncio.ensure_future(work)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self._abandoned[task] = what
            raise

    def next_node(self) -> str:
        """Give the base URL for the next connection, in turns."""
        node = self.nodes[self._joined % len(self.nodes)]
        self._joined += 1
        return node

    async def request(self, method: str, url: str, **headers: str) -> httpx.Response:
        """Make a plain HTTP request; `_` in the names of headers stands for `-`.

        Raises:
            CheckFailed: there was no answer.
        """
        client = await self._client(direct=is_loopback(url))
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            return await self._see_through(
                f"{method} {url}",
                asyncio.wait_for(client.request(method, url, headers=named), self.patience),
            )
        except (TimeoutError, httpx.TimeoutException):
            why = f"was not answered in {self.patience:g} s{through_proxy(url)}"
            raise CheckFailed(f"{method} {url} {why}") from None
        except (httpx.HTTPError, OSError) as error:
            why = f"was not answered{through_proxy(url)}: {_reason(error)}"
            raise CheckFailed(f"{method} {url} {why}") from None

    async def _client(self, *, direct: bool) -> httpx.AsyncClient:
        """Give the HTTP client that asks the environment's proxy, or the one that asks none."""
        if direct not in self._clients:
            # Without an https node there is nothing to verify, and no certificates to load.
            client = httpx.AsyncClient(
                verify=self.tls or False, timeout=self.patience, trust_env=not direct
            )
            self._clients[direct] = await self._stack.enter_async_context(client)
        return self._clients[direct]

    async def upgrade(
        self,
        node: str,
        workspace: str,
        *,
        token: str | None,
        carrier: str = "header",
        origin: str | None = None,
        **query: str | int | None,
    ) -> ClientConnection:
        """Ask for a WebSocket connection.

        Args:
            node: the base URL.
            workspace: the workspace to enter.
            token: the token, or None to send none.
            carrier: how the token travels: `header`, `subprotocol` or `query`.
            origin: the page that asks, as a browser says it.
            query: parameters of the address.

        Raises:
            TurnedAway: the service said no.
            CheckFailed: there was no answer, or one that is not HTTP.
        """
        self.touched[workspace] = None
        subprotocols = [SUBPROTOCOL]
        headers: dict[str, str] = {}
        if token is not None and carrier == "header":
            headers["Authorization"] = f"Bearer {token}"
        elif token is not None and carrier == "subprotocol":
            subprotocols.append(TOKEN_SUBPROTOCOL_PREFIX + token)
        elif token is not None:
            query["token"] = token
        path = workspace_path(workspace, "connect")
        try:
            return await self._see_through(
                f"the upgrade to {websocket_url(node, path)}",
                self._open(
                    websocket_url(node, path, **query),
                    origin=Origin(origin) if origin is not None else None,
                    additional_headers=headers,
                    subprotocols=[Subprotocol(name) for name in subprotocols],
                    proxy=None if is_loopback(node) else True,
                    open_timeout=self.patience,
                    ssl=self.tls if node.startswith("https") else None,
                ),
            )
        except InvalidStatus as error:
            body = bytes(error.response.body or b"").decode("utf-8", "replace")
            raise TurnedAway(error.response.status_code, body.strip()[:200]) from None
        except TimeoutError:
            why = f"no answer within {self.patience:g} s"
        except (OSError, EOFError, InvalidHandshake) as error:
            why = _reason(error)
        raise CheckFailed(f"no connection to {websocket_url(node, path)}: {why}")

    async def _open(self, url: str, **how: Any) -> ClientConnection:
        connection = await connect(
            url,
            compression=None,
            ping_interval=None,
            close_timeout=CLOSE_TIMEOUT,
            max_size=MAX_FRAME,
            **how,
        )
        self._stack.callback(connection.transport.abort)  # does nothing once it is closed
        return connection

    async def enter(self, workspace: str, client: ChatClient) -> None:
        """Have the project's own client connect, with `connect_timeout` within `patience`.

        It is closed with the run at the latest. Raises what `ChatClient.connect` raises.
        """
        self.touched[workspace] = None
        self._stack.push_async_callback(client.close)
        await self._see_through(f"the client's upgrade to {workspace}", client.connect())


def _unanswered(task: asyncio.Task[Any]) -> bool:
    """Whether what was asked may have reached the service, which has said nothing yet."""
    if not task.done() or task.cancelled():
        return True
    return isinstance(task.exception(), TimeoutError | httpx.TimeoutException | NotConnected)


def _reason(error: BaseException) -> str:
    """Say what an exception means; some have no message of their own."""
    return str(error) or type(error).__name__
