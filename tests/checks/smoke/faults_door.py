"""Faults in the HTTP side: who is let in, and what the service says of itself."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from jwt.algorithms import HMACAlgorithm
from jwt.api_jwt import PyJWT

from chatservice import admission, routes, websocket
from chatservice.actions import Action, ToMember
from chatservice.auth import Authenticator
from chatservice.connection import Connection
from chatservice.fanout import LiveRoom
from chatservice.identity import Identity
from chatservice.limits import ConnectionCounts, Refusal
from chatservice.protocol import Authenticated, CloseCode, Error, ErrorCode, ServerFrame
from tests.checks.smoke.breaking import Actions, around, rewrite_actions, rewrite_frames


class _Everywhere(frozenset[str]):
    """A set of workspaces that has them all."""

    def __contains__(self, workspace: object) -> bool:
        return True


# --- what it says of itself ---------------------------------------------------------------


def unhealthy() -> None:
    """`/healthz` is 500."""
    around(
        admission,
        "text_response",
        lambda original, *args, **rest: original(*args, **rest | {"status": 500}),
    )


def unready() -> None:
    """`/readyz` is 503."""

    def json_response(original: Any, value: Any, **rest: Any) -> Any:
        if "ready" in value:
            return original({"ready": False, "reason": "disk full"}, status=503)
        return original(value, **rest)

    around(admission, "json_response", json_response)


def nameless() -> None:
    """`/version` does not name the release."""

    def json_response(original: Any, value: Any, **rest: Any) -> Any:
        return original({key: said for key, said in value.items() if key != "release"}, **rest)

    around(admission, "json_response", json_response)


# --- tokens -------------------------------------------------------------------------------


def full() -> None:
    """There is no room for anybody."""
    around(ConnectionCounts, "admit", lambda *_: Refusal(503, "full", 5))


def _check_tokens_in(seconds: float) -> None:
    async def verify_refreshing(original: Any, authenticator: Authenticator, token: str) -> Any:
        await asyncio.sleep(seconds)
        return await original(authenticator, token)

    around(Authenticator, "verify_refreshing", verify_refreshing)


def tokens_checked_slowly() -> None:
    """Whoever shows a token waits for longer than anybody has patience."""
    _check_tokens_in(15.0)


def tokens_checked_in_time() -> None:
    """Whoever shows a token waits for half a second, as when a key set is fetched."""
    _check_tokens_in(0.5)


def tokens_checked_at_leisure() -> None:
    """Whoever shows a token waits for three seconds, as on a host with too much to do."""
    _check_tokens_in(3.0)


def anonymous_let_in() -> None:
    """Without a token one is let in anywhere."""

    def token_from_request(original: Any, *args: Any) -> Any:
        return original(*args) or "anonymous"

    async def verify_refreshing(
        original: Any, authenticator: Authenticator, token: str
    ) -> Identity:
        if token == "anonymous":
            return Identity("anonymous", "Anonymous", _Everywhere(), 2_000_000_000)
        identity: Identity = await original(authenticator, token)
        return identity

    around(admission, "token_from_request", token_from_request)
    around(Authenticator, "verify_refreshing", verify_refreshing)


def signature_unchecked() -> None:
    """Any signature will do."""
    around(HMACAlgorithm, "verify", lambda *_: True)


def expiry_unchecked() -> None:
    """Tokens never expire."""
    around(PyJWT, "_validate_exp", lambda *_: None)


def workspace_unchecked() -> None:
    """A token opens every workspace."""
    around(admission, "require_workspace", lambda *_: None)


def query_token_ignored() -> None:
    """A token in the address is not looked at."""
    around(
        admission,
        "token_from_request",
        lambda original, headers, query: original(
            headers, {key: value for key, value in query.items() if key != "token"}
        ),
    )


def subprotocol_unanswered() -> None:
    """No subprotocol is chosen, so that browsers drop the connection."""
    around(websocket, "_select_subprotocol", lambda *_: None)


# --- origins ------------------------------------------------------------------------------


def origin_unchecked() -> None:
    """Pages of any origin are let in."""
    around(admission, "check_origin", lambda *_: None)


def cors_for_all() -> None:
    """The GET API lets pages of any origin read its answers."""

    def json_response(original: Any, value: Any, *, origin: str | None = None, **rest: Any) -> Any:
        return original(value, origin="*" if origin else None, **rest)

    around(admission, "json_response", json_response)


def preflight_refused() -> None:
    """OPTIONS is not answered as browsers need it."""
    around(
        admission,
        "preflight_response",
        lambda *_: routes.text_response(b"no such method\n", status=405),
    )


# --- renewal ------------------------------------------------------------------------------


def renewal_with_other_expiry() -> None:
    """The answer to a newer token names another expiry."""

    def change(frame: ServerFrame) -> ServerFrame:
        if isinstance(frame, Authenticated):
            return msgspec.structs.replace(frame, exp=frame.exp - 60)
        return frame

    rewrite_frames(change)


def renewal_refused_closes() -> None:
    """A bad newer token ends the connection."""

    def rewrite(_: LiveRoom, action: Action[Connection]) -> Actions:
        if (
            isinstance(action, ToMember)
            and isinstance(action.frame, Error)
            and action.frame.code is ErrorCode.AUTH_FAILED
        ):
            action.key.close(CloseCode.TOKEN_EXPIRED, "bad token", reason="token_expired")
            return []
        return [action]

    rewrite_actions(rewrite)
