"""Brings the secrets to the host: 0600, in a directory that no release owns.

What was there before is kept beside each as `.NAME.before` until the act is recorded, so that
undoing (or mending, when opskit died) brings it back. A value travels on standard input only.
"""

from __future__ import annotations

import os
from base64 import b64decode
from collections.abc import Mapping

from opskit.commands import secret_files as commands
from opskit.deploy.act import Act
from opskit.deploy.step import Step
from opskit.secrets import FINGERPRINT_SALT, fingerprint


class Secrets(Step):
    """Writes the secrets that differ from those on the host."""

    name = "secrets"

    def describe(self, act: Act) -> str:
        """Say what the step does."""
        names = ", ".join(act.target.environment.secret_files()) or "none"
        return f"bring the secrets that changed (of: {names})"

    def skip(self, act: Act) -> str:
        """Unchanged ones stay as they are."""
        return "" if act.changed_secrets else "unchanged"

    def apply(self, act: Act) -> str:
        """Write each, keeping the one before."""
        places = act.target.environment.secret_files()
        for name in act.changed_secrets:
            value = act.secrets[name]
            act.target.executor.check(commands.replace(places[name], value + b"\n"))
        return "changed: " + ", ".join(act.changed_secrets)

    def undo(self, act: Act) -> str:
        """Bring the ones before back."""
        return restore(act)


def compare(act: Act) -> None:
    """Find out which secrets differ from those on the host, and fingerprint all of them."""
    there = _on_host(act)
    wanted = {name: bytes(act.secrets[name]) for name in there}
    act.changed_secrets = tuple(name for name in there if there[name] != wanted[name])
    act.fingerprints = _fingerprints(act, wanted)


def fingerprint_those_there(act: Act) -> None:
    """Fingerprint the secrets on the host, which a rollback leaves as they are."""
    act.fingerprints = _fingerprints(act, _on_host(act))


def _on_host(act: Act) -> dict[str, bytes]:
    """Give the secrets as they are on the host; empty for one that is missing."""
    executor = act.target.executor
    return {
        name: b64decode(executor.check(commands.read(path))).removesuffix(b"\n")
        for name, path in act.target.environment.secret_files().items()
    }


def _fingerprints(act: Act, values: Mapping[str, bytes]) -> dict[str, str]:
    path = act.target.layout.secret(FINGERPRINT_SALT)
    made = os.urandom(32).hex().encode() + b"\n"
    salt = act.target.executor.check(commands.make_once(path, made)).strip().encode()
    return {name: fingerprint(value, salt) for name, value in sorted(values.items())}


def restore(act: Act) -> str:
    """Put every secret back that was replaced and not yet discarded."""
    said = act.target.executor.check(commands.restore(act.target.layout.secrets)).split()
    return "brought back: " + ", ".join(said) if said else ""


def discard_backups(act: Act) -> None:
    """Forget the secrets that were replaced."""
    act.target.executor.check(commands.discard(act.target.layout.secrets))
