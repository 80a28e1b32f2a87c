"""The admin port, on loopback: metrics for Prometheus."""

from __future__ import annotations

import asyncio
from typing import Final, cast

from websockets.http11 import Request
from websockets.server import ServerProtocol

from chatservice.metrics import CONTENT_TYPE, Metrics
from chatservice.routes import RequestError, error_response, text_response

TIMEOUT: Final = 10.0
"""Seconds that one request may take, from connecting to having read the answer."""


class AdminConnection(asyncio.Protocol):
    """One HTTP request of the admin port: `GET /metrics`."""

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
        else:
            response = error_response(RequestError(404, "only /metrics is here"))
        self._http.send_response(response)
