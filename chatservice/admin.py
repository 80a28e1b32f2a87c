"""The admin port, on loopback: metrics for Prometheus."""

from __future__ import annotations

import asyncio
from typing import cast

from websockets.http11 import Request
from websockets.server import ServerProtocol

from chatservice.metrics import CONTENT_TYPE, Metrics
from chatservice.routes import RequestError, error_response, text_response


class AdminConnection(asyncio.Protocol):
    """One HTTP request of the admin port: `GET /metrics`."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._http = ServerProtocol()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)

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
        if request.path.partition("?")[0] == "/metrics":
            response = text_response(self._metrics.exposition(), content_type=CONTENT_TYPE)
        else:
            response = error_response(RequestError(404, "only /metrics is here"))
        self._http.send_response(response)
