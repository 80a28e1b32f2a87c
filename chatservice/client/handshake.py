"""Opening a connection: where to, with which token, and what a refusal means."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping
from ssl import SSLContext
from typing import Any, Final, Literal
from urllib.parse import quote, urlencode, urlsplit, urlunsplit

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus
from websockets.http11 import Response
from websockets.typing import Origin, Subprotocol

from chatservice.client.errors import Refused
from chatservice.protocol import SUBPROTOCOL, TOKEN_SUBPROTOCOL_PREFIX

TokenSource = str | Callable[[], str | Awaitable[str]] | None
"""A token, or what gives a fresh one at each connecting; None or "" for none at all."""
TokenPlace = Literal["header", "subprotocol", "query"]

MAX_FRAME: Final = 64 * 1024 * 1024
"""Bytes. A page of 1,000 messages of 4,000 characters fits, whatever their script."""
MAX_RETRY_AFTER: Final = 300.0
"""Seconds. A server may ask for patience, not for more than this."""
CLOSE_SECONDS: Final = 2.0
"""How long a closing handshake may take."""

# The library logs whole handshakes, token included, at DEBUG.
_library_log = logging.getLogger("chatservice.client.library")
_library_log.setLevel(logging.WARNING)


class TokenUnavailable(Exception):
    """The program's own source of tokens failed; it is asked again at the next try."""


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """Where a client connects to, and how."""

    url: str
    workspace: str
    token_in: TokenPlace
    origin: str | None
    ssl: SSLContext | None
    headers: Mapping[str, str]
    proxy: str | Literal[True] | None
    open_timeout: float

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("ws", "wss", "http", "https") or not parts.hostname:
            raise ValueError(f"{self.url!r} is no address of the form wss://host[:port]")
        if not self.workspace:
            raise ValueError("the workspace is empty")

    def uri(self, query: Mapping[str, str]) -> str:
        """Give the address to connect to."""
        parts = urlsplit(self.url)
        scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
        workspace = quote(self.workspace, safe="")
        path = f"{parts.path.rstrip('/')}/api/chat/workspace/{workspace}/connect"
        return urlunsplit((scheme, parts.netloc, path, urlencode(query), ""))

    async def open(self, token: str, resume: Mapping[str, str]) -> ClientConnection:
        """Connect.

        Raises:
            Refused: the server answered with another status than 101.
            OSError: there is no way to the server.
            TimeoutError: it took longer than `open_timeout`.
            WebSocketException: what answered is no WebSocket server.
        """
        headers = dict(self.headers)
        subprotocols = [Subprotocol(SUBPROTOCOL)]
        query = dict(resume)
        if token and self.token_in == "header":  # noqa: S105 - a place, not a password
            headers["Authorization"] = f"Bearer {token}"
        elif token and self.token_in == "subprotocol":  # noqa: S105
            subprotocols.append(Subprotocol(TOKEN_SUBPROTOCOL_PREFIX + token))
        elif token:
            query["token"] = token
        more: dict[str, Any] = {} if self.ssl is None else {"ssl": self.ssl}
        try:
            return await _Connect(
                self.uri(query),
                origin=None if self.origin is None else Origin(self.origin),
                subprotocols=subprotocols,
                additional_headers=headers,
                compression=None,
                proxy=self.proxy,
                open_timeout=self.open_timeout,
                ping_interval=None,
                close_timeout=CLOSE_SECONDS,
                max_size=MAX_FRAME,
                logger=_library_log,
                **more,
            )
        except InvalidStatus as error:
            raise _refusal(error.response) from None


class _Connect(connect):
    """Follows no redirect: it would carry the token to an address that nobody named."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


def _refusal(response: Response) -> Refused:
    """Read the answer of a server that refused."""
    body = bytes(response.body or b"")
    try:
        message = str(msgspec.json.decode(body)["error"])
    except (msgspec.DecodeError, KeyError, TypeError, IndexError):
        message = body.decode("utf-8", "replace").strip() or response.reason_phrase
    after = response.headers.get_all("Retry-After")
    retry_after = min(float(after[0]), MAX_RETRY_AFTER) if after and after[0].isdecimal() else None
    return Refused(response.status_code, message[:500], retry_after)


async def current_token(source: TokenSource) -> str:
    """Give the token to connect with.

    Raises:
        TokenUnavailable: the source failed.
    """
    if source is None or isinstance(source, str):
        return source or ""
    try:
        given = source()
        return (await given if inspect.isawaitable(given) else given) or ""
    except Exception as error:
        raise TokenUnavailable(f"the source of tokens failed: {error!r}") from error
