"""Tokens for people and for the smoke test, signed as an environment's service wants them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from secrets import token_bytes
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from chatservice.auth import sign
from chatservice.config import AuthSettings
from chatservice.identity import MAX_NAME
from chatservice.routes import WORKSPACE_ID
from opskit.durations import BadDuration, parse_duration
from opskit.environment import SIGNING, Environment
from opskit.failure import Misuse

Sign = Callable[..., str]
"""`sign(user=, workspaces=, name=, ttl=)` gives a token; `ttl` in seconds."""


@dataclass(frozen=True)
class Signer:
    """How to make tokens. `bad` makes the same with a key that the service does not know."""

    sign: Sign
    bad: Sign


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
        return Signer(
            partial(issued, bytes(secrets["jwt_secret"])), partial(issued, token_bytes(48))
        )
    if "signing_key" in secrets:
        return _asymmetric(environment, bytes(secrets["signing_key"]), secrets, issued)
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


def _asymmetric(
    environment: Environment, pem: bytes, secrets: Mapping[str, bytes], issued: Sign
) -> Signer:
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError):
        key = None
    other: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
    if isinstance(key, rsa.RSAPrivateKey):
        algorithm, public = "RS256", RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
        other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    elif isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1):
        algorithm, public = "ES256", ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
        other = ec.generate_private_key(ec.SECP256R1())
    elif isinstance(key, ed25519.Ed25519PrivateKey):
        algorithm, public = "EdDSA", OKPAlgorithm.to_jwk(key.public_key(), as_dict=True)
        other = ed25519.Ed25519PrivateKey.generate()
    else:
        raise Misuse(
            f"{environment.where('secrets', 'signing_key')}: the signing key cannot be used",
            hint="it must be an RSA, P-256 or Ed25519 private key in PEM, without a passphrase",
        )
    wrong = other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    kid = key_id(bytes(secrets.get("jwks", b"")), public)
    with_kid = partial(issued, algorithm=algorithm, headers={"kid": kid} if kid else None)
    return Signer(partial(with_kid, pem), partial(with_kid, wrong))


def key_id(jwks: bytes, public: Mapping[str, Any]) -> str:
    """Give the `kid` of a public key in a key set; empty where it is not in there, or has none."""
    try:
        keys = json.loads(jwks)["keys"]
    except (ValueError, KeyError, TypeError):
        return ""
    parts = [name for name in ("kty", "n", "e", "crv", "x", "y") if name in public]
    for key in keys:
        if isinstance(key, dict) and all(key.get(name) == public[name] for name in parts):
            return str(key.get("kid") or "")
    return ""
