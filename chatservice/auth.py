"""Tokens: who may enter which workspace, until when.

Promises: a token is taken only when its signature was made with a configured key and that key's
own algorithm, and it has not expired. What it then says is read in `identity`.

Lifecycle: `Authenticator.from_settings` reads the secret files, `start` loads a key set from its
address and keeps it fresh, `reload` takes rotated files, `close`.

Imports nothing of chatservice but `config`, `identity`, `jwks` and `protocol`.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import jwt
import msgspec
from jwt.algorithms import HMACAlgorithm
from websockets.datastructures import Headers

from chatservice.config import AuthSettings, SettingsError
from chatservice.identity import (
    AuthError,
    Identity,
    KeysUnavailable,
    UnknownKey,
    identity_from,
    require_workspace,
)
from chatservice.jwks import (
    ALGORITHMS,
    JwksError,
    KeySet,
    RemoteKeys,
    VerificationKey,
    parse_jwks,
)
from chatservice.protocol import TOKEN_SUBPROTOCOL_PREFIX

__all__ = [
    "AuthError",
    "Authenticator",
    "Identity",
    "KeysUnavailable",
    "UnknownKey",
    "require_workspace",
    "sign",
    "token_from_request",
]

MAX_TOKEN: Final = 16_384
"""The longest token that is looked at, in characters."""
MIN_SECRET: Final = 32
"""The shortest secret for HS256, in bytes (RFC 7518, 3.2)."""
MAX_FILE: Final = 1_048_576
"""The largest secret or key set file, in bytes."""

_HS256: Final = HMACAlgorithm(HMACAlgorithm.SHA256)


class _Header(msgspec.Struct):
    """What of a token's header is looked at before its signature is."""

    alg: object = None
    kid: str | None = None


