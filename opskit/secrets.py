"""Secrets: references in environments.yaml, resolved when they are needed, never shown.

A reference is `env:NAME`, `file:PATH` (relative to environments.yaml), `command:WORDS` (run
without a shell; what it prints is the secret) or, for an environment on this machine,
`generate`. A value lives in a `Secret`, whose text form hides it, so that no log line, exception
or traceback can hold it by accident.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import os
import re
import shlex
import signal
import stat
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from secrets import token_bytes
from typing import Final

from opskit.problems import ConfigError, Problem
from opskit.staging import sync

MAX_BYTES: Final = 65_536
COMMAND_TIMEOUT: Final = 30.0
GENERATED_BYTES: Final = 48
FINGERPRINT_SALT: Final = "fingerprint-salt"
"""The file among an environment's secrets that keys its fingerprints."""


class Secret(bytes):
    """A secret value: bytes that neither `repr`, `str` nor a format string shows."""

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(repr(self), spec)


class Source(StrEnum):
    """Where a secret comes from."""

    ENV = "env"
    FILE = "file"
    COMMAND = "command"
    GENERATE = "generate"


@dataclass(frozen=True)
class SecretRef:
    """Where a secret is to be found. `where` and `key` say in errors who asks for it."""

    source: Source
    target: str = ""
    where: str = ""
    key: str = ""

    @classmethod
    def parse(cls, text: object, *, where: str = "", key: str = "") -> SecretRef:
        """Read a reference.

        Raises:
            ConfigError: it is none. What was written is not quoted: it may be the secret.
        """
        source, colon, target = text.partition(":") if isinstance(text, str) else ("", "", "")
        if source == Source.GENERATE and not colon:
            return cls(Source.GENERATE, "", where, key)
        if source in (Source.ENV, Source.FILE, Source.COMMAND) and target.strip():
            ref = cls(Source(source), target.strip(), where, key)
            if why := ref._malformed():
                raise ref.error(why)
            return ref
        raise ConfigError([Problem(where, key, NO_REFERENCE)])

    def _malformed(self) -> str:
        """Say what is wrong with the reference's target, if anything."""
        if self.source is Source.ENV and not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", self.target):
            return "the name after env: is no name of an environment variable"
        if self.source is Source.COMMAND:
            try:
                shlex.split(self.target)
            except ValueError:
                return "the command after command: has a quotation mark without its other half"
        return ""

    def error(self, why: str) -> ConfigError:
        """Say what is wrong with this secret."""
        return ConfigError([Problem(self.where, self.key, why)])

    def __str__(self) -> str:
        """Give the reference as it stands in environments.yaml."""
        return f"{self.source}:{self.target}" if self.target else self.source


NO_REFERENCE: Final = (
    "is not a reference (what stands there is not shown); never write a secret in this file: "
    "give env:NAME, file:PATH or command:WORDS, or in a local environment generate"
)


def resolve(
    ref: SecretRef,
    base_dir: Path,
    *,
    generated: Path | None = None,
    environ: Mapping[str, str] = os.environ,
    timeout: float = COMMAND_TIMEOUT,
) -> Secret:
    """Fetch a secret's value. Line ends after it are not part of it.

    Args:
        ref: where it is.
        base_dir: what `file:` is relative to, and where a `command:` runs.
        generated: the file that `generate` makes once, and reads from then on.
        environ: where `env:` looks.
        timeout: seconds that a `command:` may take.

    Raises:
        ConfigError: there is none, it is empty, or the file that holds it is open to others.
    """
    match ref.source:
        case Source.ENV:
            if ref.target not in environ:
                raise ref.error(
                    f"the environment variable {ref.target} is not set; set it, or change the "
                    "reference"
                )
            value = os.fsencode(environ[ref.target])
        case Source.FILE:
            value = _read_private(ref, base_dir / Path(ref.target).expanduser())
        case Source.COMMAND:
            value = _run(ref, base_dir, timeout)
        case Source.GENERATE:
            if generated is None:
                raise ref.error(
                    "generate is only for the jwt_secret of a local environment; give env:NAME, "
                    "file:PATH or command:WORDS"
                )
            value = _generate(ref, generated)
    value = value.rstrip(b"\r\n")
    if not value.strip():
        raise ref.error(f"{ref} is empty; {_how_to_fill(ref, generated)}")
    return Secret(value)


