"""Who is let in, and who is not: tokens, workspaces, origins."""

from __future__ import annotations

import base64
import json
from typing import Any, Final

from chatservice.protocol import SUBPROTOCOL, Authenticate, Authenticated, Error, ErrorCode
from checks.smoke.check import CheckFailed, CheckSkipped, Found, Group, check
from checks.smoke.describe import listed
from checks.smoke.run import TurnedAway
from checks.smoke.stage import Stage

USER: Final = "visitor"
FOREIGN_ORIGIN: Final = "https://smoke-test.invalid"
"""No site can have this address (RFC 2606, 2)."""
EXPIRED_FOR: Final = 3600.0
"""Seconds; more than the leeway that any clock may be given."""
RENEWED_TTL: Final = 1200.0


async def _refused(stage: Stage, status: int, *, token: str | None, workspace: str = "") -> Found:
    """Neither the WebSocket nor the GET API lets this token in; both answer with `status`."""
    where = workspace or stage.workspace
    await _upgrade_refused(stage, status, workspace=where, token=token)
    for place in ("messages", "members"):
        url = stage.api_url(place, where)
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        answer = await stage.run.request("GET", url, **headers)
        if answer.status_code != status:
            raise CheckFailed(f"GET {url} expected {status}, but got {answer.status_code}")
    return Found(f"{status} to the upgrade and to the GET API")


async def _upgrade_refused(stage: Stage, status: int, *, workspace: str, **how: Any) -> None:
    try:
        websocket = await stage.run.upgrade(stage.run.next_node(), workspace, **how)
    except TurnedAway as refusal:
        if refusal.status != status:
            raise CheckFailed(
                f"the upgrade expected to be refused with {status}, but was answered {refusal}"
            ) from None
    else:
        await websocket.close()
        raise CheckFailed(f"the upgrade expected to be refused with {status}, but was let in")


@check(
    "no_token",
    "Without a token nobody is let in (401)",
    look_at="the [auth] section of the settings, and what a proxy in front adds to requests",
)
async def no_token(stage: Stage) -> Found:
    """No token: 401."""
    return await _refused(stage, 401, token=None)


@check(
    "bad_token",
    "A wrongly signed token is refused (401)",
    look_at="auth.secret_file or auth.jwks_file in the settings: which keys are taken",
)
async def bad_token(stage: Stage) -> Found:
    """A signature that no configured key made: 401."""
    token = stage.target.sign_bad(user=USER, workspaces=[stage.workspace], name=USER, ttl=600.0)
    return await _refused(stage, 401, token=token)


@check(
    "expired_token",
    "An expired token is refused (401)",
    look_at="the host's clock, and auth.leeway in the settings",
)
async def expired_token(stage: Stage) -> Found:
    """A token that expired an hour ago: 401."""
    return await _refused(stage, 401, token=stage.token(USER, ttl=-EXPIRED_FOR))


@check(
    "foreign_workspace",
    "A token opens no workspace but its own (403)",
    look_at="the `workspaces` claim of the tokens, and who signs them",
)
async def foreign_workspace(stage: Stage) -> Found:
    """A good token of another workspace: 403."""
    token = stage.token(USER, f"{stage.workspace}-other")
    return await _refused(stage, 403, token=token)


@check(
    "token_carriers",
    "Tokens travel by header, subprotocol and address",
    look_at="whether a proxy in front drops Authorization, Sec-WebSocket-Protocol or the query",
)
async def token_carriers(stage: Stage) -> Found:
    """The three ways in which the contract lets a token travel."""
    for carrier in ("header", "subprotocol", "query"):
        await stage.leave(await stage.join(USER, f"token in the {carrier}", carrier=carrier))
    return Found("header, subprotocol, query")


@check(
    "foreign_origin",
    "A page of a foreign origin is refused (403)",
    look_at="auth.origins in the settings, and whether a proxy in front drops Origin",
)
async def foreign_origin(stage: Stage) -> Found:
    """Cross-site WebSocket hijacking gets 403, however good the token."""
    if not stage.target.origins:
        raise CheckSkipped("this environment allows any origin")
    await _upgrade_refused(
        stage,
        403,
        workspace=stage.workspace,
        token=stage.token(USER),
        carrier="subprotocol",
        origin=FOREIGN_ORIGIN,
    )
    return Found(f"403 to a page of {FOREIGN_ORIGIN}")


@check(
    "allowed_origin",
    "Pages of the allowed origins are let in",
    look_at="auth.origins in the settings: exactly as the browser sends it, port included",
)
async def allowed_origin(stage: Stage) -> Found:
    """Each origin connects as a browser does, with the token in the subprotocol."""
    origins = _origins(stage)
    for origin in origins:
        try:
            websocket = await stage.run.upgrade(
                stage.run.next_node(),
                stage.workspace,
                token=stage.token(USER),
                carrier="subprotocol",
                origin=origin,
            )
        except TurnedAway as refusal:
            raise CheckFailed(
                f"a page of {origin} expected to be let in, but was answered {refusal}"
            ) from None
        chosen = websocket.subprotocol
        await websocket.close()
        if chosen != SUBPROTOCOL:  # a browser fails the connection otherwise
            raise CheckFailed(
                f"a page of {origin} expected the subprotocol {SUBPROTOCOL}, but got {chosen}"
            )
    return Found(listed(origins))


