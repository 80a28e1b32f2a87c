"""Key sets are read as RFC 7517 says, fetched with care, and kept fresh."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from chatservice.auth import Authenticator, AuthError, KeysUnavailable, UnknownKey, sign
from chatservice.config import AuthSettings
from chatservice.jwks import (
    MAX_BYTES,
    MAX_KEYS,
    JwksError,
    RemoteKeys,
    fetch_jwks,
    parse_jwks,
    shown_url,
)
from chatservice.log_format import FIELDS

DEADLINE = 20.0
EC_KEY = ec.generate_private_key(ec.SECP256R1())
ED_KEY = ed25519.Ed25519PrivateKey.generate()
EC: dict[str, Any] = ECAlgorithm.to_jwk(EC_KEY.public_key(), as_dict=True) | {"kid": "ec"}
OKP: dict[str, Any] = OKPAlgorithm.to_jwk(ED_KEY.public_key(), as_dict=True) | {"kid": "ed"}


@pytest.fixture(scope="module")
def rsa_jwk() -> dict[str, Any]:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)


def key_set(*entries: Any) -> bytes:
    return json.dumps({"keys": entries}).encode()


def without(entry: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key != name}


# --- reading ------------------------------------------------------------------------------


def test_each_kind_of_key_gets_its_own_algorithm(rsa_jwk: dict[str, Any]) -> None:
    parsed = parse_jwks(key_set(without(rsa_jwk, "key_ops"), EC, OKP))
    assert [(key.kid, key.algorithm) for key in parsed.keys] == [
        (None, "RS256"),
        ("ec", "ES256"),
        ("ed", "EdDSA"),
    ]
    assert parsed.ignored == ()


def test_matching_declarations_are_taken(rsa_jwk: dict[str, Any]) -> None:
    declared = {"use": "sig", "alg": "RS256", "key_ops": ["verify"], "x5t": "ignored"}
    assert len(parse_jwks(key_set(rsa_jwk | declared)).keys) == 1


def _short_rsa() -> dict[str, Any]:
    # 1024 bits that were never generated: an odd modulus will do for a public key.
    modulus = base64.urlsafe_b64encode(b"\xc1" * 128).rstrip(b"=").decode()
    return {"kty": "RSA", "n": modulus, "e": "AQAB"}


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ("text", "is no JSON object"),
        ({}, "has an unknown type; known are RSA, EC P-256 and OKP Ed25519"),
        ({"kty": ["EC"]}, "has an unknown type; known are RSA, EC P-256 and OKP Ed25519"),
        (EC | {"crv": "P-384"}, "has an unknown type; known are RSA, EC P-256 and OKP Ed25519"),
        (EC | {"crv": ["P-256"]}, "has an unknown type; known are RSA, EC P-256 and OKP Ed25519"),
        (OKP | {"crv": "Ed448"}, "has an unknown type; known are RSA, EC P-256 and OKP Ed25519"),
        (
            {"kty": "oct", "k": "c2VjcmV0"},
            "is symmetric; a shared secret belongs in auth.secret_file",
        ),
        (EC | {"d": "x"}, "is a private key; publish the public part only"),
        (EC | {"use": "enc"}, "is not for signatures"),
        (EC | {"key_ops": ["sign"]}, "is not for signatures"),
        (EC | {"key_ops": "verify"}, "is not for signatures"),
        (EC | {"alg": "HS256"}, "is for another algorithm than ES256"),
        (EC | {"kid": 7}, 'has a "kid" that is no text'),
        (without(EC, "y"), "lacks one of kty, crv, x, y"),
        (EC | {"x": 7}, "lacks one of kty, crv, x, y"),
        (EC | {"x": "AAAA"}, "has members that make no key"),
        (EC | {"x": "ä"}, "has members that make no key"),
        (OKP | {"x": "AAAA"}, "has members that make no key"),
        ({"kty": "RSA", "n": "", "e": ""}, "has members that make no key"),
        (_short_rsa(), "has 1024 bits; RS256 needs 2048 (RFC 7518, 3.3)"),
    ],
)
def test_an_unusable_key_is_passed_over_with_a_reason(entry: Any, why: str) -> None:
    parsed = parse_jwks(key_set(entry, OKP))
    assert [key.kid for key in parsed.keys] == ["ed"]
    assert parsed.ignored == (f"key 0 {why}",)
    with pytest.raises(JwksError) as caught:
        parse_jwks(key_set(entry))
    assert str(caught.value) == f"has no usable key: key 0 {why}"


@pytest.mark.parametrize(
    ("document", "why"),
    [
        (b"", "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b"<html>", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[]", 'is no key set (RFC 7517): expected {"keys": [...]}'),
        (b'{"keys": {}}', 'is no key set (RFC 7517): expected {"keys": [...]}'),
        (b'{"keys": []}', "has no usable key: the set is empty"),
    ],
)
def test_what_is_no_key_set_says_so(document: bytes, why: str) -> None:
    with pytest.raises(JwksError) as caught:
        parse_jwks(document)
    assert str(caught.value) == why


def test_the_number_of_keys_is_bounded() -> None:
    parsed = parse_jwks(key_set(*([OKP] * (MAX_KEYS + 3))))
    assert len(parsed.keys) == MAX_KEYS
    assert parsed.ignored == (f"keys {MAX_KEYS} to {MAX_KEYS + 2} are beyond the limit",)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["kty", "crv", "x", "y", "n", "e", "kid", "alg", "use", "key_ops"]),
            inner,
        )
    ),
    max_leaves=10,
)
_nearly_key = st.builds(
    lambda entry, name, value: entry | {name: value},
    st.sampled_from([EC, OKP, _short_rsa()]),
    st.sampled_from(["kty", "crv", "x", "y", "n", "e", "kid", "alg", "use", "key_ops"]),
    _json,
)


@given(st.lists(_json | _nearly_key, max_size=3))
def test_whatever_a_set_holds_it_is_parsed_or_refused(entries: list[Any]) -> None:
    with suppress(JwksError):
        assert parse_jwks(key_set(*entries)).keys


def test_candidates_are_chosen_by_id_or_all() -> None:
    parsed = parse_jwks(key_set(EC, OKP, EC | {"kid": "ed"}))
    assert [key.algorithm for key in parsed.candidates("ed")] == ["EdDSA", "ES256"]
    assert [key.kid for key in parsed.candidates(None)] == ["ec", "ed", "ed"]
    assert parsed.candidates("none") == []


# --- fetching -----------------------------------------------------------------------------


class KeyServer(ThreadingHTTPServer):
    """Serves `answer`, a function that writes to the request's handler; counts the requests."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _KeyHandler)
        self.answer: Callable[[BaseHTTPRequestHandler], object] = lambda handler: None
        self.requests = 0
        self.url = f"http://127.0.0.1:{self.server_address[1]}/keys"

    def serve(self, document: bytes, status: int = 200, **headers: str) -> None:
        """Answer with this document from now on."""

        def answer(handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(status)
            for name, value in headers.items():
                handler.send_header(name, value)
            handler.send_header("Content-Length", str(len(document)))
            handler.end_headers()
            with suppress(OSError):
                handler.wfile.write(document)

        self.answer = answer

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


class _KeyHandler(BaseHTTPRequestHandler):
    server: KeyServer

    def do_GET(self) -> None:
        self.server.requests += 1
        self.server.answer(self)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def key_server() -> Iterator[KeyServer]:
    with KeyServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def fetch_failure(url: str, timeout: float = DEADLINE) -> str:
    with pytest.raises(JwksError) as caught:
        fetch_jwks(url, timeout=timeout)
    return str(caught.value)


def test_a_document_is_fetched(key_server: KeyServer) -> None:
    key_server.serve(key_set(OKP))
    assert fetch_jwks(key_server.url, timeout=DEADLINE) == key_set(OKP)


def test_a_document_of_the_largest_size_is_fetched_and_no_larger_one(
    key_server: KeyServer,
) -> None:
    key_server.serve(b"x" * MAX_BYTES)
    assert len(fetch_jwks(key_server.url, timeout=DEADLINE)) == MAX_BYTES
    key_server.serve(b"x" * (MAX_BYTES + 1))
    assert fetch_failure(key_server.url) == f"{key_server.url}: is larger than 1048576 bytes"


def test_a_redirect_is_not_followed(key_server: KeyServer) -> None:
    key_server.serve(b"", 302, Location="http://127.0.0.1:9/elsewhere")
    assert fetch_failure(key_server.url) == (
        f"{key_server.url}: answered 302; redirects are not followed"
    )


def test_an_error_status_is_named(key_server: KeyServer) -> None:
    key_server.serve(b"no", 503)
    assert fetch_failure(key_server.url) == f"{key_server.url}: answered 503"


def test_a_server_that_never_answers_times_out(key_server: KeyServer) -> None:
    release = threading.Event()
    key_server.answer = lambda handler: release.wait(DEADLINE)
    assert fetch_failure(key_server.url, 0.2) == f"{key_server.url}: no answer within 0.2 s"
    release.set()


def test_a_server_that_drips_times_out_as_a_whole(key_server: KeyServer) -> None:
    """Each read succeeds in time, so only the deadline over all of them ends it."""
    over = threading.Event()

    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        with suppress(OSError):
            while not over.wait(0.02):
                handler.wfile.write(b" ")

    key_server.answer = drip
    assert fetch_failure(key_server.url, 0.3) == f"{key_server.url}: no answer within 0.3 s"
    over.set()


def test_what_is_no_http_is_reported(key_server: KeyServer) -> None:
    key_server.answer = lambda handler: handler.wfile.write(b"nonsense\r\n\r\n")
    assert fetch_failure(key_server.url).startswith(f"{key_server.url}: nonsense")


def test_nobody_listening_is_reported() -> None:
    assert fetch_failure("http://127.0.0.1:9/k") == (
        "http://127.0.0.1:9/k: [Errno 111] Connection refused"
    )


def test_only_http_is_fetched() -> None:
    assert fetch_failure("file:///etc/hostname") == "is no http:// or https:// address"


def test_the_shown_address_has_no_password_and_no_query() -> None:
    assert shown_url("https://u:pw@id.example:444/a/b?code=x#y") == "https://id.example:444/a/b"
    assert shown_url("http://[::1]:80/k") == "http://[::1]:80/k"


# --- kept fresh ---------------------------------------------------------------------------


def token(kid: str | None, key: Any = EC_KEY, algorithm: str = "ES256") -> str:
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    headers = {"kid": kid} if kid else None
    return sign(pem, user="ada", workspaces=["w"], ttl=60, algorithm=algorithm, headers=headers)


def with_address(server: KeyServer, refresh: float = 3600.0) -> Authenticator:
    return Authenticator.from_settings(AuthSettings(jwks_url=server.url, jwks_refresh=refresh))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not condition():
            await asyncio.sleep(0.005)


async def test_start_loads_the_keys(key_server: KeyServer) -> None:
    key_server.serve(key_set(EC))
    authenticator = with_address(key_server)
    with pytest.raises(KeysUnavailable) as caught:
        authenticator.verify(token("ec"))
    assert (caught.value.status, caught.value.retry_after) == (503, 5.0)
    await authenticator.start()
    assert authenticator.verify(token("ec")).user == "ada"
    assert key_server.requests == 1
    await authenticator.close()


async def test_an_unknown_key_is_fetched_once_for_everybody_who_asks(
    key_server: KeyServer,
) -> None:
    key_server.serve(key_set(OKP))
    authenticator = with_address(key_server)
    await authenticator.start()
    key_server.serve(key_set(OKP, EC))
    with pytest.raises(UnknownKey) as caught:
        authenticator.verify(token("ec"))
    assert caught.value.status == 401
    identities = await asyncio.gather(
        *(authenticator.verify_refreshing(token("ec")) for _ in range(50))
    )
    assert [identity.user for identity in identities] == ["ada"] * 50
    assert key_server.requests == 2
    await authenticator.close()


async def test_a_bad_token_of_a_known_key_fetches_nothing(key_server: KeyServer) -> None:
    key_server.serve(key_set(EC))
    authenticator = with_address(key_server)
    await authenticator.start()
    for bad in (
        token("ec")[:-8] + "AAAAAAAA",
        "x.y.z",
        sign("s" * 32, user="u", workspaces=[], ttl=9),
    ):
        with pytest.raises(AuthError):
            await authenticator.verify_refreshing(bad)
    assert key_server.requests == 1
    await authenticator.close()


async def test_a_rotation_without_key_ids_is_noticed(key_server: KeyServer) -> None:
    key_server.serve(key_set(without(OKP, "kid")))
    authenticator = with_address(key_server)
    await authenticator.start()
    new = ed25519.Ed25519PrivateKey.generate()
    key_server.serve(key_set(OKPAlgorithm.to_jwk(new.public_key(), as_dict=True)))
    assert (await authenticator.verify_refreshing(token(None, new, "EdDSA"))).user == "ada"
    await authenticator.close()


async def test_unknown_keys_cost_the_issuer_one_request_per_cooldown(
    key_server: KeyServer,
) -> None:
    """The second wave waits for the cooldown, and then is answered from newer keys."""
    key_server.serve(key_set(OKP))
    keys = RemoteKeys(key_server.url, refresh=3600.0, cooldown=0.5)
    await keys.start()
    await keys.renew()
    began = time.monotonic()
    key_server.serve(key_set(EC))
    await asyncio.gather(*(keys.renew() for _ in range(20)))
    assert time.monotonic() - began >= 0.4
    assert key_server.requests == 3
    assert keys.keys is not None
    assert [key.kid for key in keys.keys.keys] == ["ec"]
    await keys.close()


async def test_one_caller_who_gives_up_does_not_end_the_load_for_the_others(
    key_server: KeyServer,
) -> None:
    key_server.serve(key_set(OKP))
    authenticator = with_address(key_server)
    await authenticator.start()
    release = threading.Event()

    def slow(handler: BaseHTTPRequestHandler) -> None:
        release.wait(DEADLINE)
        key_server.serve(key_set(EC))
        key_server.answer(handler)

    key_server.answer = slow
    first, second = (
        asyncio.create_task(authenticator.verify_refreshing(token("ec"))) for _ in range(2)
    )
    await until(lambda: key_server.requests == 2)
    first.cancel()
    release.set()
    assert (await second).user == "ada"
    with pytest.raises(asyncio.CancelledError):
        await first
    await authenticator.close()


async def test_a_failing_first_load_is_retried(
    key_server: KeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    key_server.serve(b"", 500)
    authenticator = with_address(key_server)
    await authenticator.start()
    with pytest.raises(KeysUnavailable):
        authenticator.verify(token("ec"))
    with pytest.raises(KeysUnavailable):
        await authenticator.verify_refreshing(token("ec"))
    key_server.serve(key_set(EC))
    await until(lambda: key_server.requests >= 3)  # within a second or two, by itself
    await until(lambda: _knows(authenticator, "ec"))
    await authenticator.close()


def _knows(authenticator: Authenticator, kid: str) -> bool:
    try:
        authenticator.verify(token(kid))
    except AuthError:
        return False
    return True


async def test_the_keys_are_refreshed_periodically(key_server: KeyServer) -> None:
    key_server.serve(key_set(OKP))
    authenticator = with_address(key_server, refresh=0.05)
    await authenticator.start()
    key_server.serve(key_set(EC))
    await until(lambda: _knows(authenticator, "ec"))
    await authenticator.close()
    requests = key_server.requests
    await asyncio.sleep(0.2)
    assert key_server.requests == requests


@pytest.mark.parametrize("breakage", ["status", "garbage", "no keys"])
async def test_a_failing_refresh_keeps_the_keys(key_server: KeyServer, breakage: str) -> None:
    key_server.serve(key_set(EC))
    authenticator = with_address(key_server)
    await authenticator.start()
    if breakage == "status":
        key_server.serve(b"", 500)
    else:
        key_server.serve(b"<html>" if breakage == "garbage" else key_set())
    with pytest.raises(KeysUnavailable) as caught:
        await authenticator.verify_refreshing(token("unknown"))
    assert caught.value.status == 503
    assert authenticator.verify(token("ec")).user == "ada"
    await authenticator.close()


async def test_what_is_loaded_and_what_fails_is_logged_without_secrets(
    key_server: KeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "chatservice.jwks")

    def logged() -> list[tuple[str, dict[str, Any]]]:
        found = [(r.getMessage(), r.__dict__[FIELDS]) for r in caplog.records]
        caplog.clear()
        return found

    key_server.serve(key_set(EC, {"kty": "oct"}))
    keys = RemoteKeys(key_server.url + "?code=canary", refresh=3600.0, cooldown=0.0)
    await keys.start()
    ignored = "key 1 is symmetric; a shared secret belongs in auth.secret_file"
    assert logged() == [
        ("key set loaded", {"url": key_server.url, "keys": 1}),
        ("a key of the set is ignored", {"url": key_server.url, "why": ignored}),
    ]
    await keys.renew()
    assert logged() == []
    key_server.serve(b"", 500)
    await keys.renew()
    why = f"{key_server.url}: answered 500"
    assert logged() == [
        ("the key set cannot be loaded", {"url": key_server.url, "why": why, "kept": 1})
    ]
    await keys.close()


async def test_a_key_that_left_the_set_is_no_longer_good(key_server: KeyServer) -> None:
    key_server.serve(key_set(EC))
    authenticator = with_address(key_server)
    await authenticator.start()
    key_server.serve(key_set(OKP))
    with pytest.raises(UnknownKey):
        await authenticator.verify_refreshing(token("another"))
    with pytest.raises(UnknownKey):
        authenticator.verify(token("ec"))
    await authenticator.close()


async def test_close_does_not_wait_for_a_stuck_server(key_server: KeyServer) -> None:
    key_server.serve(key_set(EC))
    keys = RemoteKeys(key_server.url, refresh=3600.0)
    await keys.start()
    release = threading.Event()
    key_server.answer = lambda handler: release.wait(DEADLINE)
    waiting = asyncio.create_task(keys.renew())
    await until(lambda: key_server.requests == 2)
    began = time.monotonic()
    await keys.close()
    assert time.monotonic() - began < RemoteKeys.TIMEOUT / 2
    await waiting  # told nothing new, but not cancelled: the one who waits was not
    release.set()
