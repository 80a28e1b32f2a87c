"""The admin port, on loopback: metrics for Prometheus, and the workspaces behind them."""

from __future__ import annotations

import asyncio
from typing import Final, cast
from urllib.parse import parse_qsl

from websockets.http11 import Request, Response
from websockets.server import ServerProtocol

from chatservice.metrics import CONTENT_TYPE, Metrics
from chatservice.routes import RequestError, error_response, json_response, text_response
from chatservice.top import MOST, RANKS

TIMEOUT: Final = 10.0
"""Seconds that one request may take, from connecting to having read the answer."""


class AdminConnection(asyncio.Protocol):
    """One HTTP request of the admin port: `GET /metrics`, or `/top?by=messages&limit=10`."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._http = ServerProtocol()
        self._transport: asyncio.Transport | None = None
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport, but not for ever."""
        self._transport = cast(asyncio.Transport, transport)
        loop = asyncio.get_running_loop()
        self._deadline = loop.call_later(TIMEOUT, self._transport.abort)

    def connection_lost(self, error: Exception | None) -> None:
        """It is over."""
        if self._deadline is not None:
            self._deadline.cancel()

    def data_received(self, data: bytes) -> None:
        """Answer the request once it is whole, and close."""
        assert self._transport is not None
        self._http.receive_data(data)
        for event in self._http.events_received():
            if isinstance(event, Request):
                self._answer(event)
        for chunk in self._http.data_to_send():
            if chunk:
                self._transport.write(chunk)
            else:
                self._transport.close()

    def _answer(self, request: Request) -> None:
        if request.method != "GET":
            response = error_response(RequestError(405, "only GET is answered here"))
        elif request.path.partition("?")[0] == "/metrics":
            response = text_response(self._metrics.exposition(), content_type=CONTENT_TYPE)
        elif request.path.partition("?")[0] == "/top":
            response = self._top(request.path.partition("?")[2])
        else:
            response = error_response(RequestError(404, "only /metrics and /top are here"))
        self._http.send_response(response)

    def _top(self, query: str) -> Response:
        """Rank the workspaces."""
        asked = dict(parse_qsl(query))
        by, limit = asked.get("by", RANKS[0]), asked.get("limit", "10")
        if by not in RANKS:
            return error_response(RequestError(400, f"by: expected one of {', '.join(RANKS)}"))
        if not (limit.isascii() and limit.isdigit() and 1 <= int(limit[:9]) <= MOST):
            return error_response(RequestError(400, f"limit: expected a number from 1 to {MOST}"))
        ranking = self._metrics.top.ranking(by, int(limit))
        return json_response(ranking)