@check(
    "cors",
    "Only pages of allowed origins may read the GET API",
    look_at="auth.origins in the settings, and whether a proxy in front sets CORS headers itself",
)
async def cors(stage: Stage) -> Found:
    """Access-Control-Allow-Origin is exactly the page's origin, and never `*`."""
    url = stage.api_url("messages")
    bearer = f"Bearer {stage.token(USER)}"
    for origin in _origins(stage):
        answer = await stage.run.request("GET", url, Authorization=bearer, Origin=origin)
        if answer.status_code != 200:
            raise CheckFailed(
                f"GET {url} from a page of {origin} expected 200, but got {answer.status_code} "
                f"{answer.text[:200].strip()}"
            )
        _allows(answer.headers.get_list("Access-Control-Allow-Origin"), origin, f"GET {url}")
    if stage.target.origins:
        answer = await stage.run.request("GET", url, Authorization=bearer, Origin=FOREIGN_ORIGIN)
        allowed = answer.headers.get_list("Access-Control-Allow-Origin")
        if "*" in allowed or FOREIGN_ORIGIN in allowed:
            raise CheckFailed(
                f"GET {url} from a page of {FOREIGN_ORIGIN} expected no permission, but got "
                f"Access-Control-Allow-Origin: {', '.join(allowed)}"
            )
    return Found("Access-Control-Allow-Origin names the page's origin")


@check(
    "preflight",
    "A browser's CORS preflight is answered",
    look_at="whether a proxy in front answers OPTIONS itself",
)
async def preflight(stage: Stage) -> Found:
    """OPTIONS is answered with 2xx, and allows GET with Authorization to each allowed origin."""
    url = stage.api_url("members")
    for origin in _origins(stage):
        answer = await stage.run.request(
            "OPTIONS",
            url,
            Origin=origin,
            Access_Control_Request_Method="GET",
            Access_Control_Request_Headers="authorization",
        )
        asked = f"OPTIONS {url} from a page of {origin}"
        if not answer.is_success:
            raise CheckFailed(f"{asked} expected 204, but got {answer.status_code}")
        _allows(answer.headers.get_list("Access-Control-Allow-Origin"), origin, asked)
        for header, wanted in (("Methods", "get"), ("Headers", "authorization")):
            values = answer.headers.get(f"Access-Control-Allow-{header}", "")
            if wanted not in [value.strip().lower() for value in values.split(",")]:
                raise CheckFailed(
                    f"{asked} expected {wanted} in Access-Control-Allow-{header}, but got "
                    f"{values or 'nothing'}"
                )
    return Found("OPTIONS allows GET with Authorization")


def _origins(stage: Stage) -> tuple[str, ...]:
    """Give the allowed origins; where any is allowed, one of them."""
    return stage.target.origins or (FOREIGN_ORIGIN,)


def _allows(values: list[str], origin: str, asked: str) -> None:
    if values != [origin]:
        raise CheckFailed(
            f"{asked} expected Access-Control-Allow-Origin: {origin}, but got "
            f"{', '.join(values) or 'none'}"
        )


@check(
    "renewal",
    "A token is renewed on the open connection",
    look_at="who signs the newer token: it must be for the same user and the same workspace",
)
async def renewal(stage: Stage) -> Found:
    """The answer to a newer token is its own expiry, and the connection goes on."""
    device = await stage.join("renewer")
    token = stage.token("renewer", ttl=RENEWED_TTL)
    mark = len(device.seen)
    await device.put(Authenticate(token))
    answer = await device.answer(Authenticated, "the answer to a newer token", since=mark)
    if not isinstance(answer.frame, Authenticated):
        raise CheckFailed(
            f"{device.name} expected its newer token to be taken, but got "
            f"{answer.frame.code.value} ({answer.frame.message})"
        )
    if answer.frame.exp != (expiry := _expiry_of(token)):
        raise CheckFailed(
            f"{device.name} expected the newer token's expiry {expiry}, but got {answer.frame.exp}"
        )
    await device.newest()
    return Found("the newer expiry is in force, on the same connection")


@check(
    "renewal_refused",
    "A bad token does not renew, and does not disconnect",
    look_at="which keys the [auth] section of the settings takes",
)
async def renewal_refused(stage: Stage) -> Found:
    """A newer token with a wrong signature gets `auth_failed`; the connection goes on."""
    device = await stage.join("renewer", "other device")
    mark = len(device.seen)
    token = stage.target.sign_bad(
        user="renewer", workspaces=[stage.workspace], name="renewer", ttl=RENEWED_TTL
    )
    await device.put(Authenticate(token))
    answer = await device.answer(Authenticated, "the refusal of a bad token", since=mark)
    if not isinstance(answer.frame, Error) or answer.frame.code is not ErrorCode.AUTH_FAILED:
        raise CheckFailed(
            f"{device.name} expected {ErrorCode.AUTH_FAILED.value} for a badly signed token, "
            f"but got {answer.frame}"
        )
    await device.newest()
    return Found("auth_failed, on the same connection")


def _expiry_of(token: str) -> int:
    """Read the expiry of a token that this program signed itself."""
    payload = token.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return int(claims["exp"])


ADMISSION: Final = Group(
    "door",
    Stage,
    (
        no_token,
        bad_token,
        expired_token,
        foreign_workspace,
        token_carriers,
        foreign_origin,
        allowed_origin,
        cors,
        preflight,
        renewal,
        renewal_refused,
    ),
    needs=("answers",),
    at_once=True,
    after="presence",
)
