"""Whether a host is who it says it is: its key, against the files of known keys (sshd(8)).

An unknown key is refused, and the person is told how to accept it once; a changed key is refused
loudly. Nothing here ever writes to those files.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import paramiko

from opskit.commands import quote
from opskit.failure import Failure

SYSTEM_FILES = (Path("~/.ssh/known_hosts"), Path("/etc/ssh/ssh_known_hosts"))
"""Where OpenSSH looks, and so does opskit."""


class HostKeyRefused(Failure):
    """The host is not known, or not the one that was known."""


class Refuse(paramiko.MissingHostKeyPolicy):  # type: ignore[misc]  # paramiko has no types
    """Refuses every key that is not known.

    Args:
        host: the host's name for people.
        file: where a person would write the key of one that shall be known.
    """

    def __init__(self, host: str, file: Path) -> None:
        self._host = host
        self._file = file

    def missing_host_key(self, client: Any, hostname: str, key: Any) -> None:
        """Say what to compare, and how to accept exactly this key.

        Raises:
            HostKeyRefused: always.
        """
        raise HostKeyRefused(
            f"{self._host}: its host key is not known yet: {described(key)}",
            hint=f"compare that with what the host itself says (on its console: {_OWN}); "
            f"if it is the same, accept it once with: {accept(hostname, key, self._file)}",
        )


_OWN = "ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub"


def changed(host: str, name: str, key: Any, files: Sequence[Path]) -> HostKeyRefused:
    """Say that a host shows another key than the one that is known.

    Args:
        host: its name for people.
        name: its name in the files of known keys.
        key: what it shows.
        files: the files of known keys.
    """
    holders = [(file, known) for file in files for known in _known(file, name)]
    before = "; ".join(f"{described(known)} in {file}" for file, known in holders)
    forget = " && ".join(
        quote(("ssh-keygen", "-R", name, "-f", str(file)))
        for file in dict.fromkeys(file for file, _ in holders)
    )
    last = holders[-1][0] if holders else files[0]
    return HostKeyRefused(
        f"{host}: ITS HOST KEY HAS CHANGED. Either it was installed anew, or somebody stands "
        f"between you and it. It shows {described(key)}; known is {before}",
        hint="find out which; only if it was installed anew, and shows the same fingerprint on "
        f"its own console ({_OWN}): {forget} && {accept(name, key, last)}",
    )


def described(key: Any) -> str:
    """Give a key as OpenSSH shows it: its kind and its SHA-256 fingerprint."""
    kind = str(key.get_name()).removeprefix("ssh-").removeprefix("ecdsa-sha2-")
    return f"{kind.upper()} {key.fingerprint}"


def accept(name: str, key: Any, file: Path) -> str:
    """Give the command that makes exactly this key known."""
    return f"echo {quote((f'{name} {key.get_name()} {key.get_base64()}',))} >> {file}"


def existing(files: Iterable[Path]) -> list[Path]:
    """Give those files of known keys that are there."""
    return [path for path in (file.expanduser() for file in files) if path.is_file()]


def _known(file: Path, name: str) -> list[Any]:
    keys = paramiko.HostKeys(str(file)).lookup(name)
    return [] if keys is None else list(keys.values())