def _how_to_fill(ref: SecretRef, generated: Path | None) -> str:
    if ref.source is Source.GENERATE:
        return f"remove {generated} and a new one is made"
    return "`openssl rand -base64 48` makes a good one"


def _read_private(ref: SecretRef, path: Path) -> bytes:
    """Read a file that only its owner may read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ref.error(f"{path} cannot be read: {error.strerror}") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ref.error(f"{path} is not a file")
        if status.st_mode & 0o077:
            raise ref.error(
                f"{path} is open to others (mode {stat.S_IMODE(status.st_mode):04o}); run: "
                f"chmod 600 {shlex.quote(str(path))}"
            )
        if status.st_size > MAX_BYTES:
            raise ref.error(f"{path} has {status.st_size} bytes; a secret has at most {MAX_BYTES}")
        return os.read(descriptor, MAX_BYTES)
    finally:
        os.close(descriptor)


def _run(ref: SecretRef, base_dir: Path, timeout: float) -> bytes:
    """Run a program and give what it prints; its complaints are shown without what it printed."""
    argv = shlex.split(ref.target)
    try:
        process = subprocess.Popen(
            argv,
            cwd=base_dir,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        raise ref.error(f"{argv[0]} cannot be run: {error.strerror}") from None
    with process:
        try:
            value, complaints = process.communicate(timeout=timeout)
        except BaseException as error:
            # Whatever it started dies with it, also when it is our user who loses patience.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                why = f"{argv[0]} took longer than {timeout:g} s"
                said, partly = error.stderr or b"", error.stdout or b""
                raise ref.error(why + _scrubbed(said, partly)) from None
            raise
    if process.returncode:
        why = f"{argv[0]} failed with status {process.returncode}"
        raise ref.error(why + _scrubbed(complaints, value))
    if len(value) > MAX_BYTES:
        raise ref.error(f"{argv[0]} printed {len(value)} bytes; a secret has at most {MAX_BYTES}")
    return value


def _scrubbed(complaints: bytes, value: bytes) -> str:
    """Give a program's last complaints, without any line or word that it printed as the secret."""
    text = complaints.decode(errors="replace")
    for part in sorted({value.strip(), *value.split()}, key=len, reverse=True):
        if len(part) >= 4:
            text = text.replace(part.decode(errors="replace"), "***")
    printable = "".join(char if char.isprintable() else " " for char in text.replace("\n", " | "))
    shown = printable.strip(" |")[-400:]
    return f": {shown}" if shown else "; it gave no reason"


def _generate(ref: SecretRef, path: Path) -> bytes:
    """Make a secret once; whoever comes second reads what the first one made."""
    if not os.path.lexists(path):
        value = base64.b64encode(token_bytes(GENERATED_BYTES)) + b"\n"
        try:
            create_private(path, value)
        except FileExistsError:
            pass
        except OSError as error:
            raise ref.error(f"{path} cannot be made: {error.strerror}") from None
    return _read_private(ref, path)


def create_private(path: Path, content: bytes) -> None:
    """Make a file (0600, in a directory 0700), complete and on disk, or not at all.

    Raises:
        FileExistsError: it is there; it is left as it was.
        OSError: it cannot be made.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.parent.chmod(0o700)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        # A link, unlike a rename, never replaces what somebody else has made meanwhile.
        os.link(temporary, path)
        sync(path.parent)
    finally:
        os.unlink(temporary)


def fingerprint(value: bytes, salt: bytes) -> str:
    """Give 12 hexadecimal digits that tell one secret from another, and nothing else of it.

    Keyed with random bytes that never leave `<root>/secrets`, so that who reads a record of
    deployments cannot even check a guess.
    """
    return hmac.new(salt, value, hashlib.sha256).hexdigest()[:12]