class Authenticator:
    """Checks tokens against shared secrets, or against a key set from a file or an address."""

    def __init__(self, settings: AuthSettings, *, where: str = "settings") -> None:
        self._settings = settings
        self._where = where
        self._local: KeySet | None = None
        self._remote: RemoteKeys | None = None
        # PyJWT checks the signature first, then exp, nbf and iat, and sub, aud and iss.
        self._jwt = jwt.PyJWT(
            options={"require": ["exp", "sub"], "enforce_minimum_key_length": True}
        )

    @classmethod
    def from_settings(cls, settings: AuthSettings, *, where: str = "settings") -> Authenticator:
        """Read the secret or key set file that the settings name.

        Args:
            settings: the section `[auth]`.
            where: names the settings file in errors.

        Raises:
            SettingsError: a file cannot be read, a secret is empty or too short, a key set is of
                no use, or `jwks_url` is no http(s) address.
        """
        authenticator = cls(settings, where=where)
        if settings.jwks_url:
            if not _is_address(settings.jwks_url):
                raise SettingsError(
                    where,
                    "auth.jwks_url",
                    "is no address of the form https://host/path (without user and password)",
                )
            authenticator._remote = RemoteKeys(settings.jwks_url, refresh=settings.jwks_refresh)
        authenticator.reload()
        return authenticator

    async def start(self) -> None:
        """Load the key set from its address, where there is one; a failure is logged, retried."""
        if self._remote is not None:
            await self._remote.start()

    async def close(self) -> None:
        """Stop refreshing."""
        if self._remote is not None:
            await self._remote.close()

    def reload(self) -> None:
        """Read the secret and key set files again, for a rotation without a restart.

        Raises:
            SettingsError: a file is unreadable or of no use; what was loaded before stays in use.
        """
        settings = self._settings
        if settings.secret_file:
            secrets = [self._read_secret("auth.secret_file", settings.secret_file)]
            if settings.previous_secret_file:
                key = "auth.previous_secret_file"
                secrets.append(self._read_secret(key, settings.previous_secret_file))
            self._local = KeySet(tuple(VerificationKey(None, "HS256", s) for s in secrets))
        elif settings.jwks_file:
            document = self._read("auth.jwks_file", settings.jwks_file)
            try:
                self._local = parse_jwks(document)
            except JwksError as error:
                why = f"{settings.jwks_file} {error}"
                raise SettingsError(self._where, "auth.jwks_file", why) from None

    def verify(self, token: str) -> Identity:
        """Check a token with the keys at hand.

        Raises:
            UnknownKey: none of these keys made the signature, but newer ones might have.
            AuthError: the token is bad (401).
        """
        if not token:
            raise AuthError("no token was given")
        if len(token) > MAX_TOKEN or not token.isascii():
            raise AuthError("the token is no JWT")
        return identity_from(self._verified_claims(token))

    async def verify_refreshing(self, token: str) -> Identity:
        """Check a token; where its key is unknown, load the key set anew and check again.

        Raises:
            KeysUnavailable: its key is unknown and the key set cannot be loaded (503).
            AuthError: the token is bad (401).
        """
        try:
            return self.verify(token)
        except UnknownKey:
            if self._remote is None:
                raise
        await self._remote.renew()
        return self.verify(token)

    def _verified_claims(self, token: str) -> dict[str, Any]:
        """Check the signature and the registered claims (RFC 7519, 4.1)."""
        header = _peek(token)
        keys = self._remote.keys if self._remote is not None else self._local
        if keys is None:
            raise KeysUnavailable("tokens cannot be checked now; try again later")
        accepted = frozenset({"HS256"}) if self._settings.secret_file else ALGORITHMS
        kid = None if self._settings.secret_file else header.kid
        # The header only chooses among the configured keys: each is used with its own algorithm.
        if not isinstance(header.alg, str) or header.alg not in accepted:
            raise AuthError(f"the token is not signed with {' or '.join(sorted(accepted))}")
        candidates = keys.candidates(kid)
        if not candidates:
            raise self._unknown_key()
        candidates = [key for key in candidates if key.algorithm == header.alg]
        if kid is not None and not candidates:
            raise AuthError("the token's algorithm is not that of its key")
        for key in candidates:
            try:
                return self._jwt.decode(
                    token,
                    key.key,
                    algorithms=[key.algorithm],
                    audience=self._settings.audience or None,
                    issuer=self._settings.issuer or None,
                    leeway=self._settings.leeway,
                )
            except jwt.InvalidSignatureError:
                continue
            except jwt.PyJWTError as error:
                raise AuthError(_explain(error)) from None
        if self._remote is not None and kid is None:
            raise self._unknown_key()
        raise AuthError("the token's signature is wrong")

    def _unknown_key(self) -> UnknownKey:
        if self._remote is not None and not self._remote.fresh:
            return KeysUnavailable("the token's key cannot be looked up now; try again later")
        return UnknownKey("the token is signed with a key that is not known here")

    def _read(self, key: str, path: str) -> bytes:
        try:
            with Path(path).open("rb") as file:
                content = file.read(MAX_FILE + 1)
        except (OSError, ValueError) as error:
            why = f"{path} cannot be read: {getattr(error, 'strerror', None) or error}"
            raise SettingsError(self._where, key, why) from None
        if len(content) > MAX_FILE:
            raise SettingsError(self._where, key, f"{path} is larger than {MAX_FILE} bytes")
        return content

    def _read_secret(self, key: str, path: str) -> bytes:
        """Read a secret, without the one line end that editors and `echo` leave."""
        secret = self._read(key, path).removesuffix(b"\n").removesuffix(b"\r")
        if not secret.strip():
            raise SettingsError(self._where, key, f"{path} is empty")
        if len(secret) < MIN_SECRET:
            raise SettingsError(
                self._where,
                key,
                f"{path} holds {len(secret)} bytes; HS256 needs at least {MIN_SECRET} "
                "(RFC 7518, 3.2); `openssl rand -base64 48` makes a good one",
            )
        try:
            return _HS256.prepare_key(secret)
        except jwt.InvalidKeyError:
            why = f"{path} holds a public or private key, not a shared secret"
            raise SettingsError(self._where, key, why) from None


