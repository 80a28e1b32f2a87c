"""What was seen on a host, as objects. Reading it is pure."""

from __future__ import annotations

import hashlib
import re
from base64 import b64decode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """A directory or a file. `content` is None for what is no regular file."""

    kind: str
    mode: int
    owner: str
    group: str
    content: bytes | None = None


@dataclass(frozen=True)
class Unit:
    """A unit of systemd. `stale`: its file changed since systemd read it."""

    enabled: bool
    active: bool
    stale: bool


@dataclass(frozen=True)
class Seen:
    """One look at a host.

    Attributes:
        system: the distribution and its version, as `debian 12`.
        packages: version of each package that is installed; missing when it is not.
        candidates: version that apt would install.
        users: the entry of each user that exists (passwd(5)).
        places: what lies at each path that exists.
        shipped: the MD5 that dpkg has of a file of /etc as its package brought it.
        units: each unit.
        runs: the services whose unit starts what lies at a path; for the paths asked for.
    """

    system: str
    packages: Mapping[str, str]
    candidates: Mapping[str, str]
    users: Mapping[str, str]
    places: Mapping[str, Place]
    shipped: Mapping[str, str]
    units: Mapping[str, Unit]
    runs: Mapping[str, Sequence[str]]

    def text(self, path: str) -> str | None:
        """Give what a file holds; None where there is none."""
        place = self.places.get(path)
        if place is None or place.content is None:
            return None
        return place.content.decode("utf-8", "replace")

    def as_shipped(self, path: str) -> bool:
        """Say whether a file of /etc is as its package brought it."""
        place = self.places.get(path)
        if place is None or place.content is None:
            return False
        digest = hashlib.md5(place.content, usedforsecurity=False).hexdigest()
        return digest == self.shipped.get(path)

    def version(self, package: str) -> tuple[int, ...]:
        """Give the upstream version of a package, installed or to be; () when apt has none."""
        version = self.packages.get(package) or self.candidates.get(package, "")
        match = re.match(r"(?:\d+:)?(\d+(?:\.\d+)*)", version)
        return tuple(map(int, match[1].split("."))) if match else ()


def parse_look(text: str) -> Seen:
    """Read what `commands/provisioning.look` prints."""
    system = ""
    packages: dict[str, str] = {}
    candidates: dict[str, str] = {}
    users: dict[str, str] = {}
    places: dict[str, Place] = {}
    shipped: dict[str, str] = {}
    units: dict[str, Unit] = {}
    runs: dict[str, list[str]] = {}
    for line in text.splitlines():
        match line.split("\t"):
            case ["os", *words]:
                system = " ".join(words).strip()
            case ["package", name, found]:
                status, _, version = found.partition(" ")
                if status == "installed":
                    packages[name] = version
            case ["candidate", name, version]:
                if version not in ("", "(none)"):
                    candidates[name] = version
            case ["user", name, entry]:
                if entry:
                    users[name] = entry
            case ["path", name, found]:
                _add_place(places, name, found, None)
            case ["file", name, found, content]:
                _add_place(places, name, found, content)
            case ["shipped", name, digest]:
                shipped[name] = digest
            case ["unit", name, enabled, active, stale]:
                units[name] = Unit(
                    enabled.startswith("enabled"),
                    active in ("active", "reloading", "activating"),
                    stale == "yes",
                )
            case ["runs", path, name]:
                runs.setdefault(path, []).append(name)
    return Seen(system, packages, candidates, users, places, shipped, units, runs)


def _add_place(places: dict[str, Place], name: str, found: str, content: str | None) -> None:
    fields: Sequence[str] = found.split("|")
    if len(fields) == 4:
        kind, mode, owner, group = fields
        regular = content is not None and kind.startswith("regular")
        places[name] = Place(
            kind, int(mode, 8), owner, group, b64decode(content or "") if regular else None
        )
