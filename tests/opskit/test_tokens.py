"""Tokens: each kind of key signs what the service takes, and nothing else does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from msgspec.structs import replace

from chatservice.auth import Authenticator
from chatservice.identity import AuthError
from opskit.environment import Environment
from opskit.environments import load_environments
from opskit.failure import Misuse
from opskit.signing import key_id
from opskit.tokens import issue, signer

SECRET = b"a-secret-of-more-than-thirty-two-bytes"


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Environment]:
    def make(secrets: dict[str, str], **auth: str) -> Environment:
        dev = {
            "target": "local",
            "root": "r",
            "secrets": secrets,
            "chat": {"auth": auth, "service": {"port": 9000}},
        }
        file = tmp_path / "environments.yaml"
        file.write_text(json.dumps({"environments": {"dev": dev}}))
        return load_environments(file).get("dev")

    return make


def test_a_shared_secret_signs(make: Callable[..., Environment]) -> None:
    """User, name, workspaces, expiry, issuer and audience are as asked for and configured."""
    environment = make({"jwt_secret": "generate"}, issuer="us", audience="chat")
    sign = signer(environment, {"jwt_secret": SECRET})
    token = sign.sign(user="ada", workspaces=["a", "b"], name="Ada", ttl=60)
    claims = jwt.decode(token, SECRET, algorithms=["HS256"], issuer="us", audience="chat")
    assert (claims["sub"], claims["name"], claims["workspaces"]) == ("ada", "Ada", ["a", "b"])
    assert claims["exp"] - claims["iat"] == 60
    with pytest.raises(jwt.InvalidSignatureError):
        jwt.decode(
            sign.bad(user="ada", workspaces=["a"], ttl=60),
            SECRET,
            algorithms=["HS256"],
            issuer="us",
            audience="chat",
        )


Pair = tuple[bytes, dict[str, str]]


def make_rsa() -> Pair:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return pem_of(key), RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)


def make_p256() -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    return pem_of(key), ECAlgorithm.to_jwk(key.public_key(), as_dict=True)


def make_ed25519() -> Pair:
    key = ed25519.Ed25519PrivateKey.generate()
    return pem_of(key), OKPAlgorithm.to_jwk(key.public_key(), as_dict=True)


def pem_of(key: PrivateKeyTypes) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


KEYS = {"RS256": make_rsa, "ES256": make_p256, "EdDSA": make_ed25519}


@pytest.mark.parametrize("algorithm", KEYS)
def test_a_private_key_signs_what_its_public_key_verifies(
    algorithm: str, make: Callable[..., Environment], tmp_path: Path
) -> None:
    """The service itself, given the key set, takes the token, and not the one of another key."""
    pem, public = KEYS[algorithm]()
    other = KEYS[algorithm]()[1]
    keys = [other | {"kid": "two", "alg": algorithm}, public | {"kid": "one", "alg": algorithm}]
    jwks = json.dumps({"keys": keys})
    environment = make({"jwks": "file:jwks", "signing_key": "file:key"})
    sign = signer(environment, {"jwks": jwks.encode(), "signing_key": pem})
    token = sign.sign(user="ada", workspaces=["a"], ttl=60)
    assert jwt.get_unverified_header(token)["kid"] == "one"
    (tmp_path / "keys.json").write_text(jwks)
    given = replace(environment.settings.auth, jwks_file=str(tmp_path / "keys.json"))
    authenticator = Authenticator.from_settings(given, where="test")
    assert authenticator.verify(token).user == "ada"
    with pytest.raises(AuthError):
        authenticator.verify(sign.bad(user="ada", workspaces=["a"], ttl=60))


def test_nothing_to_sign_with_says_what_to_give(make: Callable[..., Environment]) -> None:
    """With public keys only, opskit cannot make tokens; it says which secret is missing."""
    environment = make({"jwks": "file:jwks"})
    with pytest.raises(Misuse, match="has nothing to sign tokens with") as caught:
        signer(environment, {"jwks": b"{}"})
    assert "signing_key" in caught.value.hint
    assert caught.value.status == 2


def test_a_key_of_another_kind_is_refused(make: Callable[..., Environment]) -> None:
    """The message names the place in environments.yaml, and nothing of the key."""
    environment = make({"jwks": "file:jwks", "signing_key": "file:key"})
    pem = pem_of(ec.generate_private_key(ec.SECP384R1()))
    for bad in (pem, b"-----BEGIN PRIVATE KEY-----\nnonsense\n-----END PRIVATE KEY-----\n"):
        with pytest.raises(Misuse, match=r"environments\.yaml:1: the signing key cannot be used"):
            signer(environment, {"jwks": b"{}", "signing_key": bad})


@pytest.mark.parametrize("jwks", [b"", b"[]", b"{}", b'{"keys": [1]}', b'{"keys": [{}]}'])
def test_a_key_set_without_the_key_gives_no_id(jwks: bytes) -> None:
    """Then the token says none, and the service tries all its keys."""
    assert key_id(jwks, {"kty": "EC", "crv": "P-256", "x": "1", "y": "2"}) == ""


def test_a_token_for_a_person(make: Callable[..., Environment]) -> None:
    """It says where to connect."""
    environment = make({"jwt_secret": "generate"})
    issued = issue(environment, workspaces=["team", "b"], user="ada", name="", ttl="15m")
    assert issued.url == "ws://127.0.0.1:9000/api/chat/workspace/team/connect"
    assert issued.ttl == 900
    assert set(issued.to_json()) == {"token", "user", "name", "workspaces", "ttl_s", "url"}
    secret = environment.resolve_secrets()["jwt_secret"]
    assert jwt.decode(issued.token, bytes(secret), algorithms=["HS256"])["sub"] == "ada"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"workspaces": ["a/b"]}, "--workspace 'a/b': is no workspace id"),
        ({"workspaces": [""]}, "is no workspace id"),
        ({"user": ""}, "--user: expected 1 to 200 characters"),
        ({"name": "x" * 201}, "--name: expected"),
        ({"ttl": "soon"}, "--ttl: 'soon' is no duration"),
    ],
)
def test_a_token_that_nobody_could_use_is_refused(
    make: Callable[..., Environment], change: dict[str, object], message: str
) -> None:
    """With exit status 2, before anything is signed."""
    options: dict[str, object] = {"workspaces": ["a"], "user": "ada", "name": "", "ttl": "1h"}
    with pytest.raises(Misuse, match=message):
        issue(make({"jwt_secret": "generate"}), **(options | change))  # type: ignore[arg-type]