def _peek(token: str) -> _Header:
    """Read a token's header, to choose keys by it; everything is checked again with the key.

    PyJWT's own way takes the whole token apart, which is a third of the time of verifying it.

    Raises:
        AuthError: there is none.
    """
    try:
        header = base64.urlsafe_b64decode(token.partition(".")[0] + "==")
        return msgspec.json.decode(header, type=_Header)
    except (ValueError, msgspec.DecodeError, RecursionError):
        raise AuthError("the token is no JWT") from None


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return (
            parts.scheme in ("http", "https")
            and bool(parts.hostname)
            and "@" not in parts.netloc
            and parts.port != 0
        )
    except ValueError:  # a port that is no number, a bracket that is not closed
        return False


def _explain(error: jwt.PyJWTError) -> str:
    """Say what PyJWT found, without what it quotes."""
    match error:
        case jwt.ExpiredSignatureError():
            return "the token has expired"
        case jwt.ImmatureSignatureError():
            return "the token is not valid yet (nbf, iat); compare the clocks"
        case jwt.MissingRequiredClaimError():
            return f"the token has no claim {error.claim!r}"
        case jwt.InvalidAudienceError():
            return "the token is for another audience (aud)"
        case jwt.InvalidIssuerError():
            return "the token is from another issuer (iss)"
        case jwt.exceptions.InvalidSubjectError():
            return "the token's sub must be a text"
        case _:
            return "the token is malformed"


def token_from_request(headers: Headers, query: Mapping[str, str]) -> str | None:
    """Find the token of a request, or None.

    `Authorization: Bearer` (RFC 6750, 2.1) comes before the subprotocol pair, and that before
    `?token=`; an `Authorization` of another scheme is a proxy's business and is passed over.
    """
    for value in headers.get_all("Authorization"):
        scheme, _, token = value.strip().partition(" ")
        if scheme.lower() == "bearer" and token.strip():
            return token.strip()
    for value in headers.get_all("Sec-WebSocket-Protocol"):
        for protocol in value.split(","):
            token = protocol.strip()
            if token.startswith(TOKEN_SUBPROTOCOL_PREFIX):
                return token.removeprefix(TOKEN_SUBPROTOCOL_PREFIX) or None
    return query.get("token") or None


def sign(
    secret: str | bytes,
    *,
    user: str,
    workspaces: Iterable[str],
    name: str | None = None,
    ttl: float,
    now: float | None = None,
    issuer: str = "",
    audience: str = "",
    algorithm: str = "HS256",
    headers: Mapping[str, Any] | None = None,
) -> str:
    """Make a token, as an application's own login would.

    Args:
        secret: the shared secret; a private key in PEM for other algorithms than HS256.
        user: the user's id.
        workspaces: where the user may go.
        name: the user's name; left out where None or empty.
        ttl: seconds until it expires.
        now: seconds since the Unix epoch; the present by default.
        issuer: `iss`; left out where empty.
        audience: `aud`; left out where empty.
        algorithm: HS256, RS256, ES256 or EdDSA.
        headers: further header fields, `kid` above all.

    Raises:
        ValueError: the secret is too short, or does not suit the algorithm.
    """
    issued = time.time() if now is None else now
    claims: dict[str, Any] = {
        "sub": user,
        "workspaces": list(workspaces),
        "iat": int(issued),
        "exp": int(issued + ttl),
    }
    optional = {"name": name, "iss": issuer, "aud": audience}
    claims |= {claim: value for claim, value in optional.items() if value}
    signer = jwt.PyJWT(options={"enforce_minimum_key_length": True})
    try:
        return signer.encode(
            claims, secret, algorithm=algorithm, headers=dict(headers) if headers else None
        )
    except (jwt.PyJWTError, TypeError, NotImplementedError) as error:
        raise ValueError(f"no token can be signed with this secret: {error}") from None
