"""Who gets in: every HTTP request of the public port, up to the welcome of a member.

Nothing is upgraded before all of it is known to work: the token, the limits, the room and the
member's past. So a refusal is an HTTP status, and never a broken WebSocket.
"""

from __future__ import annotations

import asyncio
import os
import platform
import time
from collections.abc import Callable
from typing import Any, Final

import msgspec
from websockets.http11 import Request, Response

from chatservice.auth import (
    Authenticator,
    AuthError,
    Identity,
    UnknownKey,
    require_workspace,
    token_from_request,
)
from chatservice.config import Settings
from chatservice.connection import Connection
from chatservice.fanout import LiveRoom
from chatservice.health import StoreHealth
from chatservice.http_api import OPERATIONS, HttpApi
from chatservice.limits import ConnectionCounts
from chatservice.logs import get_logger
from chatservice.metrics import Metrics
from chatservice.protocol import CloseCode
from chatservice.rooms import Rooms
from chatservice.routes import (
    Place,
    RequestError,
    Route,
    check_origin,
    error_response,
    json_response,
    number,
    origin_of,
    parse_target,
    preflight_response,
    text_response,
)
from chatservice.store import SchemaVersion, Store, StoreError, StoreErrorKind
from chatservice.tasks import Tasks

log = get_logger("admission")

RETRY_SECONDS: Final = 1.0
"""`Retry-After` of a 503 that passes by itself: draining, or the store does not answer."""


class Build(msgspec.Struct, frozen=True):
    """What runs here; `/version` says it."""

    release: str
    commit: str
    schema: SchemaVersion


