"""Brings the secrets to the host: 0600, in a directory that no release owns.

What was there before is kept beside each as `.NAME.before` until the act is recorded, so that
undoing (or mending, when opskit died) brings it back. A value travels on standard input only.
"""

from __future__ import annotations

import os
from base64 import b64decode
from collections.abc import Mapping

from opskit.commands import secret_files as commands
from opskit.deploy.act import Part
from opskit.deploy.step import Step
from opskit.secrets import FINGERPRINT_SALT, fingerprint


class Secrets(Step):
    """Writes the secrets that differ from those on the host."""

    name = "secrets"

    def describe(self, part: Part) -> str:
        """Say what the step does."""
        names = ", ".join(part.target.environment.secret_files()) or "none"
        return f"bring the secrets that changed (of: {names})"

    def skip(self, part: Part) -> str:
        """Unchanged ones stay as they are."""
        return "" if part.changed_secrets else "unchanged"

    def apply(self, part: Part) -> str:
        """Write each, keeping the one before."""
        places = part.target.environment.secret_files()
        for name in part.changed_secrets:
            value, group = part.act.secrets[name], part.target.supervisor.group
            command = commands.replace(places[name], value + b"\n", group=group)
            part.target.executor.check(command)
        return "changed: " + ", ".join(part.changed_secrets)

    def undo(self, part: Part) -> str:
        """Bring the ones before back."""
        return restore(part)


def compare(part: Part) -> None:
    """Find out which secrets differ from those on the host, and fingerprint all of them."""
    there = _on_host(part)
    wanted = {name: bytes(part.act.secrets[name]) for name in there}
    part.changed_secrets = tuple(name for name in there if there[name] != wanted[name])
    part.fingerprints = _fingerprints(part, wanted)


def fingerprint_those_there(part: Part) -> None:
    """Fingerprint the secrets on the host, which a rollback leaves as they are."""
    part.fingerprints = _fingerprints(part, _on_host(part))


def _on_host(part: Part) -> dict[str, bytes]:
    """Give the secrets as they are on the host; empty for one that is missing."""
    executor = part.target.executor
    return {
        name: b64decode(executor.check(commands.read(path))).removesuffix(b"\n")
        for name, path in part.target.environment.secret_files().items()
    }


def _fingerprints(part: Part, values: Mapping[str, bytes]) -> dict[str, str]:
    path = part.target.layout.secret(FINGERPRINT_SALT)
    made = os.urandom(32).hex().encode() + b"\n"
    salt = part.target.executor.check(commands.make_once(path, made)).strip().encode()
    return {name: fingerprint(value, salt) for name, value in sorted(values.items())}


def restore(part: Part) -> str:
    """Put every secret back that was replaced and not yet discarded."""
    said = part.target.executor.check(commands.restore(part.target.layout.secrets)).split()
    return "brought back: " + ", ".join(said) if said else ""


def discard_backups(part: Part) -> None:
    """Forget the secrets that were replaced."""
    part.target.executor.check(commands.discard(part.target.layout.secrets))
