"""What a good token says, and what is answered to a bad one.

Promises: every claim used here has the expected form, and fits a frame, a database and a
terminal; no message of an `AuthError` quotes any part of the token.

Imports nothing of chatservice.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import Any, Final

import msgspec

MAX_NAME: Final = 200
"""The longest user id and the longest name, in characters."""
MAX_EXP: Final = 253_402_300_800
"""The year 10000. A token that expires later counts milliseconds, or means "never"."""


class AuthError(Exception):
    """The client may not. The message is for the client, and quotes nothing of the token.

    `status` is that of the HTTP answer: 401, 403, or 503 where the keys to check with are not to
    be had; `retry_after` (seconds) goes with the last.
    """

    status = 401
    retry_after: float | None = None

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        if status is not None:
            self.status = status


class UnknownKey(AuthError):
    """No known key made this signature; a newer key set may have it."""


class KeysUnavailable(UnknownKey):
    """The key set could not be loaded, so nobody can say whether the token is good."""

    status = 503
    retry_after = 5.0


class Identity(msgspec.Struct, frozen=True):
    """What a good token says. `exp`: when it expires, in seconds since the Unix epoch."""

    user: str
    name: str
    workspaces: frozenset[str]
    exp: int


def identity_from(claims: Mapping[str, Any]) -> Identity:
    """Take the claims used here, each in its expected form.

    Raises:
        AuthError: one is missing or has another form (401).
    """
    exp = claims["exp"]
    if isinstance(exp, bool) or not isinstance(exp, int | float) or not 0 < exp < MAX_EXP:
        raise AuthError("the token's exp must be a number of seconds since 1970")
    user = _text("sub", claims["sub"])
    if not user:
        raise AuthError("the token's sub is empty")
    name = claims.get("name")
    workspaces = claims.get("workspaces")
    if not isinstance(workspaces, list) or not all(isinstance(w, str) for w in workspaces):
        raise AuthError("the token's workspaces must be a list of texts")
    return Identity(
        user=user,
        name=(_text("name", name).strip() if name is not None else "") or user,
        workspaces=frozenset(workspaces),
        exp=int(exp),
    )


def _text(claim: str, value: object) -> str:
    """Take a text that others will see."""
    if not isinstance(value, str):
        raise AuthError(f"the token's {claim} must be a text")
    if len(value) > MAX_NAME:
        raise AuthError(f"the token's {claim} is longer than {MAX_NAME} characters")
    # Cc: control characters. Cs: lone surrogates, which JSON can spell and UTF-8 cannot.
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in value):
        raise AuthError(f"the token's {claim} has characters that are no text")
    return value


def require_workspace(identity: Identity, workspace: str) -> None:
    """Check that the token is for this workspace.

    Raises:
        AuthError: it is not (403).
    """
    if workspace not in identity.workspaces:
        raise AuthError("the token is not for this workspace", status=403)
