"""Tokens are taken when they should be, and for no other reason."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from websockets.datastructures import Headers

from chatservice.auth import (
    MAX_TOKEN,
    Authenticator,
    AuthError,
    Identity,
    UnknownKey,
    require_workspace,
    sign,
    token_from_request,
)
from chatservice.config import AuthSettings, SettingsError

SECRET = "0123456789abcdef0123456789abcdef"
OTHER_SECRET = "fedcba9876543210fedcba9876543210"
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


def claims(**changes: Any) -> dict[str, Any]:
    """Give good claims, changed; None leaves one out."""
    good = {"sub": "ada", "workspaces": ["w1", "w2"], "exp": int(time.time()) + 300}
    return {name: value for name, value in (good | changes).items() if value is not None}


def token(secret: str = SECRET, /, **changes: Any) -> str:
    return jwt.encode(claims(**changes), secret, algorithm="HS256")


def segment(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


Factory = Callable[..., Authenticator]


@pytest.fixture
def authenticator(tmp_path: Path) -> Factory:
    """Make an authenticator with SECRET, unless told otherwise."""

    def make(secret: str = SECRET, **settings: Any) -> Authenticator:
        (tmp_path / "secret").write_text(secret)
        return Authenticator.from_settings(
            AuthSettings(secret_file=str(tmp_path / "secret"), **settings)
        )

    return make


def refusal(authenticator: Authenticator, token: str) -> str:
    """Give the message with which a token is refused; it must be a 401 that quotes nothing."""
    with pytest.raises(AuthError) as caught:
        authenticator.verify(token)
    assert caught.value.status == 401
    assert caught.value.__cause__ is None
    assert not any(len(part) > 7 and part in str(caught.value) for part in token.split("."))
    return str(caught.value)


# --- shared secrets -----------------------------------------------------------------------


def test_a_good_token_gives_the_identity(authenticator: Factory) -> None:
    exp = int(time.time()) + 300
    identity = authenticator().verify(token(name="Ada L.", exp=exp))
    assert identity == Identity(
        user="ada", name="Ada L.", workspaces=frozenset({"w1", "w2"}), exp=exp
    )


def test_sign_makes_a_token_that_verify_takes(authenticator: Factory) -> None:
    now = int(time.time())
    made = sign(SECRET, user="ada", workspaces=("w1",), name="Ada", ttl=60, now=now)
    identity = authenticator().verify(made)
    assert identity == Identity(user="ada", name="Ada", workspaces=frozenset({"w1"}), exp=now + 60)
    assert jwt.decode(made, SECRET, algorithms=["HS256"])["iat"] == now


def test_during_a_rotation_both_secrets_are_good(authenticator: Factory, tmp_path: Path) -> None:
    (tmp_path / "previous").write_text(OTHER_SECRET)
    both = authenticator(previous_secret_file=str(tmp_path / "previous"))
    assert both.verify(token(SECRET)).user == "ada"
    assert both.verify(token(OTHER_SECRET)).user == "ada"
    assert refusal(both, token("x" * 32)) == "the token's signature is wrong"


def test_a_token_of_the_previous_secret_expires_too(authenticator: Factory, tmp_path: Path) -> None:
    (tmp_path / "previous").write_text(OTHER_SECRET)
    both = authenticator(previous_secret_file=str(tmp_path / "previous"))
    assert refusal(both, token(OTHER_SECRET, exp=1)) == "the token has expired"


def test_reload_takes_the_new_secret_and_drops_the_old(
    authenticator: Factory, tmp_path: Path
) -> None:
    reloading = authenticator()
    (tmp_path / "secret").write_text(OTHER_SECRET + "\n")
    assert reloading.verify(token(SECRET)).user == "ada"
    reloading.reload()
    assert reloading.verify(token(OTHER_SECRET)).user == "ada"
    assert refusal(reloading, token(SECRET)) == "the token's signature is wrong"


@pytest.mark.parametrize("breakage", ["missing", "short", "previous"])
def test_a_failing_reload_keeps_what_was_loaded(
    authenticator: Factory, tmp_path: Path, breakage: str
) -> None:
    (tmp_path / "previous").write_text("p" * 32)
    reloading = authenticator(previous_secret_file=str(tmp_path / "previous"))
    if breakage == "missing":
        (tmp_path / "secret").unlink()
    else:
        (tmp_path / "secret").write_text(OTHER_SECRET if breakage == "previous" else "short")
        (tmp_path / "previous").unlink()
    with pytest.raises(SettingsError):
        reloading.reload()
    assert reloading.verify(token(SECRET)).user == "ada"
    assert reloading.verify(token("p" * 32)).user == "ada"


def test_one_line_end_after_the_secret_does_not_count(authenticator: Factory) -> None:
    for ending in ("\n", "\r\n"):
        assert authenticator(SECRET + ending).verify(token(SECRET)).user == "ada"
    spaced = authenticator(SECRET + " \n\n")
    assert spaced.verify(token(SECRET + " \n")).user == "ada"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "is empty"),
        (" \n", "is empty"),
        ("x" * 31 + "\n", "holds 31 bytes; HS256 needs at least 32 (RFC 7518, 3.2)"),
        ("x" * 1_048_577, "is larger than 1048576 bytes"),
    ],
)
def test_a_bad_secret_is_named_and_not_quoted(
    authenticator: Factory, tmp_path: Path, content: str, why: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        authenticator(content)
    assert caught.value.key == "auth.secret_file"
    assert caught.value.why.startswith(f"{tmp_path}/secret {why}")
    assert "xxx" not in str(caught.value)


def test_the_previous_secret_is_checked_like_the_current(
    authenticator: Factory, tmp_path: Path
) -> None:
    (tmp_path / "previous").write_text("short")
    with pytest.raises(SettingsError) as caught:
        authenticator(previous_secret_file=str(tmp_path / "previous"))
    assert caught.value.key == "auth.previous_secret_file"
    assert "holds 5 bytes" in caught.value.why


def test_a_secret_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    settings = AuthSettings(secret_file=str(tmp_path / "none"))
    with pytest.raises(SettingsError) as caught:
        Authenticator.from_settings(settings, where="conf.toml")
    assert str(caught.value) == (
        f"conf.toml: auth.secret_file: {tmp_path}/none cannot be read: No such file or directory"
    )
    with pytest.raises(SettingsError, match="cannot be read: Is a directory"):
        Authenticator.from_settings(AuthSettings(secret_file=str(tmp_path)))
    with pytest.raises(SettingsError, match="cannot be read: embedded null byte"):
        Authenticator.from_settings(AuthSettings(secret_file="a\0b"))


# --- signatures ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def keys() -> dict[str, PrivateKey]:
    """One private key of each kind, by algorithm."""
    return {
        "RS256": rsa.generate_private_key(public_exponent=65537, key_size=2048),
        "ES256": ec.generate_private_key(ec.SECP256R1()),
        "EdDSA": ed25519.Ed25519PrivateKey.generate(),
    }


def jwk(key: PrivateKey, kid: str | None) -> dict[str, Any]:
    """Give the public JWK of a key."""
    public: dict[str, Any]
    if isinstance(key, rsa.RSAPrivateKey):
        public = RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    elif isinstance(key, ec.EllipticCurvePrivateKey):
        public = ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    else:
        public = OKPAlgorithm.to_jwk(key.public_key(), as_dict=True)
    return public | ({} if kid is None else {"kid": kid})


def pem(key: PrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def public_pem(key: PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def with_key_set(tmp_path: Path, *entries: dict[str, Any]) -> Authenticator:
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps({"keys": entries}))
    return Authenticator.from_settings(AuthSettings(jwks_file=str(path)))


def signed(key: PrivateKey, algorithm: str, kid: str | None = "k") -> str:
    return sign(
        pem(key),
        user="ada",
        workspaces=["w1"],
        ttl=60,
        algorithm=algorithm,
        headers={"kid": kid} if kid else None,
    )


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_each_kind_of_key_verifies_its_own_tokens_only(
    tmp_path: Path, keys: dict[str, PrivateKey], algorithm: str
) -> None:
    key = keys[algorithm]
    verifying = with_key_set(tmp_path, jwk(key, "k"))
    assert verifying.verify(signed(key, algorithm)).user == "ada"
    body, signature = signed(key, algorithm).rsplit(".", 1)
    forged = f"{body}.{'A' if signature[0] != 'A' else 'B'}{signature[1:]}"
    assert refusal(verifying, forged) == "the token's signature is wrong"


def test_the_key_is_chosen_by_its_id(tmp_path: Path, keys: dict[str, PrivateKey]) -> None:
    verifying = with_key_set(tmp_path, *(jwk(key, f"id-{name}") for name, key in keys.items()))
    for name, key in keys.items():
        assert verifying.verify(signed(key, name, f"id-{name}")).user == "ada"
    with pytest.raises(UnknownKey):
        verifying.verify(signed(keys["ES256"], "ES256", "id-other"))
    crossed = signed(keys["ES256"], "ES256", "id-RS256")
    assert refusal(verifying, crossed) == "the token's algorithm is not that of its key"


def test_a_token_without_key_id_is_tried_on_every_key(
    tmp_path: Path, keys: dict[str, PrivateKey]
) -> None:
    first, second = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    verifying = with_key_set(tmp_path, jwk(keys["RS256"], "r"), jwk(first, "a"), jwk(second, None))
    for key in (first, second):
        assert verifying.verify(signed(key, "ES256", None)).user == "ada"
    stranger = ec.generate_private_key(ec.SECP256R1())
    assert refusal(verifying, signed(stranger, "ES256", None)) == "the token's signature is wrong"


def test_a_public_key_cannot_pass_for_a_shared_secret(
    tmp_path: Path, keys: dict[str, PrivateKey]
) -> None:
    """The classic confusion: HS256 with the public key, which everybody has, as the secret."""
    key = keys["RS256"]
    body = f"{segment({'alg': 'HS256', 'kid': 'k'})}.{segment(claims())}"
    hs256 = jwt.get_algorithm_by_name("HS256")
    signature = base64.urlsafe_b64encode(hs256.sign(body.encode(), public_pem(key)))
    forged = f"{body}.{signature.decode().rstrip('=')}"
    verifying = with_key_set(tmp_path, jwk(key, "k"))
    assert refusal(verifying, forged) == "the token is not signed with ES256 or EdDSA or RS256"


def test_a_public_key_is_no_secret_file(
    authenticator: Factory, keys: dict[str, PrivateKey]
) -> None:
    with pytest.raises(SettingsError, match="holds a public or private key"):
        authenticator(public_pem(keys["ES256"]).decode())


@pytest.mark.parametrize(
    "algorithm", ["none", "None", "NONE", "HS384", "HS512", "", None, ["HS256"]]
)
def test_no_other_algorithm_is_taken(authenticator: Factory, algorithm: Any) -> None:
    body = f"{segment({'alg': algorithm, 'typ': 'JWT'})}.{segment(claims())}"
    signature = "" if str(algorithm).lower() == "none" else "AAAA"
    assert refusal(authenticator(), f"{body}.{signature}") == "the token is not signed with HS256"


def test_a_longer_hmac_with_the_right_secret_is_refused(authenticator: Factory) -> None:
    secret = SECRET * 2
    made = jwt.encode(claims(), secret, algorithm="HS512")
    assert refusal(authenticator(secret), made) == "the token is not signed with HS256"


def test_claims_cannot_be_exchanged(authenticator: Factory) -> None:
    head, _, signature = token().split(".")
    forged = f"{head}.{segment(claims(sub='root'))}.{signature}"
    assert refusal(authenticator(), forged) == "the token's signature is wrong"


@pytest.mark.parametrize(
    "garbage",
    [
        "x",
        "a.b",
        "a.b.c",
        "a.b.c.d",
        "...",
        "ä.ö.ü",
        "\ud800.x.y",
        f"{segment(['HS256'])}.{segment({})}.AAAA",
        "W10.e30.AAAA",
        f"{base64.urlsafe_b64encode(b'[' * 9000).decode()}.{segment({})}.AAAA",
        f"{segment({'alg': 'HS256', 'kid': 7})}.{segment({})}.AAAA",
        f"{segment({'alg': 'HS256'})}.\ud800.x",
        f"{segment({'alg': 'HS256'})}.{'A' * MAX_TOKEN}.AAAA",
    ],
)
def test_what_is_no_jwt_is_refused(authenticator: Factory, garbage: str) -> None:
    assert refusal(authenticator(), garbage) == "the token is no JWT"


@pytest.mark.parametrize(
    "garbage",
    [
        segment({"alg": "HS256"}),
        f"{segment({'alg': 'HS256'})}.{segment({})}",
        f"{segment({'alg': 'HS256'})}.{segment({})}.AA!A",
        f"!{segment({'alg': 'HS256'})}.{segment({})}.AAAA",
        f"{segment({'alg': 'HS256', 'crit': ['x'], 'x': 1})}.{segment({})}.AAAA",
        f"{segment({'alg': 'HS256', 'b64': False, 'crit': ['b64']})}..AAAA",
    ],
)
def test_what_only_begins_like_a_jwt_is_refused(authenticator: Factory, garbage: str) -> None:
    assert refusal(authenticator(), garbage) == "the token is malformed"


def test_a_token_with_a_payload_that_is_no_object_is_refused(authenticator: Factory) -> None:
    made = jwt.PyJWS().encode(b"[1]", SECRET, algorithm="HS256")
    assert refusal(authenticator(), made) == "the token is malformed"


def test_an_empty_token_says_so(authenticator: Factory) -> None:
    assert refusal(authenticator(), "") == "no token was given"


def test_whatever_comes_is_an_auth_error(tmp_path: Path) -> None:
    """Neither text of any kind nor a header of any shape makes verify fail in another way."""
    (tmp_path / "secret").write_text(SECRET)
    verifying = Authenticator.from_settings(AuthSettings(secret_file=str(tmp_path / "secret")))
    anything = st.recursive(
        st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=20),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["alg", "kid", "crit", "b64", "typ", "x"]), inner)
        ),
        max_leaves=8,
    )
    shaped = st.builds(
        lambda head, body, end: f"{segment(head)}.{segment(body)}.{end}",
        anything,
        anything,
        st.text("AB_-", max_size=8),
    )

    @given(st.text() | shaped)
    def check(text: str) -> None:
        with pytest.raises(AuthError):
            verifying.verify(text)

    check()


# --- registered claims --------------------------------------------------------------------


def test_an_expired_token_is_refused_after_the_leeway(authenticator: Factory) -> None:
    now = int(time.time())
    assert authenticator(leeway=60.0).verify(token(exp=now - 30)).exp == now - 30
    assert refusal(authenticator(leeway=5.0), token(exp=now - 30)) == "the token has expired"


@pytest.mark.parametrize("claim", ["exp", "sub"])
def test_required_claims_are_named_when_missing(authenticator: Factory, claim: str) -> None:
    assert (
        refusal(authenticator(), token(SECRET, **{claim: None}))
        == f"the token has no claim '{claim}'"
    )


def test_a_number_for_a_subject_is_refused(authenticator: Factory) -> None:
    assert refusal(authenticator(), token(sub=7)) == "the token's sub must be a text"


@pytest.mark.parametrize("claim", ["nbf", "iat"])
def test_a_token_from_the_future_is_refused(authenticator: Factory, claim: str) -> None:
    ahead = int(time.time()) + 120
    why = "the token is not valid yet (nbf, iat); compare the clocks"
    assert refusal(authenticator(), token(SECRET, **{claim: ahead})) == why
    assert authenticator(leeway=200.0).verify(token(SECRET, **{claim: ahead})).user == "ada"


def test_issuer_and_audience_are_enforced_where_configured(authenticator: Factory) -> None:
    both = authenticator(issuer="https://id", audience="chat")
    good = {"iss": "https://id", "aud": ["web", "chat"]}
    assert both.verify(token(SECRET, **good)).user == "ada"
    assert both.verify(
        sign(SECRET, user="u", workspaces=[], ttl=9, issuer="https://id", audience="chat")
    )
    assert (
        refusal(both, token(SECRET, **good | {"iss": "x"}))
        == "the token is from another issuer (iss)"
    )
    assert (
        refusal(both, token(SECRET, **good | {"aud": "x"}))
        == "the token is for another audience (aud)"
    )
    assert refusal(both, token(SECRET, **good | {"aud": None})) == "the token has no claim 'aud'"
    assert refusal(both, token(SECRET, **good | {"iss": None})) == "the token has no claim 'iss'"


def test_a_token_for_an_audience_is_refused_where_none_is_configured(
    authenticator: Factory,
) -> None:
    """RFC 7519, 4.1.3: who does not identify itself with the audience must reject the token."""
    made = token(aud="another service")
    assert refusal(authenticator(), made) == "the token is for another audience (aud)"
    assert authenticator().verify(token(iss="anybody")).user == "ada"


# --- the workspace, and where the token is found --------------------------------------------


def test_a_workspace_that_is_not_in_the_token_is_forbidden() -> None:
    identity = Identity(user="ada", name="Ada", workspaces=frozenset({"w1"}), exp=1)
    require_workspace(identity, "w1")
    for other in ("w", "w11", "W1", ""):
        with pytest.raises(AuthError, match="not for this workspace") as caught:
            require_workspace(identity, other)
        assert caught.value.status == 403


@pytest.mark.parametrize(
    ("headers", "query", "found"),
    [
        ([], {}, None),
        ([("Authorization", "Bearer t1")], {}, "t1"),
        ([("authorization", "bEARER   t1 ")], {}, "t1"),
        ([("Authorization", "Basic dTpw")], {}, None),
        ([("Authorization", "Bearer")], {}, None),
        ([("Authorization", "Bearer ")], {"token": "t3"}, "t3"),
        ([("Authorization", "Basic dTpw"), ("Authorization", "Bearer t1")], {}, "t1"),
        ([("Sec-WebSocket-Protocol", "chat.v1, bearer.t.2.x")], {}, "t.2.x"),
        ([("Sec-WebSocket-Protocol", "bearer.t2,chat.v1")], {}, "t2"),
        (
            [("Sec-WebSocket-Protocol", "chat.v1"), ("Sec-WebSocket-Protocol", "bearer.t2")],
            {},
            "t2",
        ),
        ([("Sec-WebSocket-Protocol", "chat.v1, bearer.")], {}, None),
        ([("Sec-WebSocket-Protocol", "chat.v1")], {"token": "t3"}, "t3"),
        ([("Sec-WebSocket-Protocol", "chat.v1, bearer.t2")], {"token": "t3"}, "t2"),
        ([("Sec-WebSocket-Protocol", "bearer.t2"), ("Authorization", "Bearer t1")], {}, "t1"),
        ([], {"token": "t3"}, "t3"),
        ([], {"token": ""}, None),
    ],
)
def test_where_a_token_is_found(
    headers: list[tuple[str, str]], query: dict[str, str], found: str | None
) -> None:
    assert token_from_request(Headers(headers), query) == found


# --- signing ------------------------------------------------------------------------------


def test_sign_leaves_out_what_is_not_given() -> None:
    made = sign(SECRET, user="u", workspaces=["w"], ttl=10, now=1000)
    decoded = jwt.decode(made, options={"verify_signature": False})
    assert decoded == {"sub": "u", "workspaces": ["w"], "iat": 1000, "exp": 1010}
    full = sign(
        SECRET, user="u", workspaces=[], name="N", ttl=1, now=0, issuer="i", audience="a",
        headers={"kid": "k"},
    )  # fmt: skip
    decoded = jwt.decode(full, options={"verify_signature": False})
    assert (decoded["name"], decoded["iss"], decoded["aud"]) == ("N", "i", "a")
    assert jwt.get_unverified_header(full)["kid"] == "k"


@pytest.mark.parametrize(
    ("secret", "algorithm"),
    [("x" * 31, "HS256"), (SECRET, "RS256"), (SECRET, "none"), ("", "HS256")],
)
def test_sign_refuses_what_verify_would_refuse(secret: str, algorithm: str) -> None:
    with pytest.raises(ValueError, match="no token can be signed") as caught:
        sign(secret, user="u", workspaces=[], ttl=1, algorithm=algorithm)
    assert not secret or secret not in str(caught.value)


async def test_without_an_address_refreshing_changes_nothing(
    tmp_path: Path, keys: dict[str, PrivateKey]
) -> None:
    verifying = with_key_set(tmp_path, jwk(keys["ES256"], "k"))
    await verifying.start()
    assert (await verifying.verify_refreshing(signed(keys["ES256"], "ES256"))).user == "ada"
    with pytest.raises(UnknownKey) as caught:
        await verifying.verify_refreshing(signed(keys["ES256"], "ES256", "other"))
    assert caught.value.status == 401
    await verifying.close()


def test_a_key_set_file_is_read_again_on_reload(
    tmp_path: Path, keys: dict[str, PrivateKey]
) -> None:
    verifying = with_key_set(tmp_path, jwk(keys["ES256"], "old"))
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps({"keys": [jwk(keys["EdDSA"], "new")]}))
    verifying.reload()
    assert verifying.verify(signed(keys["EdDSA"], "EdDSA", "new")).user == "ada"
    path.write_text("{}")
    with pytest.raises(SettingsError) as caught:
        verifying.reload()
    assert caught.value.key == "auth.jwks_file"
    assert caught.value.why == f'{path} is no key set (RFC 7517): expected {{"keys": [...]}}'
    assert verifying.verify(signed(keys["EdDSA"], "EdDSA", "new")).user == "ada"


@pytest.mark.parametrize(
    "url",
    ["ftp://host/k", "file:///etc/passwd", "https://", "https:///k", "host/k", "https://u:p@host/k",
     "https://host:99999/k", "https://[::1/k", "http://host:0/k"],
)  # fmt: skip
def test_an_address_must_be_http(url: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Authenticator.from_settings(AuthSettings(jwks_url=url))
    assert caught.value.key == "auth.jwks_url"
