"""JSON Web Key Sets (RFC 7517): the public keys that tokens are checked with.

Promises: a key's algorithm follows from the key's own type (RSA: RS256, P-256: ES256, Ed25519:
EdDSA) and from nothing that a token says; symmetric and private keys are never taken; once keys
were loaded, a failure to load newer ones leaves them in use.

Imports nothing of chatservice but `logs`.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import random
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import jwt
import msgspec
from jwt.algorithms import AllowedPublicKeys

from chatservice import logs

log = logs.get_logger("jwks")

MAX_BYTES: Final = 1_048_576
"""The largest document that is read."""
MAX_KEYS: Final = 64
"""The most keys that are taken of one set: without a key id, a token may be tried on each."""
RSA_BITS: Final = 2048
"""The smallest RSA key (RFC 7518, 3.3)."""

_ALGORITHMS: Final = {
    ("RSA", None): "RS256",
    ("EC", "P-256"): "ES256",
    ("OKP", "Ed25519"): "EdDSA",
}
_PUBLIC_MEMBERS: Final = {
    "RSA": ("kty", "n", "e"),
    "EC": ("kty", "crv", "x", "y"),
    "OKP": ("kty", "crv", "x"),
}
ALGORITHMS: Final = frozenset(_ALGORITHMS.values())
"""The algorithms of RFC 7518 and RFC 8037 that a key of a set may have."""


class JwksError(Exception):
    """A key set cannot be loaded, or is of no use. The message is one line."""


class VerificationKey(NamedTuple):
    """One key that verifies signatures, with the only algorithm it is used for.

    A shared secret (bytes) is one too, though no key set ever holds it.
    """

    kid: str | None
    algorithm: str
    key: AllowedPublicKeys | bytes


class KeySet(msgspec.Struct, frozen=True):
    """The usable keys of a set. `ignored` says for each of the others why."""

    keys: tuple[VerificationKey, ...]
    ignored: tuple[str, ...] = ()

    def candidates(self, kid: str | None) -> list[VerificationKey]:
        """Give the keys named `kid`, or all of them for a token that names none."""
        return [key for key in self.keys if kid is None or key.kid == kid]


class _Unusable(Exception):
    """Why one key of a set is ignored."""


def parse_jwks(document: bytes) -> KeySet:
    """Take the usable keys of a key set.

    Keys of other types, for other uses, or with parts missing are ignored, as RFC 7517, section 5,
    asks; so that an issuer may add new kinds.

    Raises:
        JwksError: it is no key set, or none of its keys is usable.
    """
    try:
        content = msgspec.json.decode(document)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise JwksError("is not JSON") from None
    entries = content.get("keys") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise JwksError('is no key set (RFC 7517): expected {"keys": [...]}')
    keys: list[VerificationKey] = []
    ignored: list[str] = []
    for index, entry in enumerate(entries[:MAX_KEYS]):
        try:
            keys.append(_public_key(entry))
        except _Unusable as why:
            ignored.append(f"key {index} {why}")
    if len(entries) > MAX_KEYS:
        ignored.append(f"keys {MAX_KEYS} to {len(entries) - 1} are beyond the limit")
    if not keys:
        raise JwksError("has no usable key: " + ("; ".join(ignored) or "the set is empty"))
    return KeySet(tuple(keys), tuple(ignored))


def _public_key(entry: object) -> VerificationKey:
    """Build one key from its public members."""
    if not isinstance(entry, dict):
        raise _Unusable("is no JSON object")
    kty = str(entry.get("kty"))
    if kty == "oct":
        raise _Unusable("is symmetric; a shared secret belongs in auth.secret_file")
    algorithm = _ALGORITHMS.get((kty, None if kty == "RSA" else str(entry.get("crv"))))
    if algorithm is None:
        raise _Unusable("has an unknown type; known are RSA, EC P-256 and OKP Ed25519")
    if "d" in entry:
        raise _Unusable("is a private key; publish the public part only")
    operations = entry.get("key_ops", ["verify"])
    if entry.get("use", "sig") != "sig" or not (
        isinstance(operations, list) and "verify" in operations
    ):
        raise _Unusable("is not for signatures")
    if entry.get("alg", algorithm) != algorithm:
        raise _Unusable(f"is for another algorithm than {algorithm}")
    kid = entry.get("kid")
    if kid is not None and not isinstance(kid, str):
        raise _Unusable('has a "kid" that is no text')
    members = {name: entry.get(name) for name in _PUBLIC_MEMBERS[kty]}
    if not all(isinstance(value, str) for value in members.values()):
        raise _Unusable(f"lacks one of {', '.join(_PUBLIC_MEMBERS[kty])}")
    try:
        key = jwt.PyJWK(members, algorithm).key
    except (jwt.PyJWTError, ValueError):
        raise _Unusable("has members that make no key") from None
    if kty == "RSA" and key.key_size < RSA_BITS:
        raise _Unusable(f"has {key.key_size} bits; RS256 needs {RSA_BITS} (RFC 7518, 3.3)")
    return VerificationKey(kid, algorithm, key)


# --- over http ----------------------------------------------------------------------------


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect could lead from https to http, or to another host: the operator names both."""

    def redirect_request(self, *_: Any) -> None:
        return None


