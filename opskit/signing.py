"""What signs tokens: a shared secret, or a private key. Nothing here knows an environment.

A monitoring host is given this file, too, so that its probe signs as opskit does.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from secrets import token_bytes
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

Sign = Callable[..., str]
"""`sign(user=, workspaces=, name=, ttl=)` gives a token; `ttl` in seconds."""
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
KINDS = "an RSA, P-256 or Ed25519 private key in PEM, without a passphrase"


@dataclass(frozen=True)
class Signer:
    """How to make tokens. `bad` makes the same with a key that the service does not know."""

    sign: Sign
    bad: Sign


def with_secret(secret: bytes, issued: Sign) -> Signer:
    """Sign with a shared secret. `issued` is `chatservice.auth.sign` but for the key."""
    return Signer(partial(issued, secret), partial(issued, token_bytes(48)))


def with_key(pem: bytes, issued: Sign, *, kid: str = "") -> Signer:
    """Sign with a private key, and name it where its set does.

    Raises:
        ValueError: it cannot be used; it must be one of `KINDS`.
    """
    key = _load(pem)
    other: PrivateKey
    if isinstance(key, rsa.RSAPrivateKey):
        algorithm, other = "RS256", rsa.generate_private_key(public_exponent=65537, key_size=2048)
    elif isinstance(key, ec.EllipticCurvePrivateKey):
        algorithm, other = "ES256", ec.generate_private_key(ec.SECP256R1())
    else:
        algorithm, other = "EdDSA", ed25519.Ed25519PrivateKey.generate()
    wrong = other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    named = partial(issued, algorithm=algorithm, headers={"kid": kid} if kid else None)
    return Signer(partial(named, pem), partial(named, wrong))


def public_key(pem: bytes) -> dict[str, Any]:
    """Give the public half of a private key, as it stands in a key set (RFC 7517).

    Raises:
        ValueError: it cannot be used; it must be one of `KINDS`.
    """
    key = _load(pem)
    if isinstance(key, rsa.RSAPrivateKey):
        return RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    return OKPAlgorithm.to_jwk(key.public_key(), as_dict=True)


def in_set(jwks: bytes, public: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Give a public key as a key set has it; None where it is not in there."""
    try:
        keys = json.loads(jwks)["keys"]
    except (ValueError, KeyError, TypeError):
        return None
    parts = [name for name in ("kty", "n", "e", "crv", "x", "y") if name in public]
    for key in keys:
        if isinstance(key, dict) and all(key.get(name) == public[name] for name in parts):
            return key
    return None


def key_id(jwks: bytes, public: Mapping[str, Any]) -> str:
    """Give the `kid` of a public key in a key set; empty where it is not in there, or has none."""
    return str((in_set(jwks, public) or {}).get("kid") or "")


def _load(pem: bytes) -> PrivateKey:
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if isinstance(key, rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey):
        return key
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1):
        return key
    raise ValueError(f"it must be {KINDS}")
