"""Where everything lies on a host, under the root of one environment.

Pure: these are names, not files. Paths are POSIX, whatever machine opskit runs on.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final


class BadVersion(ValueError):
    """A text is not the name of a release."""


PROXY_AUTHORITY: Final = PurePosixPath(
    "/var/lib/caddy/.local/share/caddy/pki/authorities/local/root.crt"
)
"""The authority that Caddy makes for itself where there is no domain to get a certificate for."""


def release_name(number: int) -> str:
    """Give the name of a release, `v12`."""
    return f"v{number}"


def release_number(text: str) -> int:
    """Read `v12` or `12`.

    Raises:
        BadVersion: it is neither.
    """
    if not (match := re.fullmatch(r"v?([1-9][0-9]{0,8})", text.strip())):
        raise BadVersion(f"{text!r} is not a release; expected one like v12 or 12")
    return int(match[1])


@dataclass(frozen=True)
class Layout:
    """The paths of one environment on one host."""

    root: PurePosixPath

    @property
    def releases(self) -> PurePosixPath:
        """The directory of all releases."""
        return self.root / "releases"

    @property
    def layers(self) -> PurePosixPath:
        """The directory of all dependency layers."""
        return self.root / "layers"

    @property
    def current(self) -> PurePosixPath:
        """The symbolic link to the release that shall serve."""
        return self.root / "current"

    @property
    def deployments(self) -> PurePosixPath:
        """The record of deployments."""
        return self.root / "deployments.jsonl"

    @property
    def in_progress(self) -> PurePosixPath:
        """The deployment under way; what a killed opskit leaves behind."""
        return self.root / "in-progress.json"

    @property
    def secrets(self) -> PurePosixPath:
        """The directory of secrets, which no release owns."""
        return self.root / "secrets"

    @property
    def state(self) -> PurePosixPath:
        """The directory of the store, which no release owns."""
        return self.root / "state"

    @property
    def run(self) -> PurePosixPath:
        """The directory of the control socket and the pid file."""
        return self.root / "run"

    @property
    def log(self) -> PurePosixPath:
        """The file that the service logs to, where there is no journal."""
        return self.root / "log" / "chatservice.log"

    @property
    def directories(self) -> tuple[PurePosixPath, ...]:
        """Every directory that a deployment needs, parents first."""
        return (
            self.root,
            self.releases,
            self.layers,
            self.secrets,
            self.state,
            self.run,
            self.log.parent,
        )

    def release(self, number: int) -> PurePosixPath:
        """The directory of one release."""
        return self.releases / release_name(number)

    def incoming(self, number: int) -> PurePosixPath:
        """Where a release lies until it is whole and verified."""
        return self.releases / f".incoming-{release_name(number)}"

    def layer(self, name: str) -> PurePosixPath:
        """The directory of one layer."""
        return self.layers / name

    def incoming_layer(self, name: str) -> PurePosixPath:
        """Where a layer lies until it is whole and verified."""
        return self.layers / f".incoming-{name}"

    def secret(self, name: str) -> PurePosixPath:
        """The file of one secret."""
        return self.secrets / name

    def settings(self, number: int) -> PurePosixPath:
        """The rendered settings of one release."""
        return self.release(number) / "config" / "settings.toml"

    def entry(self, number: int) -> PurePosixPath:
        """The program of one release."""
        return self.release(number) / "run.py"