def shown_url(url: str) -> str:
    """Give the part of an address that may be logged: no password, no query."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}" + (
        f":{parts.port}{parts.path}" if parts.port else parts.path
    )


def fetch_jwks(url: str, *, timeout: float) -> bytes:
    """Read the document at an http(s) address; redirects are not followed. Blocks.

    Args:
        url: where it is.
        timeout: the most seconds that the whole of it may take, give or take one read.

    Raises:
        JwksError: it cannot be had; the message names the address and the reason.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise JwksError("is no http:// or https:// address")
    where = shown_url(url)
    deadline = time.monotonic() + timeout
    document = bytearray()
    request = urllib.request.Request(url, headers={"Accept": "application/json"})  # noqa: S310 - checked
    opener = urllib.request.build_opener(_NoRedirect())
    try:
        with opener.open(request, timeout=timeout) as response:
            while chunk := response.read1(65_536):
                document += chunk
                if len(document) > MAX_BYTES:
                    raise JwksError(f"{where}: is larger than {MAX_BYTES} bytes")
                if time.monotonic() > deadline:
                    raise TimeoutError
    except urllib.error.HTTPError as error:
        with error:
            hint = "; redirects are not followed" if 300 <= error.code < 400 else ""
            raise JwksError(f"{where}: answered {error.code}{hint}") from None
    except TimeoutError:
        raise JwksError(f"{where}: no answer within {timeout:g} s") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise JwksError(f"{where}: {reason}") from None
    return bytes(document)


async def _in_daemon_thread(function: Callable[[], bytes]) -> bytes:
    """Run a blocking function where neither a stuck name look-up nor exit waits for it.

    The loop's own executor would not do: `asyncio.run` joins its threads before it returns.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[bytes] = loop.create_future()

    def settle(result: bytes | Exception) -> None:
        if future.done():
            return
        if isinstance(result, Exception):
            future.set_exception(result)
        else:
            future.set_result(result)

    def run() -> None:
        result: bytes | Exception
        try:
            result = function()
        except Exception as error:
            result = error
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(settle, result)

    threading.Thread(target=run, name="jwks", daemon=True).start()
    return await future


class RemoteKeys:
    """The key set at an address, loaded at start, then periodically, and on demand.

    On demand means at most once in `cooldown` seconds, however many tokens name unknown keys; all
    that ask meanwhile wait for the same load, and then have an answer newer than their question.
    """

    TIMEOUT: Final = 5.0
    """Seconds that one load may take: half of what a handshake may (`timing.handshake`)."""

    def __init__(self, url: str, *, refresh: float, cooldown: float = 5.0) -> None:
        self._url = url
        self._refresh = refresh
        self._cooldown = cooldown
        self._next_on_demand = 0.0
        self._loading = asyncio.Lock()
        self._periodic: asyncio.Task[None] | None = None
        self._on_demand: asyncio.Task[None] | None = None
        self.keys: KeySet | None = None
        """The newest keys, or None until a first load succeeded."""
        self.fresh = False
        """Whether the last load succeeded."""

    async def start(self) -> None:
        """Try a first load, and keep loading from then on. A failure is logged and retried."""
        await self._load()
        self._periodic = asyncio.create_task(self._keep_loading(), name="jwks refresh")

    async def close(self) -> None:
        """Stop loading; the keys stay as they are."""
        for task in (self._periodic, self._on_demand):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        self._periodic = self._on_demand = None

    async def renew(self) -> None:
        """Load now, or as soon as the cooldown allows, together with everybody who asks."""
        if self._on_demand is None or self._on_demand.done():
            self._on_demand = asyncio.create_task(self._renew(), name="jwks renewal")
        await asyncio.wait([self._on_demand])  # who gives up waiting does not end it for others

    async def _renew(self) -> None:
        await asyncio.sleep(self._next_on_demand - time.monotonic())
        self._next_on_demand = time.monotonic() + self._cooldown
        await self._load()

    async def _keep_loading(self) -> None:
        retry = 1.0
        while True:
            # Jitter keeps the processes of many hosts from asking at the same moment.
            wait = self._refresh if self.fresh else min(retry, self._refresh)
            await asyncio.sleep(wait * random.uniform(0.8, 1.0))  # noqa: S311 - no secret
            await self._load()
            retry = 1.0 if self.fresh else min(retry * 2, 30.0)

    async def _load(self) -> None:
        async with self._loading:
            try:
                # The outer limit is for what no socket's timeout covers: looking up the name.
                async with asyncio.timeout(self.TIMEOUT + 1):
                    document = await _in_daemon_thread(
                        lambda: fetch_jwks(self._url, timeout=self.TIMEOUT)
                    )
                keys = parse_jwks(document)
            except (JwksError, TimeoutError) as error:
                self.fresh = False
                log.error(
                    "the key set cannot be loaded",
                    url=shown_url(self._url),
                    why=str(error) or "timed out",
                    kept=len(self.keys.keys) if self.keys else 0,
                )
                return
            if self.keys is None or keys.keys != self.keys.keys:
                log.info("key set loaded", url=shown_url(self._url), keys=len(keys.keys))
                for why in keys.ignored:
                    log.warning("a key of the set is ignored", url=shown_url(self._url), why=why)
            self.keys, self.fresh = keys, True
