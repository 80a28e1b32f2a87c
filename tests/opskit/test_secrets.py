"""Secrets are found where their references say, checked, and never shown."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import select
import stat
import subprocess
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from jwt.algorithms import OKPAlgorithm

from opskit.problems import ConfigError
from opskit.secret_checks import check_value
from opskit.secrets import (
    MAX_BYTES,
    Secret,
    SecretRef,
    Source,
    create_private,
    fingerprint,
    resolve,
)

VALUE = "correct-horse-battery-staple-and-more"


def ref(text: str) -> SecretRef:
    return SecretRef.parse(text, where="environments.yaml:9", key="secrets.jwt_secret")


def private(path: Path, content: str | bytes = VALUE, mode: int = 0o600) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    path.chmod(mode)
    return path


def refusal(text: str, base: Path, **options: object) -> str:
    """Give what is said when a secret cannot be had, less where."""
    with pytest.raises(ConfigError) as caught:
        resolve(ref(text), base, **options)  # type: ignore[arg-type]
    shown = "".join(traceback.format_exception(caught.value))
    assert VALUE not in shown
    where, key, why = str(caught.value).split(": ", 2)
    assert (where, key) == ("environments.yaml:9", "secrets.jwt_secret")
    return why


# --- a value ------------------------------------------------------------------------------


def test_a_secret_shows_itself_to_nobody_who_does_not_ask_for_its_bytes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    secret = Secret(VALUE.encode())
    logging.getLogger("test").warning("a %s b %r", secret, secret)
    shown = [
        repr(secret), str(secret), f"{secret}", f"{secret!r}", f"{secret:>20}",
        repr([secret]), repr({"s": secret}), caplog.text,
    ]  # fmt: skip
    assert not [text for text in shown if "horse" in text]
    assert f"{secret:>20}" == "         Secret(***)"
    assert secret.decode() == VALUE
    assert secret == VALUE.encode()


def test_a_secret_stays_out_of_a_traceback_that_shows_locals() -> None:
    def deeper(secret: Secret) -> None:
        raise ValueError(f"not with {secret}")

    with pytest.raises(ValueError, match="not with") as caught:
        deeper(Secret(VALUE.encode()))
    report = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    assert "Secret(***)" in "".join(report.format())
    assert VALUE not in "".join(report.format())


def test_a_pickled_secret_is_still_one() -> None:
    """What a process pool passes on stays hidden."""
    assert type(pickle.loads(pickle.dumps(Secret(b"abc")))) is Secret


# --- references ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "source", "target"),
    [
        ("env:CHAT_JWT_SECRET", Source.ENV, "CHAT_JWT_SECRET"),
        ("file:keys/a b.txt", Source.FILE, "keys/a b.txt"),
        ("command: pass show 'chat/jwt: one' ", Source.COMMAND, "pass show 'chat/jwt: one'"),
        ("generate", Source.GENERATE, ""),
    ],
)
def test_a_reference_is_read_and_written_as_it_stands(
    text: str, source: Source, target: str
) -> None:
    reference = ref(text)
    assert (reference.source, reference.target) == (source, target)
    assert str(reference) == (f"{source}:{target}" if target else text)


# --- env: and file: -----------------------------------------------------------------------


def test_env_reads_a_variable(tmp_path: Path) -> None:
    assert resolve(ref("env:A"), tmp_path, environ={"A": VALUE}) == VALUE.encode()


def test_env_that_is_not_set_or_empty_is_named(tmp_path: Path) -> None:
    assert refusal("env:A", tmp_path, environ={}) == (
        "the environment variable A is not set; set it, or change the reference"
    )
    for empty in ("", "\n", "  \r\n"):
        assert refusal("env:A", tmp_path, environ={"A": empty}) == (
            "env:A is empty; `openssl rand -base64 48` makes a good one"
        )


def test_file_is_relative_and_its_last_line_end_is_no_part_of_the_secret(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    private(tmp_path / "keys/a", " two\nlines \r\n")
    assert resolve(ref("file:keys/a"), tmp_path) == b" two\nlines "


def test_file_may_be_absolute_or_in_the_home_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private(tmp_path / "a")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve(ref(f"file:{tmp_path}/a"), Path("/nowhere")) == VALUE.encode()
    assert resolve(ref("file:~/a"), Path("/nowhere")) == VALUE.encode()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o610, 0o644])
def test_a_file_that_is_open_to_others_is_refused_with_the_command_to_run(
    tmp_path: Path, mode: int
) -> None:
    path = private(tmp_path / "a key", mode=mode)
    why = refusal("file:a key", tmp_path)
    assert why == f"{path} is open to others (mode {mode:04o}); run: chmod 600 '{path}'"
    subprocess.run(why.partition("run: ")[2], shell=True, check=True)
    assert resolve(ref("file:a key"), tmp_path) == VALUE.encode()


def test_what_is_no_readable_file_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    private(tmp_path / "large", b"x" * (MAX_BYTES + 1))
    assert refusal("file:none", tmp_path) == (
        f"{tmp_path}/none cannot be read: No such file or directory"
    )
    assert refusal("file:pipe", tmp_path) == f"{tmp_path}/pipe is not a file"
    assert refusal("file:.", tmp_path) == f"{tmp_path} is not a file"
    assert refusal("file:large", tmp_path) == (
        f"{tmp_path}/large has 65537 bytes; a secret has at most 65536"
    )


# --- command: -----------------------------------------------------------------------------


def program(tmp_path: Path, code: str) -> str:
    """Give the reference to a program of our own."""
    (tmp_path / "program.py").write_text(code)
    return f"command:{sys.executable} program.py"


def test_command_runs_beside_the_file_and_what_it_prints_is_the_secret(tmp_path: Path) -> None:
    text = program(tmp_path, "import os, sys; print(os.getcwd(), sys.argv[1:], sys.stdin.read())")
    found = resolve(ref(f"{text} 'a b' $HOME ; c"), tmp_path)
    assert found.decode() == f"{tmp_path} ['a b', '$HOME', ';', 'c'] "


def test_a_command_that_fails_is_quoted_without_what_it_printed(tmp_path: Path) -> None:
    code = f"import sys; print('{VALUE}'); sys.exit('no key: {VALUE}\\nlocked\\x1b[31m')"
    assert refusal(program(tmp_path, code), tmp_path) == (
        f"{sys.executable} failed with status 1: no key: *** | locked [31m"
    )
    assert refusal(program(tmp_path, "raise SystemExit(3)"), tmp_path) == (
        f"{sys.executable} failed with status 3; it gave no reason"
    )


def test_a_command_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert refusal("command:no-such-program --x", tmp_path) == (
        "no-such-program cannot be run: No such file or directory"
    )


def test_a_command_that_prints_nothing_or_too_much_is_refused(tmp_path: Path) -> None:
    assert refusal("command:true", tmp_path) == (
        "command:true is empty; `openssl rand -base64 48` makes a good one"
    )
    assert refusal("command:head -c 70000 /dev/zero", tmp_path) == (
        "head printed 70000 bytes; a secret has at most 65536"
    )


def test_a_command_that_hangs_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    (tmp_path / "program.sh").write_text(
        f"echo {VALUE}; echo waiting {VALUE} >&2; sleep 600 & echo $! > pid; wait"
    )
    why = refusal("command:sh program.sh", tmp_path, timeout=2.0)
    assert why == "sh took longer than 2 s: waiting ***"
    with contextlib.suppress(ProcessLookupError):
        child = os.pidfd_open(int((tmp_path / "pid").read_text()))
        assert select.select([child], [], [], 30.0)[0] == [child]
        os.close(child)


# --- generate -----------------------------------------------------------------------------


def test_generate_makes_a_long_secret_once_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "dev/secrets/jwt_secret"
    old = os.umask(0)
    try:
        first = resolve(ref("generate"), tmp_path, generated=path)
    finally:
        os.umask(old)
    assert len(first) == 64
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert resolve(ref("generate"), tmp_path, generated=path) == first
    other = tmp_path / "other/jwt_secret"
    assert resolve(ref("generate"), tmp_path, generated=other) != first


def test_a_directory_of_secrets_that_others_can_enter_is_closed(tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir(mode=0o755)
    resolve(ref("generate"), tmp_path, generated=tmp_path / "secrets/jwt_secret")
    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700


def test_many_who_generate_at_once_get_one_secret(tmp_path: Path) -> None:
    path = tmp_path / "secrets/jwt_secret"
    with ThreadPoolExecutor(16) as pool:
        found = list(
            pool.map(lambda _: resolve(ref("generate"), tmp_path, generated=path), range(64))
        )
    assert len(set(found)) == 1
    assert [file.name for file in path.parent.iterdir()] == ["jwt_secret"]


def test_a_generated_file_that_is_empty_is_told_how_to_mend(tmp_path: Path) -> None:
    path = private(tmp_path / "jwt_secret", "")
    assert refusal("generate", tmp_path, generated=path) == (
        f"generate is empty; remove {path} and a new one is made"
    )


def test_generate_without_a_place_is_refused(tmp_path: Path) -> None:
    assert refusal("generate", tmp_path).startswith("generate is only for the jwt_secret of a")


def test_where_nothing_can_be_made_is_named(tmp_path: Path) -> None:
    path = Path("/proc/secrets/jwt_secret")
    assert refusal("generate", tmp_path, generated=path) == (
        f"{path} cannot be made: No such file or directory"
    )


def test_a_private_file_is_never_replaced(tmp_path: Path) -> None:
    path = private(tmp_path / "secrets", "first")
    with pytest.raises(FileExistsError):
        create_private(path, b"second")
    assert path.read_bytes() == b"first"
    assert [file.name for file in tmp_path.iterdir()] == ["secrets"]


# --- what a secret must be ----------------------------------------------------------------


def fault(name: str, value: bytes) -> str:
    """Give what is wrong with a value; nothing is raised where it is good."""
    with pytest.raises(ConfigError) as caught:
        check_value(name, ref("env:A"), Secret(value))
    assert value.decode(errors="replace") not in str(caught.value)
    return caught.value.problems[0].why


def good(name: str, value: bytes) -> None:
    check_value(name, ref("env:A"), Secret(value))


@pytest.mark.parametrize("name", ["jwt_secret", "jwt_previous_secret"])
def test_a_shared_secret_has_at_least_32_bytes(name: str) -> None:
    assert fault(name, b"\xf0" * 31).startswith("has 31 bytes; HS256 needs at least 32 (RFC 7518")
    good(name, b"\xf0" * 32)


def test_a_key_set_is_one_of_public_keys() -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    good("jwks", f'{{"keys": [{OKPAlgorithm.to_jwk(key.public_key())}]}}'.encode())
    assert "is a private key" in fault("jwks", f'{{"keys": [{OKPAlgorithm.to_jwk(key)}]}}'.encode())
    assert fault("jwks", b"keys keys keys keys keys") == "is not JSON"
    assert "has no usable key" in fault("jwks", b'{"keys": []                }')


def test_a_signing_key_is_a_private_key_without_a_passphrase() -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    good("signing_key", pem)
    older = rsa.generate_private_key(65537, 2048).private_bytes(
        Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()
    )
    good("signing_key", older)
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for wrong in (public, b"\xff" * 40, b"0123456789012345678901234567890123456789"):
        assert fault("signing_key", wrong) == (
            "is no private key in PEM (-----BEGIN PRIVATE KEY-----)"
        )
    locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x"))
    assert fault("signing_key", locked).startswith("is encrypted; give the key without a passph")


def test_a_database_url_is_the_address_of_a_postgresql_server() -> None:
    good("database_url", b"postgresql://chat:p%40ss@db.example.net:5432/chat")
    good("database_url", b"postgres://db/chat?sslmode=verify-full")
    good("database_url", b"postgres://chat:x@db1:5432,db2,[::1]:6543/chat")
    for wrong in (b"mysql://db/chat-hunter2", b"db.example.net-hunter2", b"\xff", b"postgres:///x",
                  b"postgresql://[hunter2/x", b"postgresql://chat:hunter2/1@db/chat",
                  b"postgresql://chat:1/hunter2@db/chat", b"postgresql://chat:1?hunter2@db/chat",
                  b"postgresql://db:hunter2/chat"):  # fmt: skip
        assert fault("database_url", wrong) == (
            "is no address like postgresql://USER:PASSWORD@HOST:PORT/NAME (in the password, write "
            "/ as %2F, ? as %3F, # as %23, @ as %40 and % as %25)"
        )


# --- fingerprints -------------------------------------------------------------------------


def test_a_fingerprint_tells_secrets_apart_and_says_nothing_without_the_salt() -> None:
    value = Secret(VALUE.encode())
    assert fingerprint(value, b"salt") == fingerprint(VALUE.encode(), b"salt")
    assert fingerprint(value, b"other") != fingerprint(value, b"salt")
    assert fingerprint(b"x", b"salt") != fingerprint(value, b"salt")
    # As `printf value | openssl dgst -sha256 -hmac salt` begins.
    assert fingerprint(b"value", b"salt") == "aaf15d64f29e"
