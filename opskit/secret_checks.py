"""What each secret must be, checked before anything starts. No message shows any of it.

The checks are the service's and cryptography's own, imported when a secret is there to be checked.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

from opskit.secrets import Secret, SecretRef

_NO_ADDRESS: Final = (
    "is no address like postgresql://USER:PASSWORD@HOST:PORT/NAME (in the password, write / as "
    "%2F, ? as %3F, # as %23, @ as %40 and % as %25)"
)
_SERVER: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^][:@/\s]+)(:[0-9]+)?")


def check_value(name: str, ref: SecretRef, value: Secret) -> None:
    """Check that a secret is what its name says, before anything starts.

    Raises:
        ConfigError: it is not; the message shows nothing of it.
    """
    why = ""
    match name:
        case "jwt_secret" | "jwt_previous_secret":
            why = _shared_secret_fault(value)
        case "jwks":
            why = _jwks_fault(value)
        case "signing_key":
            why = _private_key_fault(value)
        case "database_url":
            why = _address_fault(value)
    if why:
        raise ref.error(why)


def _shared_secret_fault(value: Secret) -> str:
    from chatservice.auth import MIN_SECRET

    if len(value) >= MIN_SECRET:
        return ""
    return (
        f"has {len(value)} bytes; HS256 needs at least {MIN_SECRET} (RFC 7518, 3.2): "
        "`openssl rand -base64 48` makes a good one"
    )


def _jwks_fault(value: Secret) -> str:
    from chatservice.jwks import JwksError, parse_jwks

    try:
        parse_jwks(value)
    except JwksError as error:
        return str(error).replace("auth.secret_file", "jwt_secret")
    return ""


def _private_key_fault(value: Secret) -> str:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        load_pem_private_key(value, None)
    except TypeError:
        return "is encrypted; give the key without a passphrase, for example through command:"
    except (ValueError, UnsupportedAlgorithm):
        return "is no private key in PEM (-----BEGIN PRIVATE KEY-----)"
    return ""


def _address_fault(value: Secret) -> str:
    try:
        parts = urlsplit(value.decode())
    except ValueError:
        return _NO_ADDRESS
    servers = parts.netloc.rpartition("@")[2].split(",")
    known = parts.scheme in ("postgresql", "postgres") and all(map(_SERVER.fullmatch, servers))
    # A password with a bare / ? or # ends the part with the servers; half of it would be shown.
    return "" if known and "@" not in parts.path + parts.query + parts.fragment else _NO_ADDRESS
