"""The HTTP side of the public port: which path means what, and how an answer looks.

Pure functions over the library's `Request` and `Response`; who may have what is decided by the
server. Cross-origin rules follow the Fetch standard (https://fetch.spec.whatwg.org/#http-cors-protocol).
"""

from __future__ import annotations

import http
import re
from collections.abc import Collection, Mapping
from enum import Enum
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec
from websockets.datastructures import Headers, MultipleValuesError
from websockets.http11 import Request, Response

WORKSPACE_ID: Final = re.compile(r"[A-Za-z0-9._~-]{1,64}")
_WORKSPACE_PATH: Final = re.compile(r"/api/chat/workspace/([^/]*)/(connect|messages|members)")
_NUMBER: Final = re.compile(r"[0-9]{1,15}")


class Place(Enum):
    """What a path leads to."""

    CONNECT = "connect"
    MESSAGES = "messages"
    MEMBERS = "members"
    HEALTH = "/healthz"
    READY = "/readyz"
    VERSION = "/version"


class Route(msgspec.Struct, frozen=True):
    """A parsed request target. `workspace` is empty where the place has none."""

    place: Place
    workspace: str
    query: Mapping[str, str]


class RequestError(Exception):
    """The request is answered with this status and text, and the connection is closed."""

    def __init__(self, status: int, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


def parse_target(path: str) -> Route:
    """Parse a request target.

    Raises:
        RequestError: 404 for an unknown path, 400 for a malformed one or workspace id.
    """
    try:
        parts = urlsplit(path)
    except ValueError:  # a bracket that is not closed after //
        raise RequestError(400, "the path is malformed") from None
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    if match := _WORKSPACE_PATH.fullmatch(parts.path):
        workspace = unquote(match[1])
        if not WORKSPACE_ID.fullmatch(workspace):
            raise RequestError(
                400, "the workspace id must have 1 to 64 of the characters A-Z a-z 0-9 . _ ~ -"
            )
        return Route(Place(match[2]), workspace, query)
    for place in (Place.HEALTH, Place.READY, Place.VERSION):
        if parts.path == place.value:
            return Route(place, "", query)
    raise RequestError(404, "no such path; the service answers under /api/chat/workspace/")


def number(query: Mapping[str, str], name: str, default: int | None = None) -> int | None:
    """Give a query parameter that must be a whole number of at least 0.

    Raises:
        RequestError: 400, it is something else.
    """
    value = query.get(name)
    if value is None:
        return default
    if not _NUMBER.fullmatch(value):
        raise RequestError(400, f"{name} must be a whole number")
    return int(value)


def origin_of(request: Request) -> str | None:
    """Give the Origin header; None where there is none.

    Raises:
        RequestError: 400, there are several.
    """
    try:
        return request.headers.get("Origin")
    except MultipleValuesError:
        raise RequestError(400, "more than one Origin header") from None


def check_origin(origin: str | None, allowed: Collection[str]) -> None:
    """Let through what is no browser's, and a browser's from an allowed origin (or any, if empty).

    Raises:
        RequestError: 403, another site's page asks.
    """
    if allowed and origin is not None and origin.lower() not in allowed:
        raise RequestError(403, "this origin is not allowed; see auth.origins in the settings")


def json_response(value: Any, *, status: int = 200, origin: str | None = None) -> Response:
    """Answer with JSON; `origin` is the checked origin of the page that may read it."""
    return _response(status, "application/json", msgspec.json.encode(value) + b"\n", origin)


def text_response(
    body: bytes, *, content_type: str = "text/plain; charset=utf-8", status: int = 200
) -> Response:
    """Answer with text."""
    return _response(status, content_type, body, None)


def error_response(error: RequestError, *, origin: str | None = None) -> Response:
    """Answer with an error, as JSON with the one key `error`."""
    body = msgspec.json.encode({"error": str(error)}) + b"\n"
    response = _response(error.status, "application/json", body, origin)
    if error.retry_after is not None:
        response.headers["Retry-After"] = str(max(1, round(error.retry_after)))
    if error.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    if error.status == 405:
        response.headers["Allow"] = "GET, OPTIONS"
    if error.status == 426:
        response.headers["Upgrade"] = "websocket"
    return response


def preflight_response(origin: str | None) -> Response:
    """Answer a browser that asks beforehand whether a page may send a token."""
    response = _response(204, "", b"", origin)
    if origin is not None:
        response.headers["Access-Control-Allow-Methods"] = "GET"
        response.headers["Access-Control-Allow-Headers"] = "Authorization"
        response.headers["Access-Control-Max-Age"] = "600"
    return response


def _response(status: int, content_type: str, body: bytes, origin: str | None) -> Response:
    headers = Headers()
    headers["Connection"] = "close"
    headers["Cache-Control"] = "no-store"
    if content_type:
        headers["Content-Type"] = content_type
    if status != 204:
        headers["Content-Length"] = str(len(body))
    headers["Vary"] = "Origin"
    if origin is not None:
        headers["Access-Control-Allow-Origin"] = origin
    return Response(status, http.HTTPStatus(status).phrase, headers, body)