class Admission:
    """Answers HTTP requests, and lets members in.

    `welcome` is told of each new member just before it is upgraded; from then on, its closing is
    `connections`' to handle, the count of them included.
    """

    def __init__(
        self,
        settings: Settings,
        build: Build,
        authenticator: Authenticator,
        rooms: Rooms,
        store: Store,
        health: StoreHealth,
        metrics: Metrics,
        counts: ConnectionCounts,
        *,
        welcome: Callable[[Connection, LiveRoom], None],
    ) -> None:
        self._settings = settings
        self._welcome = welcome
        self._build = build
        self._authenticator = authenticator
        self._rooms = rooms
        self._store = store
        self._health = health
        self._metrics = metrics
        self._api = HttpApi(rooms, store, metrics, page=settings.history.page)
        self._origins = frozenset(origin.lower() for origin in settings.auth.origins)
        self._loop = asyncio.get_running_loop()
        self._tasks = Tasks()
        self._started = time.time()
        self.counts = counts
        self.draining = False

    def handle(self, connection: Connection, request: Request) -> None:
        """Answer a request; reading from the connection is paused until then."""
        self._tasks.spawn(self._answer(connection, request))

    @property
    def busy(self) -> bool:
        """Whether a request is being answered."""
        return bool(self._tasks)

    async def _answer(self, connection: Connection, request: Request) -> None:
        route: Route | None = None
        origin: str | None = None
        response: Response | None
        try:
            route = parse_target(request.path)
            asked = origin_of(request)
            check_origin(asked, self._origins)
            origin = connection.origin = asked
            response = await self._respond(connection, request, route, origin)
        except RequestError as error:
            response = error_response(error, origin=origin)
        except StoreError:
            unreadable = RequestError(503, "the store does not answer", RETRY_SECONDS)
            response = error_response(unreadable, origin=origin)
        except Exception:
            self._bug("bug while answering a request", connection)
            response = error_response(RequestError(500, "internal error"), origin=origin)
        if response is not None:
            if request.method == "HEAD":  # which a body must not follow (RFC 9110, 9.3.2)
                response.body = b""
            self._refused(connection, route, response.status_code)
            connection.respond(response)

    def _bug(self, what: str, connection: Connection) -> None:
        """Log and count the exception that is being handled."""
        log.exception(what, conn=connection.id)
        self._metrics.room_errors[StoreErrorKind.INTERNAL].inc()

    def _refused(self, connection: Connection, route: Route | None, status: int) -> None:
        """Count and log what did not become a member."""
        if status < 400:
            return
        if route is None:
            if status == 400:  # of a path that may have been meant for anything
                self._metrics.handshakes["bad_request"].inc()
            self._metrics.requests["invalid", _result(status)].inc()
            return
        if route.place is Place.CONNECT:
            result = _handshake_result(status)
            if connection.gone:  # while it was to be answered
                result = unfinished(connection.reason)
                status = 400
            self._metrics.handshakes[result].inc()
            self._metrics.requests["connect", _result(status)].inc()
            log.info(
                "refused", conn=connection.id, peer=connection.peer, result=result,
                workspace=route.workspace,
            )  # fmt: skip
        elif route.place in (Place.MESSAGES, Place.MEMBERS):
            self._metrics.requests[OPERATIONS[route.place], _result(status)].inc()

    async def _respond(
        self, connection: Connection, request: Request, route: Route, origin: str | None
    ) -> Response | None:
        """Give the answer, or None when the connection became a member's."""
        if request.method == "OPTIONS" and route.workspace:
            return preflight_response(origin)
        if request.method != "GET":
            raise RequestError(405, "only GET is answered here")
        match route.place:
            case Place.HEALTH:
                return text_response(b"ok\n")
            case Place.READY:
                return self._readiness()
            case Place.VERSION:
                return json_response(self.version())
            case Place.CONNECT:
                return await self._connect(connection, request, route)
            case Place.MESSAGES | Place.MEMBERS:
                await self._identify(request, route)
                return json_response(await self._api.answer(route), origin=origin)

    # --- open to all ---------------------------------------------------------------------

    def version(self) -> dict[str, Any]:
        """Say what runs."""
        return {
            "release": self._build.release,
            "commit": self._build.commit,
            "schema": self._build.schema.version,
            "pid": os.getpid(),
            "python": platform.python_version(),
            "started": self._started,
        }

    def _readiness(self) -> Response:
        reason = "draining" if self.draining else self._health.reason
        ready = not reason
        body: dict[str, Any] = {"ready": ready}
        if not ready:
            kind = "draining" if self.draining else self._health.kind
            body |= {"reason": reason, "kind": kind}
        return json_response(body, status=200 if ready else 503)

    # --- with a token --------------------------------------------------------------------

    async def _identify(self, request: Request, route: Route) -> tuple[Identity, str]:
        """Check who asks, and that the workspace is theirs; give the token, too.

        Raises:
            RequestError: 401 or 403; 503 where the keys to check with are not to be had.
        """
        token = token_from_request(request.headers, route.query)
        if not token:
            raise RequestError(401, "a token is required")
        try:
            identity = await self._authenticator.verify_refreshing(token)
            require_workspace(identity, route.workspace)
        except AuthError as error:
            raise RequestError(error.status, str(error), error.retry_after) from None
        return identity, token

    # --- becoming a member ---------------------------------------------------------------

    async def _connect(
        self, connection: Connection, request: Request, route: Route
    ) -> Response | None:
        started = self._loop.time()
        after = number(route.query, "after")
        if self.draining:
            raise RequestError(503, "the service restarts", RETRY_SECONDS)
        identity, token = await self._identify(request, route)
        upgrade = connection.accept(request)
        if upgrade.status_code != 101:
            why = bytes(upgrade.body).decode().partition("\n")[0]
            raise RequestError(upgrade.status_code, why)
        if not self._health.readable and not self._rooms.get(route.workspace):
            raise RequestError(503, "the store does not answer", RETRY_SECONDS)
        refusal = self.counts.admit(identity.user, route.workspace)
        if refusal is not None:
            raise RequestError(refusal.status, refusal.message, refusal.retry_after)
        try:
            await self._enter(connection, identity, token, route, after, upgrade)
        except BaseException:
            self.counts.release(identity.user, route.workspace)
            raise
        self._metrics.requests["connect", "ok"].inc()
        self._metrics.request_duration["connect"].observe(self._loop.time() - started)
        return None

    async def _enter(
        self,
        connection: Connection,
        identity: Identity,
        token: str,
        route: Route,
        after: int | None,
        upgrade: Response,
    ) -> None:
        """Read the room and the member's past, then upgrade and welcome in one write."""
        workspace = route.workspace
        epoch = route.query.get("epoch")
        live = await self._rooms.reached(workspace)
        load = live.room.join(connection, identity.user, identity.name, after=after, epoch=epoch)
        try:
            entry = await self._rooms.reading.measured(
                "enter",
                lambda: self._store.enter(
                    workspace,
                    load.user,
                    load.name,
                    upto=load.upto,
                    after=load.after,
                    newest=self._settings.history.newest,
                ),
                live,
            )
            if connection.gone or self.draining or live.stale:
                raise RequestError(503, "the service restarts", RETRY_SECONDS)
        except BaseException:
            live.leave(connection, self._loop.time())
            self._rooms.watch(live)
            raise
        connection.user, connection.name = identity.user, identity.name
        connection.workspace = workspace
        self.identify(connection, identity, token)
        self._welcome(connection, live)
        try:
            connection.respond(upgrade)
            live.carry_out(live.room.entered(connection, entry))
            live.flush()
            connection.settle()
        except Exception:  # it is the server's already, so it is closed and not refused
            self._bug("bug while welcoming a member", connection)
            connection.abort("error")
            return
        result = "resumed" if entry.resumed else "fresh" if after is None else "reset"
        self._metrics.resumes[result].inc()
        self._metrics.handshakes["accepted"].inc()
        log.info(
            "member joined", conn=connection.id, peer=connection.peer, user=connection.user,
            workspace=workspace, result=result,
        )  # fmt: skip

    def identify(self, connection: Connection, identity: Identity, token: str) -> None:
        """Note what a member showed, and have it closed when that is no longer accepted."""
        connection.token = token
        self.set_expiry(connection, identity.exp)

    def set_expiry(self, connection: Connection, exp: int) -> None:
        """Have the connection closed when its token is no longer accepted."""
        connection.exp = exp
        seconds = exp + self._settings.auth.leeway - time.time()
        connection.expire_at(self._loop.time() + seconds)

    def why_not(self, connection: Connection) -> tuple[CloseCode, str, str] | None:
        """Say why somebody let in by another process may not stay: code, text and reason."""
        try:
            check_origin(connection.origin, self._origins)
            require_workspace(self._authenticator.verify(connection.token), connection.workspace)
        except RequestError:
            return CloseCode.FORBIDDEN, "this origin is no longer allowed", "forbidden"
        except UnknownKey:  # which the key set may have in a moment; the token expires
            return None
        except AuthError as error:
            if error.status == 403:
                return CloseCode.FORBIDDEN, "no longer allowed here", "forbidden"
            return CloseCode.TOKEN_EXPIRED, "the token is no longer valid", "token_expired"
        return None


def unfinished(reason: str) -> str:
    """Say how an attempt to connect is counted whose connection ended first, by its reason."""
    return {"timeout": "timeout", "protocol_error": "bad_request"}.get(reason, "abandoned")


def _handshake_result(status: int) -> str:
    if status >= 500 and status != 505:
        return "unavailable"
    return {401: "unauthorized", 403: "forbidden", 429: "too_many"}.get(status, "bad_request")


def _result(status: int) -> str:
    return "error" if status >= 500 and status != 505 else "client_error"
