"""Tokens for people and for the smoke test, signed as an environment's service wants them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from chatservice.auth import sign
from chatservice.config import AuthSettings
from chatservice.identity import MAX_NAME
from chatservice.routes import WORKSPACE_ID
from opskit.durations import BadDuration, parse_duration
from opskit.environment import SIGNING, Environment
from opskit.failure import Misuse
from opskit.signing import KINDS, Signer, key_id, public_key, with_key, with_secret


def signer(
    environment: Environment, secrets: Mapping[str, bytes], auth: AuthSettings | None = None
) -> Signer:
    """Give what signs tokens for an environment.

    Args:
        environment: which.
        secrets: its secrets.
        auth: issuer and audience; those that are configured now unless given.

    Raises:
        Misuse: there is nothing to sign with, or the key cannot be used.
    """
    auth = auth or environment.settings.auth
    issued = partial(sign, issuer=auth.issuer, audience=auth.audience)
    if "jwt_secret" in secrets:
        return with_secret(bytes(secrets["jwt_secret"]), issued)
    if "signing_key" in secrets:
        pem = bytes(secrets["signing_key"])
        try:
            kid = key_id(bytes(secrets.get("jwks", b"")), public_key(pem))
            return with_key(pem, issued, kid=kid)
        except ValueError:
            raise Misuse(
                f"{environment.where('secrets', 'signing_key')}: the signing key cannot be used",
                hint=f"it must be {KINDS}",
            ) from None
    raise Misuse(
        f"{environment.where('secrets')}: environment {environment.name} has nothing to sign "
        "tokens with",
        hint="give secrets.signing_key, the private key (PEM) of one of its public keys",
    )


@dataclass(frozen=True)
class Issued:
    """A token, and what it is good for. `url`: where to connect with it."""

    token: str
    user: str
    name: str
    workspaces: tuple[str, ...]
    ttl: float
    url: str

    def to_json(self) -> dict[str, Any]:
        """Give everything under stable keys."""
        return {
            "token": self.token,
            "user": self.user,
            "name": self.name,
            "workspaces": list(self.workspaces),
            "ttl_s": self.ttl,
            "url": self.url,
        }


def issue(
    environment: Environment, *, workspaces: Sequence[str], user: str, name: str, ttl: str
) -> Issued:
    """Make a token for a person.

    Raises:
        ConfigError: a secret is missing.
        Misuse: the token could not be used, or there is nothing to sign it with.
    """
    for workspace in workspaces:
        if not WORKSPACE_ID.fullmatch(workspace):
            raise Misuse(
                f"--workspace {workspace!r}: is no workspace id; expected 1 to 64 of A-Z a-z 0-9 "
                "and . _ ~ -"
            )
    for option, value in (("--user", user), ("--name", name)):
        if len(value) > MAX_NAME or not (value or option == "--name"):
            raise Misuse(f"{option}: expected 1 to {MAX_NAME} characters")
    try:
        seconds = parse_duration(ttl)
    except BadDuration as error:
        raise Misuse(f"--ttl: {error}") from None
    signs = signer(environment, environment.resolve_secrets(SIGNING))
    try:
        token = signs.sign(user=user, workspaces=list(workspaces), name=name or None, ttl=seconds)
    except ValueError as error:
        raise Misuse(f"{environment.where('secrets')}: {error}") from None
    base = environment.ws_url
    url = f"{base}/api/chat/workspace/{workspaces[0]}/connect" if base else ""
    return Issued(token, user, name, tuple(workspaces), seconds, url)
